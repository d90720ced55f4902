"""The network device of one machine, and who is served through it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import structlog

from terpd.egress.authority import make_authority
from terpd.egress.base import Authority, Gateway, Namespaces, Sockets
from terpd.model.errors import TerpError, Unavailable
from terpd.model.ids import SandboxId
from terpd.model.network import NetworkSpec

log = structlog.get_logger()

_DIAL_TIMEOUT_S = 10.0  # some milliseconds; the guest may be frozen for a snapshot, or very busy
_DISMISS_TIMEOUT_S = 15.0


class Nic:
    """
    Owns the descriptors of its namespace; `close` it once the machine has ended, or is let go of.

    Until `admit` nobody answers the guest.
    """

    def __init__(self, sockets: Sockets, namespaces: Namespaces, gateway: Gateway) -> None:
        self._sockets = sockets
        self._namespaces = namespaces
        self._gateway = gateway
        self._sandbox_id: SandboxId | None = None
        self._served = False
        self._closed = False

    @property
    def tap(self) -> int:
        """For the monitor."""
        return self._sockets.tap

    async def admit(self, sandbox_id: SandboxId, network: NetworkSpec) -> bytes:
        """
        Serve the sandbox, and return what its guest is to trust for that: PEM, empty without credentials.

        Raises:
            Unavailable: There is no gateway.
        """
        authority = None
        if network.credentials:
            authority = await asyncio.to_thread(make_authority, f"Terp sandbox {sandbox_id}")
        await self._serve(sandbox_id, network, authority)
        return b"" if authority is None else authority.certificate

    async def block(self, sandbox_id: SandboxId) -> None:
        """Refuse, and record, all that the sandbox tries, until `update`. Raises Unavailable."""
        await self._serve(sandbox_id, None, None)

    async def update(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        """Raises Unavailable."""
        if self._served:
            await self._gateway.update(sandbox_id, network)
        else:
            await self._serve(sandbox_id, network, None)

    async def dial(self, port: int) -> socket.socket:
        """
        Connect to a port of the guest. A connected, non-blocking socket, the caller's.

        Raises:
            Unavailable: Nobody listens there, or the guest does not answer.
        """
        connection = socket.socket(fileno=await self._namespaces.connect(self._sockets.namespace, port))
        connection.setblocking(False)  # for Python, too
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                await _connected(connection)
            if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
        except TimeoutError as error:
            connection.close()
            raise Unavailable(f"Nothing answers at port {port} of the sandbox", context={"port": port}) from error
        except OSError as error:
            connection.close()
            what = f"Nothing listens on port {port} of the sandbox; start a server there, on 0.0.0.0"
            if error.errno != errno.ECONNREFUSED:
                what = f"Port {port} of the sandbox cannot be reached: {error.strerror}"
            raise Unavailable(what, context={"port": port}) from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Dismiss the sandbox and let go of the namespace, whatever state the gateway is in. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._sandbox_id is not None:
                async with asyncio.timeout(_DISMISS_TIMEOUT_S):
                    await self._gateway.dismiss(self._sandbox_id)
        except (TerpError, TimeoutError) as error:
            log.warning("a sandbox was not dismissed by the gateway", sandbox=self._sandbox_id, why=repr(error))
        finally:
            await self._namespaces.close(self._sockets)

    async def _serve(self, sandbox_id: SandboxId, network: NetworkSpec | None, authority: Authority | None) -> None:
        self._sandbox_id = sandbox_id  # before: whatever becomes of it, it is dismissed at the end
        await self._gateway.admit(sandbox_id, self._sockets, network, authority)
        self._served = True


async def _connected(connection: socket.socket) -> None:
    """Return when it is connected, or has failed to."""
    loop = asyncio.get_running_loop()
    writable = loop.create_future()
    loop.add_writer(connection, lambda: None if writable.done() else writable.set_result(None))
    try:
        await writable
    finally:
        loop.remove_writer(connection)
