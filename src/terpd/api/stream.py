"""A file's bytes at the client's pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from terpd.api.drip import cancel_and_wait, until_disconnected


class ByteStream(Response):
    """
    The response; *first* has been taken from *chunks* already, so that the file is known to be readable.

    A failure midway is raised: the answer then stays incomplete, and the server cuts the connection. When the client
    leaves, reading ends: a sparse file can be larger than anyone will ever read.
    """

    def __init__(
        self,
        first: bytes,
        chunks: AsyncGenerator[bytes, None],
        *,
        status: int = 200,
        media_type: bytes = b"application/octet-stream",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.status_code = status
        self.background = None
        self.raw_headers = [
            (b"content-type", media_type),
            (b"x-content-type-options", b"nosniff"),  # it is a guest's file: no browser may take it for a page
            (b"content-security-policy", b"sandbox"),
            *headers,
        ]
        self._first = first
        self._chunks = chunks

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(until_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for chunk in self._chunks:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await cancel_and_wait(gone)
            await self._chunks.aclose()
