"""A gateway's place in front of a TLS server: what a guest sends to it is intercepted."""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import threading
from collections.abc import Sequence

from support.tls_servers import LOOPBACK, WAIT_S, receive_all
from terpd.egress.authority import certificate_for, make_authority
from terpd.egress.base import Authority
from terpd.egress.gateway.intercept import Intercepted, intercept
from terpd.model.network import Credential


class Front:
    """
    What connects to its port is intercepted as a guest's connection to *name*.

    Attributes:
        authority: Of the sandbox: guests trust it.
        world: What the gateway trusts; servers' certificates are made by it.
    """

    def __init__(self, name: str, credentials: Sequence[Credential]) -> None:
        self.name = name
        self.credentials = credentials
        self.authority: Authority = make_authority("sandbox")
        self.world: Authority = make_authority("world")
        self.trust = ssl.create_default_context(cadata=self.world.certificate.decode())
        self.server_port = 0
        self.dialled = 0
        self._ended: queue.Queue[Intercepted | Exception] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
        self._listener.close()

    def server_context(self, name: str | None = None) -> ssl.SSLContext:
        return certificate_for(self.world, name or self.name)

    def guest_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.certificate.decode())

    def ended(self) -> Intercepted:
        """The result of the connection that ended next. Raises what it raised."""
        result = self._ended.get(timeout=WAIT_S)
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self) -> None:
        """As a policy's change does with connections under way."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    def connect(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A guest's raw connection, for whom an end without TLS's goodbye is an error."""
        sock = socket.create_connection((LOOPBACK, self.port), timeout=WAIT_S)
        return (context or self.guest_context()).wrap_socket(
            sock, server_hostname=self.name, suppress_ragged_eofs=False
        )

    def send(self, request: bytes) -> bytes:
        """Send raw bytes and return all that comes back until the gateway ends the connection."""
        with self.connect() as guest:
            guest.sendall(request)
            return receive_all(guest)

    async def _accept(self) -> None:
        while True:
            guest, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(guest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, guest: socket.socket) -> None:
        guest.setblocking(False)
        progress = Intercepted()
        try:
            head = await self._loop.sock_recv(guest, 300)  # less than a ClientHello: the rest comes by the socket
            result = await intercept(
                guest,
                head,
                self.name,
                self.credentials,
                self.authority,
                self._dial,
                trust=self.trust,
                progress=progress,
            )
            assert result is progress
            self._ended.put(result)
        except asyncio.CancelledError:
            self._ended.put(progress)
        except Exception as error:  # noqa: BLE001 - goes to the test
            self._ended.put(error)
        finally:
            guest.close()

    async def _dial(self) -> socket.socket:
        self.dialled += 1
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await self._loop.sock_connect(sock, (LOOPBACK, self.server_port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _stop(self) -> None:
        self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
