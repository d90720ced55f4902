"""
Answers that may take longer than a client waits for a byte.

While the work is quick, its answer has its real status. After `patience_s` the success status is committed and a
space is sent every `drip_s`: leading white space is valid JSON. A failure that comes later can only be told in the
body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from terpd.api.pace import Pace
from terpd.model.errors import Internal, TerpError

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


async def answer_or_drip(
    work: Coroutine[Any, Any, _T],
    *,
    pace: Pace,
    answer: Callable[[_T], Response],
    late: Callable[[_T | TerpError], Awaitable[bytes]],
    status: int = 200,
) -> Response:
    """
    Return *answer* of the result if it comes in time, otherwise a response that drips and ends with *late*.

    *work* is cancelled when the client leaves a dripping answer. When *late* fails, the answer stays incomplete.

    Raises:
        TerpError: *work* failed in time.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=pace.patience_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return answer(task.result()) if task.done() else _Drip(task, late, status, pace)


class _Drip(Response, Generic[_T]):
    media_type = "application/json"

    def __init__(
        self, task: asyncio.Task[_T], late: Callable[[_T | TerpError], Awaitable[bytes]], status: int, pace: Pace
    ) -> None:
        self.status_code = status
        self.background = None
        self.raw_headers = [(b"content-type", b"application/json")]
        self._work = task
        self._late = late
        self._pace = pace

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(until_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not self._work.done():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.wait({self._work, gone}, timeout=self._pace.drip_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
            await send({"type": "http.response.body", "body": await self._body(), "more_body": False})
        finally:
            await cancel_and_wait(gone, self._work)

    async def _body(self) -> bytes:
        try:
            outcome: _T | TerpError = self._work.result()
        except Exception as error:  # noqa: BLE001 - the answer has begun: it can only be told in the body
            outcome = tellable(error)
        return await self._late(outcome)


def tellable(error: Exception) -> TerpError:
    """Return *error* if it is one for the user; log any other, and return what the user may know of it."""
    if isinstance(error, TerpError):
        return error
    _log.error("answer_crashed", exc_info=error)
    return Internal("The server has failed at this request; its log says more")


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has left. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
