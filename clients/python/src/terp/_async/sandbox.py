"""The sandbox: create, pause, fork, terminate. What is done inside of it is in the modules of its other parts."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType

from terp import pairs
from terp._async.client import AsyncTerp
from terp._async.code import AsyncCodeCalls
from terp._async.commands import AsyncCommandCalls
from terp._async.default import default_client
from terp._async.environment import AsyncEnvironment
from terp._async.files import AsyncFiles
from terp._async.network import AsyncNetworkCalls
from terp._async.pty import AsyncPtyCalls
from terp._async.snapshot import AsyncSnapshot
from terp._async.volume import AsyncVolume
from terp.errors import StateConflict, TerpError
from terp.models import DeletionReceipt, Limits, Metrics, Paused, SandboxInfo, Secret
from terp.protocol import account, replies, requests
from terp.protocol.requests import Life, Reach

ENDED = ("terminated", "failed")


class AsyncSandbox(AsyncCommandCalls, AsyncCodeCalls, AsyncPtyCalls, AsyncNetworkCalls):
    """
    A sandbox: a virtual machine of its own, reached over the server's API.

        async with await AsyncSandbox.create(template="python-3.12") as sbx:
            await sbx.files.write("/workspace/main.py", "print(6 * 7)")
            result = await sbx.exec("python /workspace/main.py")
            print(result.stdout)

    Leaving the `with` block terminates it, also when it is paused. Objects come from `create`, `fork`, `get` and
    `list`; what they say of the sandbox is what the server said last, `refresh` asks again. Several tasks or threads
    may use one object.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: AsyncTerp, info: SandboxInfo) -> None:
        self._client = client
        self._info = info
        self.files = AsyncFiles(client, info.id)
        self.env = AsyncEnvironment(client, info.id)

    # ---- where sandboxes come from ----

    @classmethod
    async def create(
        cls,
        template: str | None = None,
        *,
        snapshot: AsyncSnapshot | str | None = None,
        size: str | None = None,
        network: str | None = None,
        allow_domains: Sequence[str] | None = None,
        report_only: bool | None = None,
        secrets: Sequence[Secret] = (),
        preview_auth: bool = True,
        timeout: int = 600,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        on_timeout: str = "kill",
        auto_resume: bool = False,
        volume: AsyncVolume | str | None = None,
        region: str | None = None,
        client: AsyncTerp | None = None,
    ) -> AsyncSandbox:
        """
        Start a sandbox and return it running.

        Args:
            template: What it starts from; `python-3.12` unless a snapshot is given.
            snapshot: Start from it, or from the one of that id, instead. The new sandbox has its memory, processes and
                files, and names and random numbers of its own.
            size: `small` if not given. With a snapshot it is the snapshot's, and so is the network.
            network: `off`: it has no network device. `restricted`: HTTPS to the hosts of a list. `open`: all public
                addresses. Every connection is on record, see `egress`. If not given, `restricted` with allow_domains
                or secrets, else `off`.
            allow_domains: The list of `restricted`, names below these included, instead of the server's default
                (`limits().default_egress_domains`).
            report_only: Let what would be blocked for its name through, and report it: to find out what a program
                needs.
            secrets: Credentials that it uses without holding them.
            preview_auth: Whether previews ask for a token, which `preview_url` adds. Without, whoever knows a
                preview's host sees it.
            timeout: Seconds from now until it ends by itself; `set_timeout` gives it more.
            env: Environment of every command. It stays in the guest's memory and is recorded nowhere. With a snapshot
                it is set over what that has.
            metadata: Labels of yours, to find it again with `list`.
            on_timeout: What happens when the time is over: `kill` or `pause`.
            auto_resume: While it is paused, a command or a file call resumes it.
            volume: What it has at /persist: a volume, its name or id. One of a new name is made, with 10 GB.
            region: Where it runs; the server's own if not given.

        Raises:
            VolumeInUse: Another sandbox holds the volume. Nothing was started.
            TemplateNotFound, SnapshotNotFound, InvalidRequest, NotOffered, PlanLimit: Nothing was started.
            StateMismatch, StateDamaged: The snapshot cannot be used here. Nothing was started.
            CapacityUnavailable: The server stayed full for the client's `wait_for_capacity`. Nothing was started.
            GuestFault, DeadlineExceeded: The machine did not come up.

        A reply that is lost on the way is asked for again, and never makes a second sandbox.
        """
        client = client or await default_client()
        request = requests.create(
            template=template,
            snapshot=snapshot.id if isinstance(snapshot, AsyncSnapshot) else snapshot,
            size=size,
            life=Life(timeout, on_timeout, auto_resume, env or {}, metadata or {}),
            reach=Reach(network, allow_domains, report_only, secrets, preview_auth),
            volume=volume.id if isinstance(volume, AsyncVolume) else volume,
            region=region,
        )
        info = replies.read_sandbox(await client.call(request))
        if info.status in ENDED:
            raise StateConflict(f"Sandbox {info.id} is {info.status} already; create a new one")
        return cls(client, info)

    @classmethod
    async def get(cls, sandbox_id: str, *, client: AsyncTerp | None = None) -> AsyncSandbox:
        """
        Return an existing sandbox, whatever its status.

        Raises:
            SandboxNotFound: It never existed, or is another tenant's.
        """
        client = client or await default_client()
        return cls(client, replies.read_sandbox(await client.call(requests.get(sandbox_id))))

    @classmethod
    async def list(
        cls,
        *,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
        client: AsyncTerp | None = None,
    ) -> AsyncIterator[AsyncSandbox]:
        """
        Yield the sandboxes of this key's tenant, newest first, asking for further pages as needed.

        Args:
            status: Only those: `starting`, `running`, `pausing`, `paused`, `resuming`, `terminated` or `failed`.
            metadata: Only those with all of these labels.
        """
        client = client or await default_client()
        cursor = None
        while True:
            reply = await client.call(requests.list_page(status=status, metadata=metadata or {}, cursor=cursor))
            infos, cursor = replies.read_page(reply)
            for info in infos:
                yield cls(client, info)
            if cursor is None:
                return

    @classmethod
    async def limits(cls, *, client: AsyncTerp | None = None) -> Limits:
        """Return what this API key may have."""
        client = client or await default_client()
        return replies.read_limits(await client.call(requests.limits()))

    # ---- its life ----

    async def set_timeout(self, seconds: int) -> None:
        """
        Let the sandbox end *seconds* from now, earlier or later than before.

        Raises:
            StateConflict: It does not run.
        """
        expires_at = replies.read_expiry(await self._client.call(requests.set_timeout(self.id, seconds)))
        self._info = dataclasses.replace(self._info, expires_at=expires_at)

    async def pause(self) -> Paused:
        """
        Save memory, processes and files, encrypted, and free the machine. `resume` lets it go on.

        It takes time in proportion to what the sandbox has changed. Commands under way stop where they are and go on
        after the resume; their calls end with StateConflict, and `attach` follows them then.

        Raises:
            StateConflict: It does not run.
            SnapshotCap, StorageFull: It was not paused and runs on.
        """
        paused = replies.read_paused(await self._client.call(requests.pause(self.id)))
        self._info = dataclasses.replace(self._info, status="paused", stored_bytes=paused.stored_bytes)
        return paused

    async def resume(self) -> None:
        """
        Let a paused sandbox go on, under the same id. A lease as long as the one before begins.

        Raises:
            StateConflict: It is not paused.
            PlanLimit: As many run as this key may have. It stays paused.
            CapacityUnavailable: The server stayed full for the client's `wait_for_capacity`. It stays paused.
            StateMismatch, StateDamaged: What was saved cannot be used here. It stays paused.
        """
        self._info = replies.read_sandbox(await self._client.call(requests.resume(self.id)))

    async def snapshot(self, name: str | None = None, *, include_secrets: bool = False) -> AsyncSnapshot:
        """
        Keep the sandbox as it is now, for `create(snapshot=...)`. It stands still for a moment and runs on.

        Args:
            name: For people; 1 to 128 bytes, need not be unique.
            include_secrets: Keep what `env.set` has set, and what commands were given as secrets, too.

        Raises:
            StateConflict: It does not run.
            SecretsInUse: A command that was given secrets runs. Nothing was kept.
            SnapshotCap, StorageFull: Nothing was kept.
        """
        reply = await self._client.call(requests.take_snapshot(self.id, name=name, include_secrets=include_secrets))
        return AsyncSnapshot(self._client, replies.read_snapshot(reply))

    async def fork(
        self,
        count: int = 1,
        *,
        timeout: int = 600,
        on_timeout: str = "kill",
        auto_resume: bool = False,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        include_secrets: bool = False,
    ) -> tuple[AsyncSandbox, ...]:
        """
        Start *count* others from this one, which stands still for a moment and runs on.

        Each has this one's memory, processes and files of that moment, and an id, names and random numbers of its own.

        Args:
            count: 1 to `limits().max_fork`.
            timeout, on_timeout, auto_resume, metadata: The children's, as in `create`.
            env: Set over what this one has.
            include_secrets: Hand on what `env.set` has set, and what commands were given as secrets, too.

        Returns:
            The children, running, in no order.

        Raises:
            StateConflict: It does not run.
            SecretsInUse: A command that was given secrets runs. None was started.
            PlanLimit, CapacityUnavailable, StorageFull: Not all fit, so none was started.
        """
        life = Life(timeout, on_timeout, auto_resume, env or {}, metadata or {})
        reply = await self._client.call(requests.fork(self.id, count=count, life=life, include_secrets=include_secrets))
        return tuple(type(self)(self._client, info) for info in replies.read_sandboxes(reply))

    async def deletion_receipts(self) -> tuple[DeletionReceipt, ...]:
        """Return the proof that its key was destroyed; nothing while it lives."""
        return await self._client.deletion_receipts(subject=self.id)

    async def metrics(self, since: dt.datetime | None = None) -> Metrics:
        """
        Return what it uses now and has used, with a sample a second of the last minute.

        Args:
            since: Only samples after that, in whole seconds.
        """
        return account.read_metrics(await self._client.call(account.metrics(self.id, since=since)))

    async def refresh(self) -> None:
        """Ask the server how the sandbox is now."""
        self._info = replies.read_sandbox(await self._client.call(requests.get(self.id)))

    async def terminate(self) -> None:
        """
        End the sandbox, running or paused, with all it holds. Doing it again does nothing.

        The key of its disk and of all that was saved of it is destroyed; `deletion_receipts` says when.
        """
        if self.status in ENDED:
            return
        await self._client.call(requests.terminate(self.id))
        self._info = dataclasses.replace(self._info, status="terminated")

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await pairs.finish_async(self.terminate)
        except TerpError as failure:
            if error is None:
                raise
            if hasattr(error, "add_note"):  # Python 3.11; the block's own error is the one to tell
                error.add_note(f"{self.id} was not terminated, its lease will end it: {failure.detail}")
