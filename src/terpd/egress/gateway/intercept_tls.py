"""
TLS over a socket that others own, of which some bytes may have been read already.

asyncio's own TLS can take over neither such a socket nor such bytes. Reads may be cancelled without losing anything;
writes may not.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

CHUNK_BYTES = 64 * 1024
_RECORD_BYTES = 16 * 1024
_GOODBYE_S = 1.0


class TlsStream:
    """
    One reader and one writer at a time. The socket is non-blocking, and stays open when this ends.

    Args:
        server_name: Of the server that is to be verified; None: this end is the server.
        ahead: What was read from the socket before.
        count: Is told bytes received and sent, as they were on the wire.

    Attributes:
        moved: All these bytes.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        ahead: bytes = b"",
        count: Callable[[int, int], None] | None = None,
    ) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else a body's first bytes wait for its head's ACK
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(ahead)
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self.moved = 0
        self._tell = count
        self._count(len(ahead), 0)
        self._sending = asyncio.Lock()  # a read may have to answer too, with a TLS 1.3 key update
        self._reading: asyncio.Task[bytes] | None = None

    async def handshake(self) -> None:
        """
        Raises:
            SSLCertVerificationError: The server is not who it should be.
            SSLError, OSError: Anything else; the peer was told why.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()
                raise
            else:
                await self._flush()
                return

    async def read(self) -> bytes:
        """
        Return up to 64 KiB; nothing when the peer said that it is done.

        Raises:
            SSLError, OSError: Also when it ended without saying so.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait({self._reading})  # when this is cancelled the read goes on, for the next caller
        reading, self._reading = self._reading, None
        return reading.result()

    async def write(self, data: bytes) -> None:
        """Raises SSLError, OSError. Returns when the kernel has taken it."""
        for at in range(0, len(data), CHUNK_BYTES):
            self._tls.write(memoryview(data)[at : at + CHUNK_BYTES])
            await self._flush()

    async def stop(self) -> None:
        """End a read under way, so that nobody watches the socket any more and it may be closed."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()  # it is nobody's business any more
            self._reading = None

    async def goodbye(self) -> None:
        """
        Say that nothing follows, so that what came before is known to be whole; and wait for the peer to end too.

        Without the wait, closing while the peer still sends would reset the connection and take our last words with it.
        """
        try:
            async with asyncio.timeout(_GOODBYE_S):
                with contextlib.suppress(ssl.SSLError):  # its own goodbye is not there yet
                    self._tls.unwrap()
                await self._flush()
                await self.stop()
                self._socket.shutdown(socket.SHUT_WR)
                while data := await asyncio.get_running_loop().sock_recv(self._socket, CHUNK_BYTES):
                    self._count(len(data), 0)
        except (TimeoutError, OSError):
            pass

    def _count(self, received: int, sent: int) -> None:
        self.moved += received + sent
        if self._tell is not None:
            self._tell(received, sent)

    async def _read(self) -> bytes:
        while (data := self._decrypted()) is None:
            await self._flush()
            await self._fill()
        await self._flush()
        return data

    def _decrypted(self) -> bytes | None:
        """Records have 16 KiB at most: take several at a time. None when more must come first."""
        pieces: list[bytes] = []
        try:
            while len(pieces) < CHUNK_BYTES // _RECORD_BYTES and (piece := self._tls.read(_RECORD_BYTES)):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            if not pieces:
                return None
        except ssl.SSLError:
            if not pieces:
                raise  # otherwise it comes again, with the next read
        return b"".join(pieces)

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, CHUNK_BYTES)
        self._count(len(data), 0)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        async with self._sending:
            while data := self._outgoing.read(CHUNK_BYTES):
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
                self._count(0, len(data))
