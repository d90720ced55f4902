"""
What each Python of a template does when it starts; `cpython` puts it into the standard library as sitecustomize.py.

A fork of a guest copies the memory of its programs, and with it the state of their random number generators: all
forks would draw the same numbers. The guest's kernel is given new entropy, and programs that catch signal 63 are sent
it before they go on. This catches it, and renews what the standard library and numpy keep for everybody. A generator
that a program made for itself is its own: nobody knows whether it is meant to repeat.

Imports only what every interpreter has loaded by then: it runs at each start, also in virtual environments.
"""

# ruff: noqa: ARG001, PLC0415, SIM105, SLF001

import sys
from _frozen_importlib import module_from_spec
from _frozen_importlib_external import PathFinder
from _signal import signal  # type: ignore[import-not-found]

TYPE_CHECKING = False  # typing would have to be imported
if TYPE_CHECKING:
    from typing import Any

_SIGNAL = 63  # SIGRTMAX-1; the guest agent's word for "you were forked"
_LOCK_S = 1.0


def _renew_random(random: "Any") -> None:
    random._inst.seed()


def _renew_numpy(mtrand: "Any") -> None:
    # Whoever was interrupted may hold the lock that seeding takes, and waits for us: this thread, in a shuffle.
    lock = mtrand._rand._bit_generator.lock
    if lock.acquire(timeout=_LOCK_S):
        lock.release()
        mtrand._rand.seed()


def _renew_ssl(ssl: "Any") -> None:
    from posix import urandom

    ssl.RAND_add(urandom(32), 32.0)


def _renew_uuid(uuid: "Any") -> None:
    from posix import urandom

    uuid._generate_time_safe = None  # the C library keeps node and sequence where nobody can renew them
    uuid._node = int.from_bytes(urandom(6)) | 1 << 40  # the multicast bit: not the address of any card (RFC 9562, 6.10)


_RENEWALS = {"random": _renew_random, "numpy.random.mtrand": _renew_numpy, "_ssl": _renew_ssl, "uuid": _renew_uuid}


def _renew(number: int, frame: object) -> None:
    for name, renew in _RENEWALS.items():
        module = sys.modules.get(name)
        if module is not None:
            try:
                renew(module)
            except Exception:  # noqa: BLE001, S110  half imported, or another version: not the program's fault
                pass


def _listen() -> None:
    try:
        # Calls that it interrupts are not restarted by the kernel: a main thread that waits for others would not renew
        # anything until they end. Python's own calls go on by themselves (PEP 475).
        signal(_SIGNAL, _renew)
    except (OSError, ValueError):  # an interpreter within another, which may not
        pass


def _run_next() -> None:
    """Run the sitecustomize that would have been found without this one."""
    here = __file__.rpartition("/")[0]
    spec = PathFinder.find_spec(__name__, [entry for entry in sys.path if entry != here])
    if spec is not None and spec.loader is not None:
        module = sys.modules[__name__] = module_from_spec(spec)
        spec.loader.exec_module(module)


_listen()
_run_next()
