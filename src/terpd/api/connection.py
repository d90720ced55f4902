"""
Connections: what of a request is held before the application sees it.

The parser below us keeps a line of headers, a trailer or a chunk's extension until it is whole, however long it
grows, and it does so for callers without a key.
"""

from __future__ import annotations

from http import HTTPStatus

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 128 * 1024  # a URL alone may have 64 KiB


class Connection(HttpToolsProtocol):
    """
    uvicorn's HTTP/1.1 with a bound for heads, and with errors in the shape that all others have.

    Only whole reads in which nothing got done are counted, so that a head can be one read (256 KiB) longer.
    """

    _pending_bytes = 0
    _progress = False

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        self._pending_bytes = 0 if self._progress else self._pending_bytes + len(data)
        if self._pending_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"A request's head may have {MAX_HEAD_BYTES} bytes at most",
                "too_large",
            )

    def on_message_begin(self) -> None:
        self._progress = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = True
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        """
        Whether the connection is handed over to become one of WebSocket.

        Not while an answer is on its way, which would get between, nor with a body, which would be taken for frames.
        """
        with_body = any(name in {b"content-length", b"transfer-encoding"} for name, _ in self.headers)
        free = self.cycle is None or self.cycle.response_complete
        return super()._should_upgrade() and self.scope["method"] == "GET" and free and not with_body

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - says less than ours
        self._refuse(HTTPStatus.BAD_REQUEST, "This is no HTTP/1.1 request that this server can read", "invalid_request")

    def _refuse(self, status: HTTPStatus, detail: str, code: str) -> None:
        """Answer and close; while another answer is on its way, only close."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = to_json({"detail": detail, "code": code})
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()
