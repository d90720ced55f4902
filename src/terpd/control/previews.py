"""
Previews: a host name for each port of a sandbox, and the way to it.

The host is `<port>-<ulid>.<base>`, the ULID that of the sandbox's id in lower case, which cannot be guessed. With
`preview_auth` a token is needed besides, which is derived from the server's key.
"""

from __future__ import annotations

import base64
import hmac
import re
import socket
from dataclasses import dataclass

from terpd.control.awake import Awake
from terpd.control.ended import explaining_end
from terpd.control.policy import Policy
from terpd.model.errors import InvalidRequest, NetworkBlocked, SandboxNotFound, StateConflict, Unauthenticated
from terpd.model.ids import SandboxId, TenantId, parse_sandbox_id
from terpd.model.ports import Node, Store
from terpd.model.sandbox import FINAL, Network, Sandbox
from terpd.sealing.keyring import KeyRing

_LABEL = re.compile(r"([1-9][0-9]{0,4})-([0-9a-z]{26})")
_MAX_PORT = 65535
_USE = "preview-token"


@dataclass(frozen=True, slots=True)
class Preview:
    """`socket` is connected to *port* of the guest, non-blocking, and its holder's to close."""

    sandbox: Sandbox
    port: int
    socket: socket.socket


class Previews:
    def __init__(self, store: Store, node: Node, policy: Policy, keys: KeyRing, awake: Awake) -> None:
        self._store = store
        self._node = node
        self._base = policy.preview_base
        self._keys = keys
        self._awake = awake

    async def host(self, tenant: TenantId, sandbox_id: SandboxId, port: int) -> str:
        """
        Return the host name of a port. It stays the same for the sandbox's life, whether anybody listens or not.

        Raises:
            InvalidRequest: *port* is not 1 to 65535.
            SandboxNotFound.
            NetworkBlocked: The sandbox's network is `off`.
            StateConflict: It has ended.
        """
        if not 1 <= port <= _MAX_PORT:
            raise InvalidRequest(f"port must be 1 to {_MAX_PORT}, not: {port}")
        sandbox = await self._store.get_sandbox(tenant, sandbox_id)
        if sandbox.network is Network.OFF:
            raise NetworkBlocked(f"Sandbox {sandbox_id} has network 'off'; previews need 'restricted' or 'open'")
        if sandbox.status in FINAL:
            raise StateConflict(
                f"Sandbox {sandbox_id} is {sandbox.status} ({sandbox.end_reason}); create a new one",
                fields={"status": str(sandbox.status)},
            )
        return f"{port}-{self.host_base(sandbox_id)}"

    def host_base(self, sandbox_id: SandboxId) -> str:
        """What follows the port and a hyphen in the host of every port."""
        return f"{sandbox_id.removeprefix('sbx_').lower()}.{self._base}"

    def token(self, sandbox: Sandbox) -> str | None:
        """What its previews ask for; None when they ask for nothing."""
        return _token(self._keys.derive(_USE), sandbox.id) if sandbox.preview_auth else None

    def admits(self, sandbox: Sandbox, token: str | None) -> bool:
        """Whether *token* opens its previews. Those of former server keys do while these keys are here."""
        if not sandbox.preview_auth:
            return True
        # All are compared, and in constant time.
        given = (token or "").encode(errors="replace")
        found = [
            hmac.compare_digest(given, _token(secret, sandbox.id).encode()) for secret in self._keys.derive_all(_USE)
        ]
        return any(found)

    def label(self, host: str) -> str | None:
        """Return the part of a request's Host before the base, in lower case; None for one that is no preview's."""
        name = host.partition(":")[0].lower().removesuffix(".")
        label = name.removesuffix(f".{self._base}")
        return label if label != name and _LABEL.fullmatch(label) else None

    async def find(self, host_label: str) -> Sandbox:
        """
        Return the sandbox that a preview's host names; *host_label* is the part before the base.

        Raises:
            SandboxNotFound: No sandbox of this server has previews under that name.
        """
        sandbox_id, _ = _parse(host_label)
        sandbox = await self._store.sandbox_of_any_tenant(sandbox_id)
        if sandbox.network is Network.OFF:
            raise SandboxNotFound("There is no such preview")
        return sandbox

    async def open(self, host_label: str, token: str | None) -> Preview:
        """
        Connect to what a preview's host names; *host_label* is the part before the base.

        A sandbox that is paused is resumed first if it has `auto_resume`.

        Raises:
            SandboxNotFound: No sandbox of this server has previews under that name.
            Unauthenticated: It asks for a token, and this is not it.
            StateConflict: It does not run, and does not wake by itself.
            Unavailable: Nobody listens on that port, or the guest does not answer.
            TerpError: As resuming raises.
        """
        sandbox_id, port = _parse(host_label)
        sandbox = await self.find(host_label)
        if not self.admits(sandbox, token):
            raise Unauthenticated("This preview needs its token")
        awake = await self._awake(sandbox.tenant, sandbox_id)
        async with explaining_end(self._store, sandbox.tenant, sandbox_id, "before its preview was reached"):
            return Preview(awake, port, await self._node.dial(sandbox_id, port))


def _parse(host_label: str) -> tuple[SandboxId, int]:
    found = _LABEL.fullmatch(host_label.lower())
    sandbox_id = None if found is None else parse_sandbox_id(f"sbx_{found[2].upper()}")
    if found is None or sandbox_id is None or int(found[1]) > _MAX_PORT:
        raise SandboxNotFound("There is no such preview")
    return sandbox_id, int(found[1])


def _token(secret: bytes, sandbox_id: SandboxId) -> str:
    return base64.urlsafe_b64encode(hmac.digest(secret, sandbox_id.encode(), "sha256")).decode().rstrip("=")
