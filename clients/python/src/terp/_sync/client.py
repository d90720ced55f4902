# Generated from src/terp/_async/client.py by tools/sync.py: change that one.
"""The connection to a server: sends requests, retries as the protocol says, streams bodies both ways."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
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


class Terp:
    """
    A connection to a Terp server, to share between sandboxes. Without one, `Sandbox` uses a default of its own.

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
        transport: pairs.HttpTransport | None = None,
    ) -> None:
        self._settings = resolve_settings(api_key, base_url, os.environ)
        self._wait_for_capacity_s = wait_for_capacity
        with seam.translated(self._settings):
            self._http = pairs.Http(
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

    def close(self) -> None:
        """Close all connections. Sandboxes live on."""
        with seam.translated(self._settings):
            self._http.close()

    def __enter__(self) -> Terp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def deletion_receipts(self, *, subject: str | None = None, limit: int = 50) -> tuple[DeletionReceipt, ...]:
        """
        Return the proofs that keys of this key's tenant were destroyed, newest first.

        Args:
            subject: Id of a sandbox or snapshot: only its own.
            limit: 1 to 200.
        """
        request = requests.deletion_receipts(subject=subject, limit=limit)
        return tuple(read_receipts(self.call(request)))

    def usage(self, since: dt.date | None = None, until: dt.date | None = None) -> Usage:
        """
        Return what all sandboxes of this key's tenant used, by day.

        Args:
            since, until: The first and the last day, in UTC; the last 30 days if not given.
        """
        return account.read_usage(self.call(account.usage(since=since, until=until)))

    def call(self, request: Request, content: bytes | None = None) -> Json:
        """
        Send *request* and return its reply's object, sending it again where that is right.

        Args:
            content: The body, where it is not the request's own JSON.
        """
        return self._repeat(request, lambda: self._call_once(request, content))

    def upload(self, request: Request, chunks: Iterator[bytes]) -> Json:
        """Send *request* with a body that can be read only once. What *chunks* raises comes out as it is."""
        failures: list[Exception] = []

        def watched() -> Iterator[bytes]:
            try:
                for chunk in chunks:
                    yield chunk
            except Exception as error:
                failures.append(error)  # it may be httpx' own, from a download that is being passed on
                raise

        try:
            return self._call_once(request, watched())
        except TerpError:
            if failures:
                raise failures[0] from None
            raise

    @contextlib.contextmanager
    def stream(self, request: Request) -> Iterator[Iterator[bytes]]:
        """Send *request* and give the reply's body as it comes. Leaving early closes the connection."""
        reply = self._repeat(request, lambda: self._open(request, None))
        try:
            with contextlib.closing(self._chunks(reply)) as chunks:
                yield chunks
        finally:
            with seam.translated(self._settings):
                reply.close()

    def _repeat(self, request: Request, act: pairs.Act[Result]) -> Result:
        failures, waited_s = 0, 0.0
        while True:
            try:
                return act()
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
            pairs.sleep(delay)
            waited_s += delay

    def _call_once(self, request: Request, content: bytes | Iterator[bytes] | None) -> Json:
        reply = self._open(request, content)
        try:
            return read_json(reply.status_code, reply.headers, self._body(reply))
        finally:
            reply.close()

    def _open(self, request: Request, content: bytes | Iterator[bytes] | None) -> httpx.Response:
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
            reply = self._http.send(sent, stream=True)
        if reply.is_success:
            return reply
        try:
            raise read_error(reply.status_code, reply.headers, self._body(reply))
        finally:
            reply.close()

    def _body(self, reply: httpx.Response) -> bytes:
        body = bytearray()
        for chunk in self._chunks(reply):
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                raise BadReply("The server's reply is longer than 64 MiB", status=reply.status_code)
        return bytes(body)

    def _chunks(self, reply: httpx.Response) -> pairs.Stream[bytes]:
        with seam.translated(self._settings):
            for chunk in reply.iter_bytes():
                yield chunk
