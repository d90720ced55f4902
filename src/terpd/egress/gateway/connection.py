"""
One connection of a guest, from its first byte to its record.

    sniff ── decide ──┬── refuse
                      ├── dial ── relay
                      └── intercept (a name that credentials are for)
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ulid import ULID

from terpd.egress.addresses import Address
from terpd.egress.gateway import http, tls
from terpd.egress.gateway.dial import DialFailed
from terpd.egress.gateway.intercept import Intercepted, intercept
from terpd.egress.gateway.relay import Relay
from terpd.egress.gateway.sniff import Sniffed, sniff
from terpd.egress.gateway.synthetic import NETWORK
from terpd.egress.gateway.tls import Malformed
from terpd.egress.policy import decide
from terpd.model import names
from terpd.model.network import GATEWAY_ADDRESS, Credential, Decision, EgressRecord, Protocol, Reason

if TYPE_CHECKING:
    from terpd.egress.gateway.sandbox import Sandbox

HEAD_TIMEOUT_S = 10.0
SILENCE_S = 0.3  # after which the server is expected to speak first (SSH, SMTP)
IDLE_S = 900.0
HALF_CLOSED_IDLE_S = 120.0
_LINGER_S = 1.0
_HTTPS = 443
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by a reset, so that nobody takes a torn stream for a whole one

_WHY = {
    Reason.NAME_NOT_ALLOWED: "this host is not among the domains that the sandbox may reach",
    Reason.NO_NAME: "the request names no host; addresses cannot be reached in restricted mode",
    Reason.NAME_INVALID: "the request's host is no valid name",
    Reason.NAME_MISMATCH: "the request names more than one host",
    Reason.PORT_NOT_ALLOWED: "only HTTPS, on port 443, may be spoken with this host",
    Reason.ADDRESS_FORBIDDEN: "this host has no public address",
    Reason.NAME_UNRESOLVED: "this host's name has no address",
    Reason.UNREACHABLE: "this host cannot be reached",
    Reason.TIMED_OUT: "it took too long",
    Reason.MALFORMED: "the request is malformed",
    Reason.CREDENTIAL_LOST: "the credential for this host was lost in a restart of the server; create the sandbox anew",
}


_BROKEN_RULES = frozenset((Reason.NAME_MISMATCH, Reason.PROTOCOL_NOT_ALLOWED, Reason.MALFORMED))


class _Refused(Exception):
    def __init__(self, decision: Decision, reason: Reason) -> None:
        super().__init__(reason.value)
        self.decision = decision
        self.reason = reason


class Connection:
    """Takes *guest*, accepted and non-blocking, which `run` closes. *destination* is what the guest dialled."""

    def __init__(self, sandbox: Sandbox, guest: socket.socket, destination: tuple[str, int]) -> None:
        self._sandbox = sandbox
        self._guest = guest
        self._to = destination
        self._at = dt.datetime.now(dt.UTC)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._server: socket.socket | None = None
        self._relay: Relay | None = None
        self._credentials: Sequence[Credential] = ()
        self._answers_http = False
        self._torn = False
        self._protocol = Protocol.TCP
        self._name: str | None = None
        self._port = destination[1]
        self._decided: tuple[Decision, Reason] | None = None
        self._address: str | None = None
        self._sent_on = 0  # bytes of the guest's, before the relay's
        self._intercepted: Intercepted | None = None

    def start(self) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self.run())
        return self._task

    def recheck(self) -> None:
        """End it unless it would be let through by the policy, and with the credentials, of now."""
        if self._task is None or self._decided is None:
            return  # what it asks for will be decided by them
        decision, reason = self._decide()
        changed = self._intercepted is not None and self._credentials != self._credentials_for(self._name)
        if decision is Decision.BLOCKED or changed:
            self._torn = True
            self._task.cancel()
        elif self._decided[0] in {Decision.ALLOWED, Decision.REPORTED}:
            self._decided = decision, reason

    def end_if_idle(self) -> None:
        if self._relay is not None and self._task is not None:
            limit = HALF_CLOSED_IDLE_S if self._relay.half_closed else IDLE_S
            if self._loop.time() - self._relay.idle_since() > limit:
                self._torn = True
                self._task.cancel()

    async def run(self) -> None:
        """Serve it. Raises nothing but CancelledError; the record is made in any case."""
        try:
            await self._serve()
        except _Refused as refused:
            self._decided = refused.decision, refused.reason
            await self._say_no(refused.reason)
        except (OSError, Malformed):
            self._torn = True  # one end broke off; the record has what was carried until then
        finally:
            self._close()
            if self._decided is not None:
                self._record(*self._decided)

    async def _serve(self) -> None:
        silence_s = SILENCE_S if self._server_may_speak_first() else None
        sniffed = await sniff(self._guest, timeout_s=HEAD_TIMEOUT_S, silence_s=silence_s)
        self._protocol = sniffed.protocol
        if sniffed.head is not None and self._for_a_proxy(sniffed):
            await self._proxied(sniffed, sniffed.head)
            return
        if self._open:
            with contextlib.suppress(names.NameInvalid):
                self._name = _named(sniffed.name)
        else:
            self._answers_http = sniffed.protocol is Protocol.HTTP
            self._refuse_if(sniffed.fault)
            self._name = self._valid(sniffed.name)
        self._check()
        await self._pass_on(sniffed, self._target())

    @property
    def _open(self) -> bool:
        return self._sandbox.spec.policy.open

    def _server_may_speak_first(self) -> bool:
        policy = self._sandbox.spec.policy
        return (policy.open or policy.report_only) and self._to[1] != _HTTPS  # there a slow client is only slow

    def _for_a_proxy(self, sniffed: Sniffed) -> bool:
        """In open mode a guest may speak to a proxy elsewhere; ours is at the gateway's address."""
        head = sniffed.head
        return head is not None and head.absolute and (not self._open or self._to[0] == GATEWAY_ADDRESS)

    async def _proxied(self, sniffed: Sniffed, head: http.Head) -> None:
        self._answers_http = True
        if head.host is None:
            raise _Refused(Decision.BLOCKED, Reason.NO_NAME)
        literal = names.address(head.host.decode("latin-1"))
        self._name = self._valid(head.host)
        if head.connect:
            if head.port is None:
                raise _Refused(Decision.BLOCKED, Reason.MALFORMED)
            self._protocol, self._port = Protocol.CONNECT, head.port
        else:
            self._port = head.port or 80
        self._check()
        target = self._name or literal
        assert target is not None
        if head.connect:
            await self._tunnel(sniffed, target)
        else:
            await self._pass_on(sniffed, target)

    async def _tunnel(self, sniffed: Sniffed, target: str | Address) -> None:
        """Carry what is spoken within CONNECT: TLS with the same host, unless the policy lets anything pass."""
        strict = self._decided == (Decision.ALLOWED, Reason.ALLOWED_NAME)
        secret = self._port == _HTTPS and bool(self._credentials_for(self._name))
        if not secret:  # connected before it is confirmed, so that the client hears of a failure
            await self._dial(target)
        await self._loop.sock_sendall(self._guest, b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._answers_http = False
        if not strict and not secret:
            await self._carry(sniffed.rest)
            return
        silence_s = None if strict else SILENCE_S
        inner = await sniff(self._guest, sniffed.rest, timeout_s=HEAD_TIMEOUT_S, silence_s=silence_s)
        if strict:
            self._refuse_if(inner.fault)
            if inner.protocol is not Protocol.TLS:
                raise _Refused(Decision.BLOCKED, Reason.PROTOCOL_NOT_ALLOWED)
            named = self._valid(inner.name)
            if named != self._name:
                raise _Refused(Decision.BLOCKED, Reason.NO_NAME if named is None else Reason.NAME_MISMATCH)
        if secret and inner.protocol is Protocol.TLS and self._same_name(inner.name):
            await self._intercept(inner.data)
            return
        if self._server is None:
            await self._dial(target)
        await self._carry(inner.data)

    def _same_name(self, raw: bytes | None) -> bool:
        with contextlib.suppress(names.NameInvalid):
            return raw is not None and names.asked(raw) == self._name
        return False

    async def _pass_on(self, sniffed: Sniffed, target: str | Address) -> None:
        secret = self._port == _HTTPS and sniffed.protocol is Protocol.TLS and sniffed.fault is None
        if secret and self._credentials_for(self._name):
            await self._intercept(sniffed.data)
            return
        if isinstance(target, str):
            self._name = target
        await self._dial(target)
        head = sniffed.head
        if head is None or (self._open and not head.absolute) or head.connect:
            await self._carry(sniffed.data)
            return
        body = http.Body(head.length)
        await self._carry(head.closing() + sniffed.rest[: body.take(sniffed.rest)], body)

    async def _intercept(self, head: bytes) -> None:
        """Speak for the server, and put credentials in."""
        assert self._name is not None
        name, sandbox = self._name, self._sandbox
        self._credentials = self._credentials_for(name)
        if sandbox.authority is None or not all(each.value for each in self._credentials):
            raise _Refused(Decision.BLOCKED, Reason.CREDENTIAL_LOST)
        self._intercepted = progress = Intercepted()

        async def dial() -> socket.socket:
            connected, self._address = await sandbox.world.dialer.dial(name, self._port, sandbox.lookups)
            return connected

        try:
            await intercept(
                self._guest,
                head,
                name,
                self._credentials,
                sandbox.authority,
                dial,
                trust=sandbox.world.trust,
                progress=progress,
            )
        except DialFailed as failed:
            raise _failed(failed) from failed
        if progress.reason is not None:
            raise _Refused(Decision.BLOCKED if progress.reason in _BROKEN_RULES else Decision.FAILED, progress.reason)

    async def _dial(self, target: str | Address) -> None:
        try:
            self._server, self._address = await self._sandbox.world.dialer.dial(
                target, self._port, self._sandbox.lookups
            )
        except DialFailed as failed:
            raise _failed(failed) from failed

    async def _carry(self, first: bytes, body: http.Body | None = None) -> None:
        assert self._server is not None
        if first:
            await self._loop.sock_sendall(self._server, first)
            self._sent_on += len(first)
        self._relay = Relay(self._guest, self._server, body=body)
        await self._relay.run()

    def _check(self) -> None:
        """Decide. Raises _Refused."""
        self._decided = self._decide()
        if self._decided[0] is Decision.BLOCKED:
            raise _Refused(*self._decided)

    def _decide(self) -> tuple[Decision, Reason]:
        return decide(self._sandbox.spec.policy, self._sandbox.allowed, self._protocol, self._name, self._port)

    def _target(self) -> str | Address:
        """What to dial: the allowed name; otherwise what the guest dialled, as without us."""
        if self._decided == (Decision.ALLOWED, Reason.ALLOWED_NAME):
            assert self._name is not None
            return self._name
        literal = ipaddress.IPv4Address(self._to[0])
        if literal in NETWORK or self._to[0] == GATEWAY_ADDRESS:
            target = self._sandbox.names.name(self._to[0]) or self._name
            if target is None:  # an answer of ours from so long ago that we forgot it
                raise _Refused(Decision.BLOCKED, Reason.NO_NAME)
            return target
        return literal

    def _valid(self, raw: bytes | None) -> str | None:
        """The name in its one form; None without one. Raises _Refused for what is none."""
        try:
            return _named(raw)
        except names.NameInvalid as error:
            raise _Refused(Decision.BLOCKED, Reason.NAME_INVALID) from error

    def _credentials_for(self, name: str | None) -> Sequence[Credential]:
        return [each for each in self._sandbox.spec.credentials if name in each.hosts]

    def _refuse_if(self, fault: Reason | None) -> None:
        if fault is not None:
            raise _Refused(Decision.BLOCKED, fault)

    async def _say_no(self, reason: Reason) -> None:
        """Tell the client, as its protocol can, and let it read that before the connection is closed."""
        if self._intercepted is not None:
            return  # it was told, within TLS
        if self._answers_http:
            status = {Reason.TIMED_OUT: "504 Gateway Timeout", Reason.UNREACHABLE: "502 Bad Gateway"}
            why = _WHY.get(reason, "it is not allowed")
            answer = http.refusal(status.get(reason, "403 Forbidden"), f"terp: {why} ({reason.value})")
        elif self._protocol in {Protocol.TLS, Protocol.CONNECT}:
            failed = self._decided is not None and self._decided[0] is Decision.FAILED
            answer = tls.INTERNAL_ERROR if failed else tls.ACCESS_DENIED
        else:
            return
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_LINGER_S):
                await self._loop.sock_sendall(self._guest, answer)
                self._guest.shutdown(socket.SHUT_WR)
                for _ in range(64):
                    if not await self._loop.sock_recv(self._guest, 16 * 1024):
                        break

    def _close(self) -> None:
        for end in (self._guest, self._server):
            if end is not None:
                if self._torn:
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.close()

    def _record(self, decision: Decision, reason: Reason) -> None:
        carried = self._intercepted or self._relay
        self._sandbox.world.record(
            EgressRecord(
                id=str(ULID()),
                sandbox_id=self._sandbox.id,
                tenant=self._sandbox.spec.tenant,
                at=self._at,
                protocol=self._protocol,
                name=self._name,
                address=self._address,
                port=self._port,
                decision=decision,
                reason=reason,
                bytes_out=self._sent_on + (carried.bytes_out if carried else 0),
                bytes_in=carried.bytes_in if carried else 0,
                duration_ms=int((self._loop.time() - self._began) * 1000),
                credential=self._intercepted.credential if self._intercepted else None,
            )
        )


def _named(raw: bytes | None) -> str | None:
    """Raises NameInvalid."""
    if raw is None or names.address(raw.decode("latin-1")) is not None:
        return None
    return names.asked(raw)


def _failed(failed: DialFailed) -> _Refused:
    """What the policy let through and cannot be reached; a forbidden address is blocked, whoever allowed the name."""
    blocked = failed.reason is Reason.ADDRESS_FORBIDDEN
    return _Refused(Decision.BLOCKED if blocked else Decision.FAILED, failed.reason)
