"""
The guest agent as the node sees it: one object per machine, one method per call.

Everything a guest says is untrusted. What cannot be true, breaks the protocol or does not come in time is GuestFault;
what a guest refuses is the matching error of the model, with the guest's words quoted.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from terpd.model.errors import GuestFault, InvalidRequest, TerpError
from terpd.model.guest import (
    CommandInfo,
    ExecEvent,
    ExecRequest,
    Extracted,
    FileEvent,
    FileInfo,
    GuestStats,
    LogPage,
    PtySize,
)
from terpd.model.ids import ExecId
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest import archive, commands, environment, execs, files, watch
from terpd.node.guest.ask import ANSWER_S, PING, STALL_S, Silence, answer, ask
from terpd.node.guest.channel import Channel, connect_socket
from terpd.node.guest.faults import bad_reply, quote
from terpd.node.guest.service import ServiceStream

WIRE_VERSION = 1
STATES = frozenset({"booted", "frozen", "awake"})
MAX_VERSION_CHARS = 64
BOOT_ID_BYTES = 16
MAX_FIGURE = 2**63 - 1
MAX_HOSTNAME_CHARS = 64  # HOST_NAME_MAX of Linux

_CHECK_S = 110.0  # of a volume's file system: the agent gives up after 90
_HELLO = wire.Request(hello=wire.Hello(wire_version=WIRE_VERSION))


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the agent said of itself. `boot_id` is equal in all clones of one template."""

    wire_version: int
    agent_version: str
    state: str
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class WakeUp:
    """
    What makes a clone its own.

    Args:
        entropy: 32 to 64 bytes from the host's random source, used for nothing else.
        unix_time_ns: The host's clock now.
        hostname: Empty keeps the guest's.
        machine_id: 16 bytes; empty keeps the guest's.
        env: Replaces the sandbox's environment.
        keep_env: *env* is set over the sandbox's environment instead.
        trust: Certificates in PEM, at most 64 KiB, that the guest's programs trust from now on in place of what an
            earlier wake-up brought. Empty: that stays as it is, if the guest goes on as the same.
        forked: The guest goes on as another than the one that was saved: programs that keep random state of their own
            are told before they run on.
        ephemeral_env: What `freeze` took away.
    """

    entropy: bytes = field(repr=False)
    unix_time_ns: int
    hostname: str = ""
    machine_id: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    keep_env: bool = False
    forked: bool = False
    trust: bytes = b""
    ephemeral_env: Mapping[str, str] = field(default_factory=dict, repr=False)


class GuestClient:
    """
    Get one from `connect`, `connect_and_wake` or `from_socket`; close it when done.

    `lost` is done once the session is over, by `close` too; its result says why. Calls then raise GuestFault.
    """

    def __init__(self, channel: Channel, greeting: Greeting) -> None:
        self._channel = channel
        self.greeting = greeting

    @property
    def lost(self) -> asyncio.Future[GuestFault]:
        return self._channel.lost

    # ---- session

    @classmethod
    async def connect(cls, socket_path: Path, *, fresh: bool, timeout_s: float = ANSWER_S) -> Self:
        """
        Connect and exchange versions, in one round trip.

        Args:
            socket_path: The host's end of the agent channel; may be longer than a socket address.
            fresh: No host was connected to this guest since it was booted or its snapshot was taken.
            timeout_s: For everything together.

        Raises:
            GuestFault: Nobody answers, or answers nonsense. The connection is closed.
        """
        return await cls.from_socket(connect_socket(socket_path), fresh=fresh, timeout_s=timeout_s)

    @classmethod
    async def connect_and_wake(
        cls, socket_path: Path, wake: WakeUp, *, fresh: bool, timeout_s: float = ANSWER_S
    ) -> Self:
        """
        As `connect`, and wake the guest in the same round trip.

        Raises:
            GuestFault: Also when the guest did not confirm. It must not be handed out then.
        """
        return await cls.from_socket(connect_socket(socket_path), fresh=fresh, timeout_s=timeout_s, wake=wake)

    @classmethod
    async def from_socket(
        cls, connection: socket.socket, *, fresh: bool, timeout_s: float = ANSWER_S, wake: WakeUp | None = None
    ) -> Self:
        """As `connect` or, with *wake*, `connect_and_wake` on a socket that is connected already and now owned here."""
        waking = None if wake is None else _wake_request(wake)
        channel = await Channel.attach(connection, fresh=fresh)
        try:
            async with asyncio.timeout(timeout_s):
                calls = [channel.open(_HELLO)] + ([channel.open(waking)] if waking is not None else [])
                await channel.answered()
                greeting = _greeting((await answer(calls[0], timeout_s=timeout_s)).hello)
                for call in calls[1:]:
                    await answer(call, timeout_s=timeout_s)
        except TimeoutError:
            channel.fail("The guest did not answer when it was connected")
            raise Silence("connect", timeout_s) from None
        except BaseException as error:
            channel.fail("The guest did not come up when it was connected")
            if isinstance(error, TerpError) and not isinstance(error, GuestFault):
                raise GuestFault(f"The guest could not be woken: {error.detail}", context=error.context) from error
            raise
        return cls(channel, greeting)

    async def close(self) -> None:
        """End the session. Commands in the guest run on; calls under way raise GuestFault."""
        self._channel.fail("The connection to the guest was closed")

    async def hello(self) -> Greeting:
        """Ask again what `greeting` said at the start; its `state` changes with wake and freeze."""
        reply = await ask(self._channel, _HELLO, timeout_s=ANSWER_S)
        return _greeting(reply.hello)

    async def wake(self, wake: WakeUp, *, timeout_s: float = ANSWER_S) -> int:
        """
        Wake the guest again. Returns what was added to its clock, in ns.

        Raises:
            GuestFault, Unavailable: It is not awake and must not be handed out.
        """
        reply = await ask(self._channel, _wake_request(wake), timeout_s=timeout_s)
        return reply.wake.clock_step_ns

    async def freeze(
        self, *, drop_page_cache: bool, withhold_secrets: bool = False, timeout_s: float = STALL_S
    ) -> Mapping[str, str]:
        """
        Make the guest ready for a snapshot: nothing but hello, ping, wake and freeze is served after it.

        With *withhold_secrets* the agent forgets the variables that were set while it ran, which are returned: whoever
        wakes it gives them back. An agent from before there were any returns none.

        Raises:
            SecretsInUse: With *withhold_secrets*: a command runs that was given secrets. Nothing was done.
            Unavailable: A program did not stop, or a command that is being started does not get on. All runs on.
            GuestFault: Also when the file systems could not be written out. All runs on if the guest does.
        """
        request = wire.Request(freeze=wire.Freeze(drop_page_cache=drop_page_cache, withhold_secrets=withhold_secrets))
        withheld = dict((await ask(self._channel, request, timeout_s=timeout_s)).freeze.ephemeral_env)
        environment.check_variables("freeze", withheld)
        return withheld

    async def attach_volume(self, size_bytes: int) -> None:
        """
        Let the guest take the volume behind its slot, check its file system and mount it at /persist. Idempotent.

        Raises:
            GuestFault: Also when the file system cannot be mounted.
            InvalidRequest, Unavailable: What is behind the slot is not of that size, or there is no slot.
        """
        request = wire.Request(volume_attach=wire.VolumeAttach(size_bytes=size_bytes))
        await ask(self._channel, request, timeout_s=_CHECK_S)

    async def detach_volume(self, *, timeout_s: float) -> None:
        """Let the guest write the volume out and unmount it. Idempotent. Raises GuestFault."""
        await ask(self._channel, wire.Request(volume_detach=wire.VolumeDetach()), timeout_s=timeout_s)

    async def ping(self, *, timeout_s: float = ANSWER_S) -> None:
        """Raises GuestFault unless the guest answers in time."""
        await ask(self._channel, PING, timeout_s=timeout_s)

    async def stats(self, *, timeout_s: float = ANSWER_S) -> GuestStats:
        """What the guest says it uses. For show, never for accounting: a guest may lie."""
        reply = (await ask(self._channel, wire.Request(stats=wire.Stats()), timeout_s=timeout_s)).stats
        figures = {name: int(getattr(reply, name)) for name in GuestStats.__slots__}
        if any(figure > MAX_FIGURE for figure in figures.values()):
            raise bad_reply("stats", f"figures above {MAX_FIGURE}")
        return GuestStats(**figures)

    # ---- commands; as the methods of the Node port
    # When the session ends, a command that is being read goes on, and is held back before output is lost, until
    # `attach` from there or before, or for 10 s in which the guest is not frozen. When `freeze` has returned, all that
    # was sent has arrived here: `attach` from behind what was received, with the same stdin, goes on without a gap. A
    # command whose `exec` began before `freeze` is there to be attached to.

    def exec(self, request: ExecRequest) -> AsyncIterator[ExecEvent]:
        return execs.run(self._channel, request)

    def attach(self, exec_id: ExecId, offset: int, *, stdin: bytes | None = None) -> AsyncIterator[ExecEvent]:
        return execs.attach(self._channel, exec_id, offset, stdin=stdin)

    async def signal(self, exec_id: ExecId, signal: int) -> None:
        await execs.send_signal(self._channel, exec_id, signal)

    async def list_commands(self) -> Sequence[CommandInfo]:
        return await commands.entries(self._channel)

    async def read_log(self, exec_id: ExecId, offset: int, limit: int) -> LogPage:
        return await commands.read_log(self._channel, exec_id, offset, limit)

    async def send_input(self, exec_id: ExecId, data: bytes, *, offset: int | None = None, close: bool = False) -> int:
        return await commands.send_input(self._channel, exec_id, data, offset=offset, close=close)

    async def resize_pty(self, exec_id: ExecId, size: PtySize) -> None:
        await commands.resize_pty(self._channel, exec_id, size)

    # ---- environment; as the methods of the Node port

    async def change_env(self, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
        await environment.change(self._channel, to_set, to_unset)

    async def env_names(self) -> Sequence[str]:
        return await environment.names(self._channel)

    def connect_service(self, name: str) -> ServiceStream:
        """A byte stream to a program that listens on /run/terp/NAME.sock, opened by entering it; see there."""
        return ServiceStream(self._channel, name)

    # ---- files; as the methods of the Node port

    def read_file(self, path: str, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        return files.read(self._channel, path, offset=offset, limit=limit)

    def open_file(
        self, path: str, *, offset: int = 0, limit: int | None = None
    ) -> AsyncGenerator[FileInfo | bytes, None]:
        return files.open_file(self._channel, path, offset=offset, limit=limit)

    async def write_file(self, path: str, chunks: AsyncIterator[bytes], mode: int) -> int:
        return await files.write(self._channel, path, chunks, mode)

    def watch_files(self, path: str, *, recursive: bool) -> AsyncGenerator[FileEvent, None]:
        return watch.watch(self._channel, path, recursive=recursive)

    def read_archive(self, path: str) -> AsyncGenerator[bytes, None]:
        return archive.read(self._channel, path)

    async def write_archive(self, path: str, chunks: AsyncIterator[bytes]) -> Extracted:
        return await archive.write(self._channel, path, chunks)

    async def list_files(self, path: str) -> Sequence[FileInfo]:
        return await files.entries(self._channel, path)

    async def stat_file(self, path: str, *, follow: bool = True) -> FileInfo | None:
        return await files.stat(self._channel, path, follow=follow)

    async def make_directory(self, path: str, *, parents: bool) -> None:
        await files.mkdir(self._channel, path, parents=parents)

    async def move_file(self, source: str, destination: str) -> None:
        await files.move(self._channel, source, destination)

    async def remove_file(self, path: str, *, recursive: bool) -> None:
        await files.remove(self._channel, path, recursive=recursive)


def _wake_request(wake: WakeUp) -> wire.Request:
    if not 32 <= len(wake.entropy) <= 64 or len(wake.machine_id) not in {0, 16}:
        raise ValueError("entropy has 32 to 64 bytes, a machine id 16 or none")
    if len(wake.hostname) > MAX_HOSTNAME_CHARS:
        raise InvalidRequest(f"A hostname has at most {MAX_HOSTNAME_CHARS} characters")
    execs.check_env(wake.env)
    return wire.Request(
        wake=wire.Wake(
            entropy=wake.entropy,
            unix_time_ns=wake.unix_time_ns,
            hostname=wake.hostname,
            machine_id=wake.machine_id,
            env=wake.env,
            keep_env=wake.keep_env,
            forked=wake.forked,
            trust=wake.trust,
            ephemeral_env=wake.ephemeral_env,
        )
    )


def _greeting(reply: wire.HelloReply) -> Greeting:
    if reply.wire_version != WIRE_VERSION:
        raise GuestFault(f"The guest speaks another generation of the wire: {reply.wire_version}")
    if reply.state not in STATES or len(reply.boot_id) != BOOT_ID_BYTES:
        raise bad_reply("hello", f"state {quote(reply.state)}, boot id of {len(reply.boot_id)} bytes")
    if len(reply.agent_version) > MAX_VERSION_CHARS or not reply.agent_version.isprintable():
        raise bad_reply("hello", f"version {quote(reply.agent_version)}")
    return Greeting(reply.wire_version, reply.agent_version, reply.state, reply.boot_id)
