"""Event streams of commands and terminals: read to their end, and gone on with where a connection breaks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from terp import pairs
from terp._async.client import AsyncTerp
from terp.errors import ConnectionFailed, FollowTimeout, LogDropped, RequestTimeout, Unavailable
from terp.models import ExecEvent, Stderr, Stdout
from terp.protocol.events import EventParser, ExecReader
from terp.protocol.request import Request

ATTEMPTS = 6  # in a row that bring nothing; with the delays, 13 s: a server is started anew in less
FIRST_DELAY_S = 0.2  # doubled each time
GOOD_CONNECTION_S = 5.0  # one that held so long was none of a row of failures


async def read_events(client: AsyncTerp, request: Request, reader: ExecReader) -> pairs.AsyncStream[ExecEvent]:
    """
    Raises:
        ConnectionFailed: The stream ended before the command did.
    """
    parser = EventParser()
    async with client.stream(request) as chunks:
        try:
            async for chunk in chunks:
                if reader.finished:
                    return
                for payload in parser.feed(chunk):
                    for event in reader.read(payload):
                        yield event
                # After the last event one more chunk is asked for: it is the body's end, and having seen it lets the
                # connection be used again.
        except (ConnectionFailed, RequestTimeout):
            if not reader.finished:
                raise
    if not reader.finished:
        raise ConnectionFailed("The stream ended before the command did; it runs on, `attach` follows it")


async def follow(
    client: AsyncTerp, request_at: Callable[[int], Request], *, offset: int, gaps: bool
) -> pairs.AsyncStream[ExecEvent]:
    """
    Yield a command's events from *offset* to its end, over broken connections.

    Args:
        request_at: The request for what comes from an offset on.
        gaps: Whether to go on with what is kept, where older output is gone.

    Raises:
        LogDropped: Output is gone, and no *gaps* are wanted.
        ConnectionFailed, RequestTimeout, Unavailable: `ATTEMPTS` in a row brought nothing.
    """
    reader, failures = ExecReader(offset), 0
    while True:
        began, end = time.monotonic(), reader.resume()
        try:
            async with contextlib.aclosing(read_events(client, request_at(end), reader)) as events:
                async for event in events:
                    if isinstance(event, Stdout | Stderr):
                        if event.offset > end and not gaps:
                            raise LogDropped(
                                f"Output from {end} on is not kept any more", fields={"first_offset": event.offset}
                            )
                        end, failures = reader.end, 0
                    yield event
        except (ConnectionFailed, RequestTimeout, Unavailable):
            failures = _counted(failures, began)
            if failures >= ATTEMPTS:
                raise
            await pairs.sleep_async(FIRST_DELAY_S * 2 ** (failures - 1))
        except FollowTimeout:
            continue
        except LogDropped as error:
            reader.end = _behind_gap(error, reader.end, gaps=gaps)
        else:
            return


def _counted(failures: int, began: float) -> int:
    return 1 if time.monotonic() - began > GOOD_CONNECTION_S else failures + 1


def _behind_gap(error: LogDropped, end: int, *, gaps: bool) -> int:
    if not gaps or error.first_offset is None or error.first_offset <= end:
        raise error
    return error.first_offset
