"""Connecting to what was asked for: resolve, check, and dial the very address that was checked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from terpd.egress.addresses import Address, forbidden
from terpd.egress.gateway.resolve import Resolver
from terpd.egress.gateway.routes import Routes
from terpd.egress.upstream import Upstream
from terpd.model.network import Reason

_TIMEOUT_S = 10.0
_ATTEMPT_S = 4.0  # for an address that others follow
_MAX_ATTEMPTS = 4
_MAX_REPLY_BYTES = 16 * 1024
_END = b"\r\n\r\n"


class DialFailed(Exception):
    """`reason` is NAME_UNRESOLVED, ADDRESS_FORBIDDEN, UNREACHABLE or TIMED_OUT."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Dialer:
    """
    Makes connections to what tenants name: for all sandboxes, and for the server itself.

    Args:
        anywhere: Any address may be dialled, whatever its class.
    """

    def __init__(self, upstream: Upstream, *, anywhere: bool = False) -> None:
        self._anywhere = anywhere
        self._resolver = Resolver(upstream.resolvers)
        self._routes = Routes()
        self._allowed = [ipaddress.ip_network(text) for text in upstream.allow_addresses]
        self._proxy = None if upstream.proxy is None else _Proxy(upstream.proxy)

    def close(self) -> None:
        self._resolver.close()
        self._routes.close()

    async def dial(self, target: str | Address, port: int, lookups: asyncio.Semaphore) -> tuple[socket.socket, str]:
        """
        Return a connected, non-blocking socket, and the address that it is connected to.

        Behind a proxy, which resolves names itself, that is the name.

        Raises:
            DialFailed
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._proxy is None:
                    return await self._directly(target, port, lookups)
                if not isinstance(target, str):
                    self._permitted([target])
                return await self._proxy.tunnel(str(target), port), str(target)
        except TimeoutError as error:
            raise DialFailed(Reason.TIMED_OUT) from error
        except OSError as error:
            raise DialFailed(Reason.UNREACHABLE) from error

    async def check(self, target: str | Address, lookups: asyncio.Semaphore) -> None:
        """
        Look up whether *target* may be dialled now. Names behind a proxy always may.

        Raises:
            DialFailed: NAME_UNRESOLVED, ADDRESS_FORBIDDEN or TIMED_OUT.
        """
        try:
            if not isinstance(target, str):
                self._permitted([target])
            elif self._proxy is None:
                await self._addresses(target, lookups)
        except TimeoutError as error:
            raise DialFailed(Reason.TIMED_OUT) from error

    async def _directly(
        self, target: str | Address, port: int, lookups: asyncio.Semaphore
    ) -> tuple[socket.socket, str]:
        addresses = (await self._addresses(target, lookups))[:_MAX_ATTEMPTS]
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout(_ATTEMPT_S):
                    return await _connect(address, port), str(address)
        return await _connect(addresses[-1], port), str(addresses[-1])

    async def _addresses(self, target: str | Address, lookups: asyncio.Semaphore) -> Sequence[Address]:
        found = await self._resolver.resolve(target, lookups) if isinstance(target, str) else [target]
        if not found:
            raise DialFailed(Reason.NAME_UNRESOLVED)
        return self._permitted(found)

    def _permitted(self, addresses: Sequence[Address]) -> Sequence[Address]:
        if self._anywhere:
            return addresses
        permitted = [each for each in addresses if not forbidden(each, own=self._routes.own, allowed=self._allowed)]
        if not permitted:
            raise DialFailed(Reason.ADDRESS_FORBIDDEN)
        return permitted


async def _connect(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(connected, (str(address), port))
    except BaseException:
        connected.close()
        raise
    return connected


class _Proxy:
    """The operator's, at `http://[user:password@]host:port`. Its own address is not checked: the operator gave it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None  # of an Upstream
        self._host = parts.hostname
        self._port = parts.port or 80
        self._authorization = b""
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._authorization = b"Proxy-Authorization: Basic " + base64.b64encode(secret) + b"\r\n"

    async def tunnel(self, host: str, port: int) -> socket.socket:
        """Raises OSError when the proxy is away or refuses."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        connected = await _connect(ipaddress.ip_address(found[0][4][0]), self._port)
        try:
            authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode() + self._authorization + b"\r\n"
            await loop.sock_sendall(connected, request)
            status = (await _head(connected)).split(b" ", 2)
            if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
                raise ConnectionRefusedError("the proxy did not make the connection")
        except BaseException:
            connected.close()
            raise
        return connected


async def _head(connected: socket.socket) -> bytes:
    """Read up to the empty line, and nothing of what follows: that is the server's."""
    loop = asyncio.get_running_loop()
    head = bytearray()
    while (at := head.find(_END)) < 0:
        if len(head) >= _MAX_REPLY_BYTES:
            raise ConnectionError("the proxy's answer is too long")
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(connected.fileno(), _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(connected.fileno())
        ahead = connected.recv(4096, socket.MSG_PEEK)
        if not ahead:
            raise ConnectionError("the proxy hung up")
        at = (bytes(head) + ahead).find(_END)
        head += connected.recv(len(ahead) if at < 0 else at + len(_END) - len(head))
    return bytes(head[:at])


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
