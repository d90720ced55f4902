# Generated from src/terp/_async/part.py by tools/sync.py: change that one.
"""What all parts of a sandbox's surface stand on."""

from __future__ import annotations

from terp._sync.client import Terp
from terp.models import SandboxInfo


class SandboxPart:
    """The connection, and what the server said last."""

    _client: Terp
    _info: SandboxInfo

    @property
    def id(self) -> str:
        return self._info.id
