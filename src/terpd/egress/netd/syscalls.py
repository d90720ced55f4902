"""Calls that Python 3.11 does not have: unshare(2) and setns(2) for network namespaces."""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


def unshare_network() -> None:
    """Move the calling thread into a new, empty network namespace. Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNET))


def enter_network(namespace: int) -> None:
    """Move the calling thread into *namespace*. Raises OSError: EINVAL if it is of another kind."""
    _check(_libc.setns(namespace, _CLONE_NEWNET))


def own_network() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
