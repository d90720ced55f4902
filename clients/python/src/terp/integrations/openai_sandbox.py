"""
Terp as a sandbox provider of the OpenAI Agents SDK. Needs the extra `openai-agents`.

    agent = SandboxAgent(name="Coder", instructions="Work in the workspace.")
    sandbox = SandboxRunConfig(client=TerpSandboxClient(), options=TerpSandboxClientOptions(network="restricted"))
    result = await Runner.run(agent, "Fix the tests.", run_config=RunConfig(sandbox=sandbox))

The SDK creates the machine, puts its manifest into /workspace, gives the agent tools of its own (shell, terminals,
patches) and ends the machine afterwards. With `pause_on_exit` it is paused instead, and a later run with the same
session state goes on in it: files, memory and processes.
"""

from __future__ import annotations

import uuid

from terp import AsyncSandbox, AsyncTerp
from terp.errors import SandboxNotFound

try:
    import agents as _  # noqa: F401 - for all imports below
except ImportError as missing:
    needed = "terp.integrations.openai_sandbox needs more packages: pip install 'terp[openai-agents]'"
    raise ImportError(needed) from missing

from agents.sandbox import Manifest, SnapshotSpec, resolve_snapshot
from agents.sandbox.session import (
    BaseSandboxClient,
    Dependencies,
    Instrumentation,
    SandboxSession,
    SandboxSessionState,
)
from agents.sandbox.snapshot import SnapshotBase

from terp.integrations.openai_session import TerpSandboxSession
from terp.integrations.openai_state import TerpSandboxClientOptions, TerpSandboxSessionState

__all__ = ["TerpSandboxClient", "TerpSandboxClientOptions", "TerpSandboxSession", "TerpSandboxSessionState"]

_ENDED = ("terminated", "failed")


class TerpSandboxClient(BaseSandboxClient[TerpSandboxClientOptions | None]):
    """
    Creates machines for the SDK's sessions.

    Args:
        client: The connection; else the default one, with TERP_API_KEY and TERP_BASE_URL from the environment.
    """

    backend_id = "terp"
    supports_default_options = True

    def __init__(
        self,
        client: AsyncTerp | None = None,
        *,
        instrumentation: Instrumentation | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        self._client = client
        self._instrumentation = instrumentation or Instrumentation()
        self._dependencies = dependencies

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: TerpSandboxClientOptions | None = None,
    ) -> SandboxSession:
        """
        Create a machine.

        Args:
            snapshot: The SDK's copies of a workspace; a snapshot of Terp's goes into *options*.

        Raises:
            TerpError: As of `AsyncSandbox.create`.
        """
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        options = options or TerpSandboxClientOptions()
        session_id = uuid.uuid4()
        copies = resolve_snapshot(snapshot, str(session_id))
        sandbox = await self._create(options)
        state = TerpSandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=copies,
            sandbox_id=sandbox.id,
            options=options,
            exposed_ports=options.exposed_ports,
        )
        return self._session(state, sandbox)

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """
        Return a session in the machine of *state*, resumed if it is paused, with a new lease.

        When that machine is gone the session gets a new one, which the SDK fills from its snapshot of the workspace.

        Raises:
            TerpError: As of `AsyncSandbox.get`, `resume` and `create`.
        """
        if not isinstance(state, TerpSandboxSessionState):
            raise TypeError(f"This is no state of a Terp session: {type(state).__name__}")
        state.assert_path_grants_rebound()
        sandbox = await self._found(state)
        preserved = sandbox is not None
        if sandbox is None:
            sandbox = await self._create(state.options)
            state.sandbox_id = sandbox.id
            state.workspace_root_ready = False
        return self._session(state, sandbox, preserved=preserved)

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """End the session's machine, or see that it is paused with `pause_on_exit`. Best effort: its lease ends it."""
        if not isinstance(session._inner, TerpSandboxSession):  # noqa: SLF001 - the SDK gives providers no other way
            raise TypeError("This is no session of Terp's")
        await session._inner.shutdown()  # noqa: SLF001
        return session

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        return self._deserialize_session_state_payload(payload, TerpSandboxSessionState)

    async def _create(self, options: TerpSandboxClientOptions) -> AsyncSandbox:
        return await AsyncSandbox.create(
            options.template,
            snapshot=options.from_snapshot,
            size=options.size,
            network=options.network,
            allow_domains=options.allow_domains,
            timeout=options.timeout,
            on_timeout="pause" if options.pause_on_exit else "kill",
            env=options.env,
            metadata=options.metadata,
            volume=options.volume,
            client=self._client,
        )

    async def _found(self, state: TerpSandboxSessionState) -> AsyncSandbox | None:
        """Return the machine of *state*, running; None when it is gone."""
        try:
            sandbox = await AsyncSandbox.get(state.sandbox_id, client=self._client)
        except SandboxNotFound:
            return None
        if sandbox.status in _ENDED:
            return None
        if sandbox.status == "paused":
            await sandbox.resume()
        else:
            await sandbox.set_timeout(state.options.timeout)
        return sandbox

    def _session(
        self, state: TerpSandboxSessionState, sandbox: AsyncSandbox, *, preserved: bool = False
    ) -> SandboxSession:
        inner = TerpSandboxSession(state, sandbox)
        inner._set_start_state_preserved(preserved)  # noqa: SLF001
        return self._wrap_session(inner, instrumentation=self._instrumentation)
