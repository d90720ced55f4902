"""What all parts of a sandbox's surface stand on."""

from __future__ import annotations

from terp._async.client import AsyncTerp
from terp.models import SandboxInfo


class AsyncSandboxPart:
    """The connection, and what the server said last."""

    _client: AsyncTerp
    _info: SandboxInfo

    @property
    def id(self) -> str:
        return self._info.id
