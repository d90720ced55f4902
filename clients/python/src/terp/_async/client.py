"""The connection to a server: sends requests, retries as the protocol says, streams bodies both ways."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TypeVar

import httpx

from terp import pairs, seam
from terp.errors import BadReply, InvalidRequest, TerpError
from terp.models import DeletionReceipt, Usage
from terp.protocol import account, requests
from terp.protocol.reading import Json, read_error, read_json
from terp.protocol.replies import read_receipts
from terp.protocol.request import Request
from terp.protocol.retry import plan_retry
from terp.protocol.settings import Settings, resolve_settings

Result = TypeVar("Result")

MAX_REPLY_BYTES = 64 * 1024 * 1024  # of JSON; the longest listing a server gives is far below


class AsyncTerp:
    """
    A connection to a Terp server, to share between sandboxes. Without one, `AsyncSandbox` uses a default of its own.

    Args:
        api_key: Else the environment's TERP_API_KEY.
        base_url: Else the environment's TERP_BASE_URL, else http://127.0.0.1:7070.
        timeout: Seconds that the server may be silent. Long commands are no silence: it sends signs of life.
        wait_for_capacity: Seconds that a call which needs room may wait for a full server: a create, a resume, a fork,
            or what wakes a paused sandbox. 0: fail at once.
        transport: An httpx transport, for own TLS set-ups and for tests.

    Raises:
        Unauthenticated: No key is given and none is in the environment.
        InvalidRequest: Key or URL have not the form of one.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = 60.0,
        wait_for_capacity: float = 60.0,
        transport: pairs.AsyncHttpTransport | None = None,
    ) -> None:
        self._settings = resolve_settings(api_key, base_url, os.environ)
        self._wait_for_capacity_s = wait_for_capacity
        with seam.translated(self._settings):
            self._http = pairs.AsyncHttp(
                headers={"Authorization": f"Bearer {self._settings.api_key}", "User-Agent": "terp-python"},
                timeout=seam.timeouts(timeout),
                limits=seam.limits(),
                verify=seam.trust(self._settings),
                trust_env=not self._settings.is_loopback,
                transport=transport,
            )

    @property
    def settings(self) -> Settings:
        return self._settings

    async def aclose(self) -> None:
        """Close all connections. Sandboxes live on."""
        with seam.translated(self._settings):
            await self._http.aclose()

    async def __aenter__(self) -> AsyncTerp:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def deletion_receipts(self, *, subject: str | None = None, limit: int = 50) -> tuple[DeletionReceipt, ...]:
        """
        Return the proofs that keys of this key's tenant were destroyed, newest first.

        Args:
            subject: Id of a sandbox or snapshot: only its own.
            limit: 1 to 200.
        """
        request = requests.deletion_receipts(subject=subject, limit=limit)
        return tuple(read_receipts(await self.call(request)))

    async def usage(self, since: dt.date | None = None, until: dt.date | None = None) -> Usage:
        """
        Return what all sandboxes of this key's tenant used, by day.

        Args:
            since, until: The first and the last day, in UTC; the last 30 days if not given.
        """
        return account.read_usage(await self.call(account.usage(since=since, until=until)))

    async def call(self, request: Request, content: bytes | None = None) -> Json:
        """
        Send *request* and return its reply's object, sending it again where that is right.

        Args:
            content: The body, where it is not the request's own JSON.
        """
        return await self._repeat(request, lambda: self._call_once(request, content))

    async def upload(self, request: Request, chunks: AsyncIterator[bytes]) -> Json:
        """Send *request* with a body that can be read only once. What *chunks* raises comes out as it is."""
        failures: list[Exception] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception as error:
                failures.append(error)  # it may be httpx' own, from a download that is being passed on
                raise

        try:
            return await self._call_once(request, watched())
        except TerpError:
            if failures:
                raise failures[0] from None
            raise

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send *request* and give the reply's body as it comes. Leaving early closes the connection."""
        reply = await self._repeat(request, lambda: self._open(request, None))
        try:
            async with contextlib.aclosing(self._chunks(reply)) as chunks:
                yield chunks
        finally:
            with seam.translated(self._settings):
                await reply.aclose()

    async def _repeat(self, request: Request, act: pairs.AsyncAct[Result]) -> Result:
        failures, waited_s = 0, 0.0
        while True:
            try:
                return await act()
            except TerpError as error:
                failures += 1
                delay = plan_retry(
                    request.repeat,
                    error,
                    failures=failures,
                    waited_s=waited_s,
                    wait_for_capacity_s=self._wait_for_capacity_s,
                )
                if delay is None:
                    raise
            await pairs.sleep_async(delay)
            waited_s += delay

    async def _call_once(self, request: Request, content: bytes | AsyncIterator[bytes] | None) -> Json:
        reply = await self._open(request, content)
        try:
            return read_json(reply.status_code, reply.headers, await self._body(reply))
        finally:
            await reply.aclose()

    async def _open(self, request: Request, content: bytes | AsyncIterator[bytes] | None) -> httpx.Response:
        """Return a reply of status 2xx whose body is not read yet; the caller closes it."""
        if self._http.is_closed:
            raise InvalidRequest("This client is closed; make a new one")
        body = request.content if content is None else content
        headers = {"Accept": "application/json", **request.headers}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        with seam.translated(self._settings):
            sent = self._http.build_request(
                request.method, self._settings.base_url + request.target, headers=headers, content=body
            )
            reply = await self._http.send(sent, stream=True)
        if reply.is_success:
            return reply
        try:
            raise read_error(reply.status_code, reply.headers, await self._body(reply))
        finally:
            await reply.aclose()

    async def _body(self, reply: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in self._chunks(reply):
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                raise BadReply("The server's reply is longer than 64 MiB", status=reply.status_code)
        return bytes(body)

    async def _chunks(self, reply: httpx.Response) -> pairs.AsyncStream[bytes]:
        with seam.translated(self._settings):
            async for chunk in reply.aiter_bytes():
                yield chunk
