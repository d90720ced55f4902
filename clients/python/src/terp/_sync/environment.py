# Generated from src/terp/_async/environment.py by tools/sync.py: change that one.
"""The variables of one sandbox that are set while it runs."""

from __future__ import annotations

from collections.abc import Mapping

from terp._sync.client import Terp
from terp.protocol import command_replies as replies
from terp.protocol import command_requests as requests


class Environment:
    """
    Variables of commands, terminals and kernels that start from now on.

        sbx.env.set({"API_URL": "https://api.example.com"}, DEBUG="1")

    They stand over those of `create`, are in the guest's memory and on no disk, and cannot be read back. A snapshot or
    fork leaves them out unless it says `include_secrets`.

    Every method may raise StateConflict (the sandbox does not run), and what any request may raise: ConnectionFailed,
    RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: Terp, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    def set(self, variables: Mapping[str, str] | None = None, /, **more: str) -> tuple[str, ...]:
        """
        Set variables, all or none, and return the names of all that are set.

        Raises:
            InvalidRequest: A name is none.
            LimitExceeded: It is too much.
        """
        request = requests.change_env(self._sandbox_id, to_set={**(variables or {}), **more}, to_unset=())
        return replies.read_env(self._client.call(request))

    def unset(self, *names: str) -> tuple[str, ...]:
        """Unset variables, whether they were set or not, and return the names of all that still are."""
        request = requests.change_env(self._sandbox_id, to_set={}, to_unset=names)
        return replies.read_env(self._client.call(request))

    def list(self) -> tuple[str, ...]:
        """Return the names of all that are set here, sorted."""
        return replies.read_env(self._client.call(requests.list_env(self._sandbox_id)))
