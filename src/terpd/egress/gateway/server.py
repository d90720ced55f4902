"""The gateway as a whole: follows terpd's messages until terpd's end is closed."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import structlog

from terpd.egress.gateway import wire
from terpd.egress.gateway.confine import confine
from terpd.egress.gateway.dial import Dialer
from terpd.egress.gateway.outbox import Outbox
from terpd.egress.gateway.sandbox import Sandbox, World
from terpd.egress.policy import Allowed
from terpd.egress.upstream import Upstream
from terpd.model.ids import SandboxId
from terpd.model.network import NetworkSpec

log = structlog.get_logger()

_SWEEP_S = 15.0


async def serve(control: socket.socket, uid: int | None) -> None:
    """
    Serve until terpd is gone, then return without tidying up: the process ends, and all that it held is closed.

    Args:
        uid: What to become as soon as all is read that only root may be able to: code, settings, certificates.

    Raises:
        ValueError: The settings make no sense; the text says which.
    """
    control.setblocking(False)
    inbox = _Inbox(control)
    message, _ = await inbox.next()
    outbox = Outbox(control)
    world = make_world(wire.to_upstream(message["upstream"]), outbox)
    gateway = _Gateway(world, outbox)
    confine(uid)
    sweeping = asyncio.create_task(gateway.sweep())
    outbox.acknowledge({"ready": True})
    try:
        while True:
            message, fds = await inbox.next()
            gateway.follow(message, fds)
    except EOFError:
        sweeping.cancel()


def make_world(upstream: Upstream, outbox: Outbox) -> World:
    trust = ssl.create_default_context()
    trust.set_alpn_protocols(["http/1.1"])
    default = Allowed.parse(upstream.default_domains)
    return World(default, Dialer(upstream), trust, upstream.max_connections, outbox.record)


class _Gateway:
    def __init__(self, world: World, outbox: Outbox) -> None:
        self._world = world
        self._outbox = outbox
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """Do what is said, and say that it is done or why not."""
        sockets = [socket.socket(fileno=fd) for fd in fds]
        ack: dict[str, Any] = {"ack": message["n"]}
        sandbox_id = SandboxId(message["sandbox"])
        try:
            match message["do"]:
                case "admit":
                    self._admit(sandbox_id, sockets, message)
                    sockets = []
                case "update":
                    self._update(sandbox_id, wire.to_network(message["network"]))
                case "dismiss":
                    self._dismiss(sandbox_id, ack)
                    return
        except (ValueError, LookupError, OSError) as error:
            log.warning("not done", act=message["do"], sandbox=message["sandbox"], error=type(error).__name__)
            ack["error"] = str(error)
        for each in sockets:
            each.close()
        self._outbox.acknowledge(ack)

    async def sweep(self) -> None:
        """End connections on which nothing moves."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            for sandbox in list(self._sandboxes.values()):
                sandbox.end_idle()

    def _admit(self, sandbox_id: SandboxId, sockets: Sequence[socket.socket], message: dict[str, Any]) -> None:
        tcp, dns_udp, dns_tcp = sockets
        network, authority = wire.to_network(message["network"]), wire.to_authority(message["authority"])
        sandbox = Sandbox(sandbox_id, tcp, dns_udp, dns_tcp, network, authority, self._world)
        self._dismiss(sandbox_id, None)  # it was admitted before: with other sockets, or in vain
        self._sandboxes[sandbox_id] = sandbox
        sandbox.start()

    def _update(self, sandbox_id: SandboxId, network: NetworkSpec | None) -> None:
        if network is None or sandbox_id not in self._sandboxes:
            raise LookupError("no such sandbox here")
        self._sandboxes[sandbox_id].update(network)

    def _dismiss(self, sandbox_id: SandboxId, ack: dict[str, Any] | None) -> None:
        """Serve it no more, and say so once its connections have ended: nobody else waits for that."""
        closing = asyncio.create_task(self._close(self._sandboxes.pop(sandbox_id, None), ack))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, sandbox: Sandbox | None, ack: dict[str, Any] | None) -> None:
        if sandbox is not None:
            await sandbox.close()
        if ack is not None:
            self._outbox.acknowledge(ack)


class _Inbox:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = asyncio.get_running_loop()

    async def next(self) -> tuple[dict[str, Any], list[int]]:
        """Raises EOFError."""
        while True:
            try:
                return wire.receive(self._control)
            except BlockingIOError:
                readable: asyncio.Future[None] = self._loop.create_future()
                self._loop.add_reader(self._control.fileno(), _set, readable)
                try:
                    await readable
                finally:
                    self._loop.remove_reader(self._control.fileno())
            except ConnectionError as error:
                raise EOFError from error


def _set(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def run(control_fd: int, uid: int | None) -> None:
    """Be the gateway; does not return. Threads that wait for a resolver are not waited for."""
    status = 0
    with socket.socket(fileno=control_fd) as control:
        try:
            asyncio.run(_run(control, uid))
        except ValueError as error:
            log.error("the gateway's settings make no sense", error=str(error))  # noqa: TRY400  the text says it all
            status = 2
    os._exit(status)


async def _run(control: socket.socket, uid: int | None) -> None:
    try:
        await serve(control, uid)
    except EOFError:
        return
    os._exit(0)
