"""What all parts of a sandbox's surface stand on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from terp._async.client import AsyncTerp
from terp.models import SandboxInfo


class AsyncSandboxPart:
    """The connection, and what the server said last."""

    _client: AsyncTerp
    _info: SandboxInfo

    @property
    def info(self) -> SandboxInfo:
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def status(self) -> str:
        return self._info.status

    @property
    def template(self) -> str:
        return self._info.template

    @property
    def network(self) -> str:
        return self._info.network

    @property
    def created_at(self) -> dt.datetime:
        return self._info.created_at

    @property
    def expires_at(self) -> dt.datetime:
        return self._info.expires_at

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._info.metadata

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"
