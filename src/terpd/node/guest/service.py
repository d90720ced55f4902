"""A byte stream to a program of the guest that serves the host."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from terpd.model.errors import InvalidRequest
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import ANSWER_S, PING, STALL_S, Silence, ask, opened, received
from terpd.node.guest.channel import Call, Channel
from terpd.node.guest.inbox import Chunk

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_QUIET_S = 30.0  # a program may be quiet for as long as it likes; its guest has to answer a ping this often


class ServiceStream:
    """
    Connected on entering, closed on leaving: the program sees the end of it then, at the latest.

    Either direction may end before the other. One task receives; the same or another one sends. What comes is what a
    guest says: it may end in the middle of anything. A capture of the machine cuts the stream, as a lost session does:
    GuestFault from all methods. A guest whose agent is silent is found out by pings.

    Raises on entering:
        NotFound: Nobody listens.
        LimitExceeded: The program does not accept connections, or too many calls are under way.
        InvalidRequest: *name* is not 1 to 64 of a-z, 0-9 and -.
        GuestFault.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._stack = AsyncExitStack()
        self._call: Call
        self._finished = False

    async def __aenter__(self) -> Self:
        if not _NAME.fullmatch(self._name):
            raise InvalidRequest("A service's name has 1 to 64 of a-z, 0-9 and -")
        request = wire.Request(connect=wire.Connect(name=self._name))
        async with AsyncExitStack() as stack:
            self._call = await stack.enter_async_context(opened(self._channel, request, timeout_s=ANSWER_S))
            await received(self._call, timeout_s=STALL_S, subject=self._name)  # `connected`, by the grammar of the call
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def send(self, data: bytes) -> None:
        """
        Return when the guest has *data*: long after, where the program does not read. What it never reads is lost.

        Not after `finish`.
        """
        assert not self._finished
        if not data or self._call.ended:
            return
        self._call.supply(data, finish=False)
        while True:
            try:
                await self._call.supplied(_QUIET_S)
            except TimeoutError:
                await ask(self._channel, PING, timeout_s=ANSWER_S)
            else:
                return

    async def receive(self) -> bytes | None:
        """Return what came next, 64 KiB at most; None behind the last byte."""
        while True:
            try:
                item = await received(self._call, timeout_s=_QUIET_S, subject=self._name)
            except Silence:
                await ask(self._channel, PING, timeout_s=ANSWER_S)
                continue
            assert item is None or isinstance(item, Chunk)
            return None if item is None else item.data

    async def finish(self) -> None:
        """Send no more: the program reads to its end. What it says can still be received."""
        if not self._finished:
            self._finished = True
            if not self._call.ended:
                self._call.supply(b"", finish=True)
