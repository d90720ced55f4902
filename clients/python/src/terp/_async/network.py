"""What a sandbox reaches, and who reaches it: the part of a sandbox's surface."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from terp._async.part import AsyncSandboxPart
from terp.models import Connection, Traffic
from terp.protocol import replies, requests


class AsyncNetworkCalls(AsyncSandboxPart):
    """The network: the part of a sandbox's surface."""

    async def set_network(
        self,
        mode: str | None = None,
        *,
        allow_domains: Sequence[str] | Literal["default"] | None = None,
        report_only: bool | None = None,
    ) -> None:
        """
        Change what it may reach; what is not given stays. It holds on return, also for connections under way.

        Args:
            mode: `restricted` or `open`. One that was created with `off` has no network device, and gets none.
            allow_domains: The new list of `restricted`; `[]` for nothing at all, `"default"` for the server's list.
            report_only: Whether what would be blocked for its name is let through and reported.

        Raises:
            InvalidRequest: A name is none, the mode is `off`, or nothing is to be changed.
            StateConflict: It has ended, or was created with `off`.
        """
        request = requests.set_network(self.id, mode=mode, allow_domains=allow_domains, report_only=report_only)
        self._info = replies.read_network(await self._client.call(request), self._info)

    async def egress(
        self, *, decision: str | None = None, name: str | None = None, since: dt.datetime | None = None
    ) -> AsyncIterator[Connection]:
        """
        Yield its connections, those that ended last first, asking for further pages as needed.

        They are on record when they are over, and stay readable when the sandbox has ended, as long as the server
        keeps records.

        Args:
            decision: Only those: `allowed`, `reported`, `blocked` or `failed`.
            name: Only those to exactly this host name.
            since: Only those that began then or later.
        """
        cursor = None
        while True:
            request = requests.egress(self.id, decision=decision, name=name, since=since, cursor=cursor)
            connections, cursor = replies.read_egress(await self._client.call(request))
            for connection in connections:
                yield connection
            if cursor is None:
                return

    async def traffic(self) -> Traffic:
        """Return what it has sent and received since it was created."""
        return replies.read_traffic(await self._client.call(requests.egress(self.id, limit=1)))

    async def host(self, port: int) -> str:
        """
        Return the host name under which the server serves what listens on that port in the sandbox.

        It stays the same for the sandbox's life, whether anybody listens or not.

        Raises:
            NetworkBlocked: Its network is `off`.
            StateConflict: It has ended.
        """
        return replies.read_host(await self._client.call(requests.host(self.id, port)))

    async def preview_url(self, port: int) -> str:
        """
        Return the address of what listens on that port in the sandbox, for HTTP and WebSockets.

        Unless the sandbox was created with `preview_auth=False` the address holds a token: who has the address, can
        use it. With `auto_resume` a request to it wakes a paused sandbox.

        Raises:
            NetworkBlocked: Its network is `off`.
            StateConflict: It has ended.
        """
        host = await self.host(port)
        return requests.preview_url(self._client.settings.base_url, host, self._info.preview_auth_token)
