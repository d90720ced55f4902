"""
How a call is made: opened, waited for with a deadline, and never left behind.

A guest that is silent for too long is at fault for that call; the call is cancelled, and if the guest does not even
end it then, the session is lost (`channel.CANCEL_ANSWER_S`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from terpd.model.errors import GuestFault, TooLarge
from terpd.node.guest.agent_pb2 import Ping, Reply, Request, Status
from terpd.node.guest.channel import Call, Channel
from terpd.node.guest.faults import error_of
from terpd.node.guest.frames import MAX_REQUEST_BYTES
from terpd.node.guest.inbox import Chunk

ANSWER_S = 10.0  # for what the agent answers from memory; its first answer under emulation takes up to 2 s
STALL_S = 25.0  # for what may wait for the guest's disk; clients hang up after 30 s of silence, and are to hear why


PING = Request(ping=Ping())


class Silence(GuestFault):
    """The guest had nothing to say for too long."""

    def __init__(self, call: str, timeout_s: float) -> None:
        super().__init__(f"The guest has not answered for {timeout_s:g} s", context={"call": call})


@asynccontextmanager
async def opened(channel: Channel, request: Request, *, timeout_s: float) -> AsyncIterator[Call]:
    """
    Open a call; cancel it on the way out unless it is over.

    Raises:
        GuestFault: The session is lost, or the guest reads nothing for *timeout_s*.
        TooLarge: The request does not fit the wire.
        LimitExceeded: Too many calls are under way.
    """
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        raise TooLarge(f"Command, arguments and environment have at most {MAX_REQUEST_BYTES} bytes together: {size}")
    try:
        async with asyncio.timeout(timeout_s):
            await channel.drained()
    except TimeoutError:
        raise Silence(request.WhichOneof("call") or "", timeout_s) from None
    call = channel.open(request)
    try:
        yield call
    finally:
        call.cancel()


async def received(call: Call, *, timeout_s: float, subject: str = "") -> Reply | Chunk | None:
    """
    Return the next thing received, or None when the call is over and went well.

    Raises:
        GuestFault: The session is lost, or nothing came for *timeout_s*.
        TerpError: The guest refused; see `faults.error_of`.
    """
    try:
        item = await call.receive(timeout_s)
    except TimeoutError:
        raise Silence(call.stream.call, timeout_s) from None
    if item is None:
        status = call.stream.status
        if status is not None and status.code != Status.OK:
            raise error_of(call.stream.call, status, subject)
    return item


async def answer(call: Call, *, timeout_s: float, subject: str = "") -> Reply:
    """
    Wait for the reply (empty if the call has none) and for the call's end. Raises as `received`.
    """
    reply = Reply()
    while True:
        item = await received(call, timeout_s=timeout_s, subject=subject)
        if item is None:
            return reply
        assert isinstance(item, Reply)  # the grammar of calls that are asked has no output
        reply = item


async def send_all(call: Call, chunks: AsyncIterator[bytes]) -> int:
    """
    Send all *chunks* and the end of them at the pace at which the guest takes them. Returns how many bytes they were.

    Ends early when the guest has ended the call. Raises as `received`, and what *chunks* raise.
    """
    size = 0
    async for chunk in chunks:
        if call.ended:
            return size
        size += len(chunk)
        call.supply(chunk, finish=False)
        try:
            await call.supplied(STALL_S)
        except TimeoutError:
            raise Silence(call.stream.call, STALL_S) from None
    if not call.ended:
        call.supply(b"", finish=True)
    return size


async def ask(channel: Channel, request: Request, *, timeout_s: float, subject: str = "") -> Reply:
    """Open a call and return its answer. Raises as `opened` and `received`."""
    async with opened(channel, request, timeout_s=timeout_s) as call:
        return await answer(call, timeout_s=timeout_s, subject=subject)
