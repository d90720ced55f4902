"""
One command's stream of events, across the sessions that its guest is reached by.

A session ends when the machine is captured, or when it breaks. The command runs on in its guest, which remembers some
of its output, and is attached to again by id and offset: nothing is lost and nothing comes twice. That must happen
soon, however slowly the consumer takes what it gets, or the guest drops what nobody fetches. So a task of its own
attaches, a little ahead of the consumer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from terpd.model.errors import ExecNotFound, GuestFault
from terpd.model.guest import ExecEvent, ExecOutput, ExecRequest
from terpd.model.ids import ExecId
from terpd.node.gate import Gate
from terpd.node.guest.client import GuestClient
from terpd.node.link import Link, Parted

_AHEAD = 4  # events fetched before they are asked for, at most 32 KiB each
_MOST = 256  # of those that a session had delivered when it ended


async def run(gate: Gate, link: Link, request: ExecRequest) -> AsyncGenerator[ExecEvent, None]:
    """As `Node.exec`, for the guest behind *gate* and *link*."""
    follower = _Follower(gate, link, request.exec_id, 0, request)
    async with aclosing(follower.events()) as events:
        async for event in events:
            yield event


async def attach(gate: Gate, link: Link, exec_id: ExecId, offset: int) -> AsyncGenerator[ExecEvent, None]:
    """As `Node.attach`."""
    follower = _Follower(gate, link, exec_id, offset, None)
    async with aclosing(follower.events()) as events:
        async for event in events:
            yield event


class _Follower:
    """*request* is of a command that is still to be started; None attaches."""

    def __init__(self, gate: Gate, link: Link, exec_id: ExecId, offset: int, request: ExecRequest | None) -> None:
        self._gate = gate
        self._link = link
        self._exec_id = exec_id
        self._offset = offset
        self._request = request
        self._started = False
        self._last: GuestClient | None = None  # whom it was last asked of
        self._fetched: deque[ExecEvent] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()

    async def events(self) -> AsyncGenerator[ExecEvent, None]:
        fetching = asyncio.create_task(self._fetch(), name=f"command {self._exec_id}")
        fetching.add_done_callback(lambda _: self._changed.set())
        try:
            while self._fetched or not fetching.done():
                if self._fetched:
                    event = self._fetched.popleft()
                    self._taken.set()
                    yield event
                else:
                    self._changed.clear()
                    await self._changed.wait()
            await fetching
        finally:
            fetching.cancel()
            await asyncio.wait([fetching])

    async def _fetch(self) -> None:
        while True:
            try:
                guest, first, events = await self._begin()
            except Parted:  # a capture was faster: the gate says when that is over
                continue
            try:
                async with aclosing(events):
                    if not self._started:
                        self._started = True
                        await self._give(first, guest)
                    async for event in events:
                        if isinstance(event, ExecOutput):
                            self._offset = event.offset + len(event.data)
                        await self._give(event, guest)
            except GuestFault:
                if not guest.lost.done():
                    raise
            else:
                return

    async def _begin(self) -> tuple[GuestClient, ExecEvent, AsyncGenerator[ExecEvent, None]]:
        """Start the command, or attach to it again in the next session. A capture waits for the end of this."""
        while True:
            async with self._gate.passing():
                start = self._last is None and self._request is not None
                guest = self._last = self._link.guest if self._last is None else await self._link.next(self._last)
                try:
                    return guest, *await self._open(guest, start=start)
                except GuestFault:
                    if not guest.lost.done():
                        raise

    async def _open(self, guest: GuestClient, *, start: bool) -> tuple[ExecEvent, AsyncGenerator[ExecEvent, None]]:
        if self._request is not None and start:
            return await _first(guest.exec(self._request))
        try:
            stdin = None if self._request is None else self._request.stdin
            return await _first(guest.attach(self._exec_id, self._offset, stdin=stdin))
        except ExecNotFound:
            if self._started or self._request is None:
                raise
            return await _first(guest.exec(self._request))  # the session broke before the guest was asked to

    async def _give(self, event: ExecEvent, guest: GuestClient) -> None:
        while len(self._fetched) >= (_MOST if guest.lost.done() else _AHEAD):
            self._taken.clear()
            guest.lost.add_done_callback(self._look_again)
            try:
                await self._taken.wait()
            finally:
                guest.lost.remove_done_callback(self._look_again)
        self._fetched.append(event)
        self._changed.set()

    def _look_again(self, _: object) -> None:
        self._taken.set()


async def _first(events: AsyncIterator[ExecEvent]) -> tuple[ExecEvent, AsyncGenerator[ExecEvent, None]]:
    """The first event and what follows it."""
    generator = cast("AsyncGenerator[ExecEvent, None]", events)
    return await anext(generator), generator
