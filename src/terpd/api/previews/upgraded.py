"""
Connections that ask for WebSocket, which uvicorn hands over: they are served as one plain request each.

The application answers it as any other, unless what it is for takes the connection over (`accept`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import h11
import httptools
import structlog
import uvicorn
from starlette.types import Message, Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from terpd.api.previews.exchange import Streams
from terpd.api.previews.hosts import UPGRADE

_READ_BYTES = 256 * 1024  # uvicorn hands a head over in one piece, however long

_log = structlog.get_logger(__name__)


class Upgraded(asyncio.StreamReaderProtocol):
    """Given to uvicorn as the class of its WebSocket connections."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._reader = asyncio.StreamReader(loop=asyncio.get_running_loop())
        super().__init__(self._reader, self._serve, loop=asyncio.get_running_loop())
        self._config = config
        self._server_state = server_state
        self._state = app_state
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_BYTES)
        self._lost = asyncio.Event()
        self._asked = False
        self._transport_: asyncio.Transport
        self._writer: asyncio.StreamWriter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport_ = transport
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._lost.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops. Nobody knows when a WebSocket ends, so it ends now."""
        self._transport_.close()

    def accept(self, fields: Sequence[tuple[bytes, bytes]]) -> Streams:
        answer = h11.InformationalResponse(status_code=101, headers=list(fields))
        self._writer.write(self._http.send(answer) or b"")
        return self._reader, self._writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        task = asyncio.current_task()
        assert task is not None
        self._server_state.tasks.add(task)
        try:
            self._http.receive_data(await reader.read(_READ_BYTES))
            request = self._http.next_event()
            if isinstance(request, h11.Request):
                self._http.next_event()  # its end: requests with a body are not handed over
                await self._config.loaded_app(self._scope(request), self._receive, self._send)
        except (h11.ProtocolError, httptools.HttpParserInvalidURLError, OSError):
            pass  # closed without an answer, as is whoever breaks off
        except Exception:  # noqa: BLE001 - a bug: logged, and the server goes on
            _log.exception("upgraded_connection_crashed")
        finally:
            self._server_state.tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    def _scope(self, request: h11.Request) -> Scope:
        url = httptools.parse_url(request.target)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(self._transport_),
            "client": get_remote_addr(self._transport_),
            "scheme": "https" if is_ssl(self._transport_) else "http",
            "root_path": "",
            "method": request.method.decode(),
            "path": unquote(url.path.decode("ascii")),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": list(request.headers),
            "state": self._state.copy(),
            "extensions": {UPGRADE: self},
        }

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._lost.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [field for field in message["headers"] if field[0].lower() != b"connection"]
            event: h11.Event = h11.Response(
                status_code=message["status"],
                headers=[*self._server_state.default_headers, *headers, (b"connection", b"close")],
            )
            self._write(event)
        else:
            self._write(h11.Data(message.get("body", b"")))
            if not message.get("more_body", False):
                self._write(h11.EndOfMessage())
        await self._writer.drain()

    def _write(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
