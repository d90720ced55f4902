"""What the helper can do: make a namespace, take one over, dial into one. Each leaves it where it was, in its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from terpd.egress.netd import links, listeners, rules, syscalls


class Helper:
    """
    Moves the calling thread into an empty network namespace of its own, at once and for good.

    Raises OSError: EPERM without CAP_SYS_ADMIN.
    """

    def __init__(self) -> None:
        with ExitStack() as undo:
            origin = syscalls.own_network()
            undo.callback(os.close, origin)
            self._origin = _identity(origin)
        syscalls.unshare_network()
        self._home = syscalls.own_network()

    def create(self) -> list[int]:
        """
        Return the descriptors of a new namespace: tap, namespace, tcp, dns_udp, dns_tcp.

        Raises:
            OSError, RulesRefused: Nothing is left behind.
        """
        with ExitStack() as undo:
            syscalls.unshare_network()
            undo.callback(self._return)
            namespace = _undone(undo, syscalls.own_network())
            links.prepare_stack()
            tap = _undone(undo, links.open_tap())
            rules.apply_rules()
            links.bring_up()
            sockets = listeners.open_listeners()
            undo.pop_all()
        self._return()
        return [tap, namespace, *sockets]

    def adopt(self, tap: int) -> list[int]:
        """
        Set the namespace of *tap* up again, and return its descriptors: namespace, tcp, dns_udp, dns_tcp.

        Packets are filtered all the time, by the old rules or by the new.

        Raises:
            ValueError: It is no TAP of a sandbox.
            OSError, RulesRefused: The namespace is as it was.
        """
        with ExitStack() as undo:
            namespace = _undone(undo, links.namespace_of(tap))
            with self._inside(namespace):
                if {name for _, name in socket.if_nameindex()} != {"lo", links.TAP_NAME}:
                    raise ValueError("the descriptor's namespace is no sandbox's: it has other links")
                links.prepare_stack()
                rules.apply_rules(replace=True)
                links.bring_up()
                sockets = listeners.open_listeners()
            undo.pop_all()
        return [namespace, *sockets]

    def connect(self, namespace: int, port: int) -> list[int]:
        """Return a socket that is connecting to the guest. Raises ValueError: no namespace of a sandbox; OSError."""
        with self._inside(namespace):
            return [listeners.dial_guest(port)]

    @contextmanager
    def _inside(self, namespace: int) -> Iterator[None]:
        if _identity(namespace) == self._origin:
            raise ValueError("the descriptor is the host's own network namespace")
        try:
            syscalls.enter_network(namespace)
        except OSError as error:
            raise ValueError("the descriptor is no network namespace") from error
        try:
            yield
        finally:
            self._return()

    def _return(self) -> None:
        try:
            syscalls.enter_network(self._home)
        except OSError as error:  # whatever came next would be done to the wrong namespace
            raise SystemExit(f"The helper cannot get back to its own namespace: {error}") from error


def _undone(undo: ExitStack, fd: int) -> int:
    undo.callback(os.close, fd)
    return fd


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
