"""
The agent channel on asyncio: one connection, one session, many calls at once.

    connect ──preface──► answered ──► calls ──► lost
                  │                     │
                  └── silence, garbage, end of file, a violation: `lost` is set and every call fails

The protocol object does what arrives at once and keeps no queue of its own: bytes wait in the decoder (one frame),
in the streams' inboxes (credit) or in the transport's write buffer (`_writable`). A session that is lost is never
mended; whoever owns the machine connects anew.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import Self, cast

from terpd.model.errors import GuestFault, LimitExceeded
from terpd.node.guest.agent_pb2 import Reply, Request
from terpd.node.guest.frames import DRAIN, MAX_PAYLOAD_BYTES, NONCE_BYTES, Decoder, Violation, preface
from terpd.node.guest.inbox import Chunk
from terpd.node.guest.session import Session
from terpd.node.guest.stream import Stream

WRITE_BUFFER_BYTES = 262_144
CANCEL_ANSWER_S = 60.0  # a cancelled call must end by then, or its stream would be kept for ever


def connect_socket(path: Path) -> socket.socket:
    """
    Connect to the unix socket at *path*, which may be longer than the 107 bytes of a socket address.

    Raises:
        GuestFault: Nobody listens there, or somebody else is connected.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise GuestFault(
            "The guest's channel cannot be reached; the machine is gone or in use",
            context={"path": str(path), "error": str(error)},
        ) from error
    return connection


class Channel(asyncio.Protocol):
    """Get one from `attach`. All methods belong to the loop's thread."""

    def __init__(self, opening: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[GuestFault] = loop.create_future()
        self._loop = loop
        self._opening = opening
        self._decoder = Decoder(opening)
        self._session = Session()
        self._calls: dict[int, Call] = {}
        self._answered = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    @classmethod
    async def attach(cls, connection: socket.socket, *, fresh: bool) -> Self:
        """
        Begin a session on a connected socket, which the channel owns from here on. The preface is sent, not awaited.

        *fresh* says that no host was connected since the guest was booted or its snapshot taken. Otherwise what an
        earlier one may have left half said is completed with zeros first.
        """
        connection.setblocking(False)
        opening = preface(secrets.token_bytes(NONCE_BYTES))
        try:
            loop = asyncio.get_running_loop()
            transport, channel = await loop.create_unix_connection(lambda: cls(opening), sock=connection)
        except BaseException:
            connection.close()
            raise
        transport.write(opening if fresh else DRAIN + opening)
        return channel

    async def answered(self) -> None:
        """
        Wait until the agent has answered the preface.

        Raises:
            GuestFault: The session is lost.
        """
        await self._answered.wait()
        self.check()

    def check(self) -> None:
        """
        Raises:
            GuestFault: The session is lost; says why.
        """
        if self.lost.done():
            fault = self.lost.result()
            raise GuestFault(fault.detail, context=fault.context)

    def open(self, request: Request) -> Call:
        """
        Begin a call. Await `drained` first unless the request is small and there are few.

        Raises:
            GuestFault: The session is lost.
            LimitExceeded: Too many calls are under way.
        """
        self.check()
        if self._session.full:
            raise LimitExceeded("Too many operations are under way in this sandbox; wait for some to end")
        stream, frames = self._session.open(request)
        call = self._calls[stream.number] = Call(self, stream)
        self._transport.write(frames)
        return call

    async def drained(self) -> None:
        """
        Wait until the guest has read enough for more to be written.

        Raises:
            GuestFault: The session is lost.
        """
        if not self._writable.is_set():
            await self._writable.wait()
        self.check()

    def write(self, frames: bytes) -> None:
        if not self.lost.done():
            self._transport.write(frames)

    def fail(self, detail: str, **context: object) -> None:
        """End the session. Calls under way see GuestFault with *detail* once they have taken what they received."""
        if self.lost.done():
            return
        self.lost.set_result(GuestFault(detail, context=context))
        self._transport.abort()
        self._answered.set()
        self._writable.set()
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.notify()

    def watch_cancelled(self, call: Call) -> None:
        """Fail the session unless the agent ends *call* soon."""

        def check() -> None:
            if self._calls.get(call.stream.number) is call:
                self.fail("The guest does not end a call that was cancelled", call=call.stream.call)

        self._loop.call_later(CANCEL_ANSWER_S, check)

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not descend from it
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        frames, violation = self._decoder.feed(data)
        if self._decoder.synchronized:
            self._answered.set()
        for frame in frames:
            stream = self._session.receive(frame)
            if stream is None:
                continue
            if isinstance(stream, Violation):
                violation = stream
                break
            call = self._calls[stream.number]
            if stream.status is not None:
                del self._calls[stream.number]
            call.notify()
        if violation is not None:
            self.fail("The guest broke the protocol of its channel", violation=violation.reason)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("The guest has closed its channel", error=repr(exc))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


class Call:
    """One call under way. One task receives; the same or another one sends."""

    def __init__(self, channel: Channel, stream: Stream) -> None:
        self.stream = stream
        self._channel = channel
        self._changed: set[asyncio.Future[None]] = set()
        self._unsent = memoryview(b"")
        self._finish = False

    @property
    def ended(self) -> bool:
        """Whether the agent has ended the call. What was received before may still wait to be taken."""
        return self.stream.status is not None

    async def receive(self, timeout_s: float | None) -> Reply | Chunk | None:
        """
        Return the next reply or piece of output; None at the end, when `stream.status` says how it went, and behind the
        last byte of a service that may still be sent to.

        Raises:
            GuestFault: The session is lost.
            TimeoutError: Nothing came for *timeout_s*.
        """
        while True:
            item = self.stream.take()
            if item is not None:
                credit = self.stream.credit_due()
                if credit is not None:
                    self._channel.write(credit)
                return item
            if self.ended or self.stream.closed_by_agent:
                return None
            await self._wait(timeout_s)

    def supply(self, data: bytes, *, finish: bool) -> None:
        """Send *data* as the agent gives credit, then the end of data if *finish*. Await `supplied` between two."""
        assert not self._unsent
        self._unsent = memoryview(data)
        self._finish = finish
        self._push()

    async def supplied(self, timeout_s: float) -> None:
        """
        Wait until what was supplied is sent, or the agent has ended the call.

        Raises:
            GuestFault: The session is lost.
            TimeoutError: The agent took nothing for *timeout_s*.
        """
        while self._unsent and not self.ended:
            await self._wait(timeout_s)
        async with asyncio.timeout(timeout_s):
            await self._channel.drained()

    def cancel(self) -> None:
        """Tell the agent that nobody listens any more. Without effect on a call that is over."""
        if self.ended or self.stream.cancelled or self._channel.lost.done():
            return
        self._unsent = memoryview(b"")
        self._finish = False
        self._channel.write(self.stream.cancel())
        self._channel.watch_cancelled(self)

    def notify(self) -> None:
        """Look again: something came, or the session is lost."""
        self._push()
        for waiter in self._changed:
            if not waiter.done():
                waiter.set_result(None)

    def _push(self) -> None:
        if self.ended:
            self._unsent = memoryview(b"")
            return
        stream = self.stream
        while self._unsent and stream.send_credit:
            size = min(len(self._unsent), stream.send_credit, MAX_PAYLOAD_BYTES)
            self._channel.write(stream.send(bytes(self._unsent[:size])))
            self._unsent = self._unsent[size:]
        if self._finish and not self._unsent:
            self._finish = False
            self._channel.write(stream.finish())

    async def _wait(self, timeout_s: float | None) -> None:
        self._channel.check()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        finally:
            self._changed.discard(waiter)
