# Generated from src/terp/_async/sandbox.py by tools/sync.py: change that one.
"""The sandbox: create, run commands, let it reach hosts, pause, fork, terminate."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal

from terp import pairs
from terp._sync.client import Terp
from terp._sync.default import default_client
from terp._sync.files import Files
from terp._sync.snapshot import Snapshot
from terp.errors import ConnectionFailed, RequestTimeout, StateConflict, TerpError
from terp.models import (
    Connection,
    DeletionReceipt,
    ExecEvent,
    ExecResult,
    Limits,
    Paused,
    SandboxInfo,
    Secret,
    Stderr,
    Stdout,
    Traffic,
)
from terp.protocol import replies, requests
from terp.protocol.events import EventParser, ExecReader
from terp.protocol.output import Output
from terp.protocol.requests import Life, Reach, Request

ENDED = ("terminated", "failed")


class Sandbox:
    """
    A sandbox: a virtual machine of its own, reached over the server's API.

        with Sandbox.create(template="python-3.12") as sbx:
            sbx.files.write("/workspace/main.py", "print(6 * 7)")
            result = sbx.exec("python /workspace/main.py")
            print(result.stdout)

    Leaving the `with` block terminates it, also when it is paused. Objects come from `create`, `fork`, `get` and
    `list`; what they say of the sandbox is what the server said last, `refresh` asks again. Several tasks or threads
    may use one object.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: Terp, info: SandboxInfo) -> None:
        self._client = client
        self._info = info
        self.files = Files(client, info.id)

    # ---- where sandboxes come from ----

    @classmethod
    def create(
        cls,
        template: str | None = None,
        *,
        snapshot: Snapshot | str | None = None,
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
        client: Terp | None = None,
    ) -> Sandbox:
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

        Raises:
            TemplateNotFound, SnapshotNotFound, InvalidRequest, NotOffered, PlanLimit: Nothing was started.
            StateMismatch, StateDamaged: The snapshot cannot be used here. Nothing was started.
            CapacityUnavailable: The server stayed full for the client's `wait_for_capacity`. Nothing was started.
            GuestFault, DeadlineExceeded: The machine did not come up.

        A reply that is lost on the way is asked for again, and never makes a second sandbox.
        """
        client = client or default_client()
        request = requests.create(
            template=template,
            snapshot=snapshot.id if isinstance(snapshot, Snapshot) else snapshot,
            size=size,
            life=Life(timeout, on_timeout, auto_resume, env or {}, metadata or {}),
            reach=Reach(network, allow_domains, report_only, secrets, preview_auth),
        )
        info = replies.read_sandbox(client.call(request))
        if info.status in ENDED:
            raise StateConflict(f"Sandbox {info.id} is {info.status} already; create a new one")
        return cls(client, info)

    @classmethod
    def get(cls, sandbox_id: str, *, client: Terp | None = None) -> Sandbox:
        """
        Return an existing sandbox, whatever its status.

        Raises:
            SandboxNotFound: It never existed, or is another tenant's.
        """
        client = client or default_client()
        return cls(client, replies.read_sandbox(client.call(requests.get(sandbox_id))))

    @classmethod
    def list(
        cls,
        *,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
        client: Terp | None = None,
    ) -> Iterator[Sandbox]:
        """
        Yield the sandboxes of this key's tenant, newest first, asking for further pages as needed.

        Args:
            status: Only those: `starting`, `running`, `pausing`, `paused`, `resuming`, `terminated` or `failed`.
            metadata: Only those with all of these labels.
        """
        client = client or default_client()
        cursor = None
        while True:
            reply = client.call(requests.list_page(status=status, metadata=metadata or {}, cursor=cursor))
            infos, cursor = replies.read_page(reply)
            for info in infos:
                yield cls(client, info)
            if cursor is None:
                return

    @classmethod
    def limits(cls, *, client: Terp | None = None) -> Limits:
        """Return what this API key may have."""
        client = client or default_client()
        return replies.read_limits(client.call(requests.limits()))

    # ---- commands ----

    def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        timeout: int = 60,
        stdin: str | bytes | None = None,
        on_stdout: pairs.OnText | None = None,
        on_stderr: pairs.OnText | None = None,
    ) -> ExecResult:
        """
        Run *command* to its end.

        Args:
            command: A line for the shell, or a sequence of arguments that reach the program as they are.
            env: On top of the sandbox's own.
            timeout: Seconds; then the command and all it started get SIGTERM, and SIGKILL 2 s later.
            stdin: What the command reads, UTF-8 of at most 8 MiB; None is an empty input.
            on_stdout, on_stderr: Called with the text as it comes. What they raise comes out.

        Returns:
            The result, whatever the exit code. `.check()` raises CommandFailed if it is not 0.

        Raises:
            ExecTimeout, ExecKilled: It did not end by itself; the error holds its output so far.
            InvalidRequest: The directory does not exist, or a value is out of bounds.
            StateConflict: The sandbox does not run, or was paused meanwhile: the command then goes on with it.
            GuestFault: The guest is lost.

        Cancelled or disconnected, the command runs on until its timeout. To follow it then use `exec_stream`, which
        says by which id `attach` finds it.
        """
        output = Output()
        try:
            stream = self.exec_stream(command, cwd=cwd, env=env, timeout=timeout, stdin=stdin)
            with contextlib.closing(stream) as events:
                for event in events:
                    output.add(event)
                    if isinstance(event, Stdout) and on_stdout and event.text:
                        pairs.call(on_stdout, event.text)
                    elif isinstance(event, Stderr) and on_stderr and event.text:
                        pairs.call(on_stderr, event.text)
        except TerpError as error:
            output.attach_to(error)
            raise
        return output.result()

    def exec_stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        timeout: int = 60,
        stdin: str | bytes | None = None,
    ) -> pairs.Stream[ExecEvent]:
        """
        Run *command* and yield what happens: `Started`, any `Stdout` and `Stderr`, `Exited`.

        Arguments and errors as of `exec`. Reading slowly holds the command back. Leaving early lets it run on until
        its timeout.
        """
        request = requests.exec_stream(self.id, command, cwd=cwd, env=env or {}, timeout=timeout, stdin=stdin)
        with contextlib.closing(self._events(request)) as events:
            for event in events:
                yield event

    def attach(self, command_id: str, *, offset: int = 0) -> pairs.Stream[ExecEvent]:
        """
        Follow a command that was started before, and yield what happens as `exec_stream` does.

            for event in sbx.attach(started.command_id, offset=last.offset + len(last.data)):
                ...

        Args:
            command_id: `Started.command_id` of its first stream.
            offset: Bytes of output to leave out, of both streams together. The guest keeps a bounded part of a
                command's output: where older output is gone, the first event has a later offset.

        Raises:
            ExecNotFound: No such command in this sandbox, or it ended long ago.
        """
        request = requests.attach(self.id, command_id, offset=offset)
        with contextlib.closing(self._events(request)) as events:
            for event in events:
                yield event

    def _events(self, request: Request) -> pairs.Stream[ExecEvent]:
        parser, reader = EventParser(), ExecReader()
        with self._client.stream(request) as chunks:
            try:
                for chunk in chunks:
                    if reader.finished:
                        return
                    for payload in parser.feed(chunk):
                        for event in reader.read(payload):
                            yield event
                    # After the last event one more chunk is asked for: it is the body's end, and having seen it lets
                    # the connection be used again.
            except (ConnectionFailed, RequestTimeout):
                if not reader.finished:
                    raise
        if not reader.finished:
            raise ConnectionFailed("The stream ended before the command did; it runs on, `attach` follows it")

    # ---- what it reaches, and who reaches it ----

    def set_network(
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
        self._info = replies.read_network(self._client.call(request), self._info)

    def egress(
        self, *, decision: str | None = None, name: str | None = None, since: dt.datetime | None = None
    ) -> Iterator[Connection]:
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
            connections, cursor = replies.read_egress(self._client.call(request))
            for connection in connections:
                yield connection
            if cursor is None:
                return

    def traffic(self) -> Traffic:
        """Return what it has sent and received since it was created."""
        return replies.read_traffic(self._client.call(requests.egress(self.id, limit=1)))

    def host(self, port: int) -> str:
        """
        Return the host name under which the server serves what listens on that port in the sandbox.

        It stays the same for the sandbox's life, whether anybody listens or not.

        Raises:
            NetworkBlocked: Its network is `off`.
            StateConflict: It has ended.
        """
        return replies.read_host(self._client.call(requests.host(self.id, port)))

    def preview_url(self, port: int) -> str:
        """
        Return the address of what listens on that port in the sandbox, for HTTP and WebSockets.

        Unless the sandbox was created with `preview_auth=False` the address holds a token: who has the address, can
        use it. With `auto_resume` a request to it wakes a paused sandbox.

        Raises:
            NetworkBlocked: Its network is `off`.
            StateConflict: It has ended.
        """
        host = self.host(port)
        return requests.preview_url(self._client.settings.base_url, host, self._info.preview_auth_token)

    # ---- its life ----

    def set_timeout(self, seconds: int) -> None:
        """
        Let the sandbox end *seconds* from now, earlier or later than before.

        Raises:
            StateConflict: It does not run.
        """
        expires_at = replies.read_expiry(self._client.call(requests.set_timeout(self.id, seconds)))
        self._info = dataclasses.replace(self._info, expires_at=expires_at)

    def pause(self) -> Paused:
        """
        Save memory, processes and files, encrypted, and free the machine. `resume` lets it go on.

        It takes time in proportion to what the sandbox has changed. Commands under way stop where they are and go on
        after the resume; their calls end with StateConflict, and `attach` follows them then.

        Raises:
            StateConflict: It does not run.
            SnapshotCap, StorageFull: It was not paused and runs on.
        """
        paused = replies.read_paused(self._client.call(requests.pause(self.id)))
        self._info = dataclasses.replace(self._info, status="paused", stored_bytes=paused.stored_bytes)
        return paused

    def resume(self) -> None:
        """
        Let a paused sandbox go on, under the same id. A lease as long as the one before begins.

        Raises:
            StateConflict: It is not paused.
            PlanLimit: As many run as this key may have. It stays paused.
            CapacityUnavailable: The server stayed full for the client's `wait_for_capacity`. It stays paused.
            StateMismatch, StateDamaged: What was saved cannot be used here. It stays paused.
        """
        self._info = replies.read_sandbox(self._client.call(requests.resume(self.id)))

    def snapshot(self, name: str | None = None) -> Snapshot:
        """
        Keep the sandbox as it is now, for `create(snapshot=...)`. It stands still for a moment and runs on.

        Args:
            name: For people; 1 to 128 bytes, need not be unique.

        Raises:
            StateConflict: It does not run.
            SnapshotCap, StorageFull: Nothing was kept.
        """
        reply = self._client.call(requests.take_snapshot(self.id, name=name))
        return Snapshot(self._client, replies.read_snapshot(reply))

    def fork(
        self,
        count: int = 1,
        *,
        timeout: int = 600,
        on_timeout: str = "kill",
        auto_resume: bool = False,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Sandbox, ...]:
        """
        Start *count* others from this one, which stands still for a moment and runs on.

        Each has this one's memory, processes and files of that moment, and an id, names and random numbers of its own.

        Args:
            count: 1 to `limits().max_fork`.
            timeout, on_timeout, auto_resume, metadata: The children's, as in `create`.
            env: Set over what this one has.

        Returns:
            The children, running, in no order.

        Raises:
            StateConflict: It does not run.
            PlanLimit, CapacityUnavailable, StorageFull: Not all fit, so none was started.
        """
        life = Life(timeout, on_timeout, auto_resume, env or {}, metadata or {})
        reply = self._client.call(requests.fork(self.id, count=count, life=life))
        return tuple(type(self)(self._client, info) for info in replies.read_sandboxes(reply))

    def deletion_receipts(self) -> tuple[DeletionReceipt, ...]:
        """Return the proof that its key was destroyed; nothing while it lives."""
        return self._client.deletion_receipts(subject=self.id)

    def refresh(self) -> None:
        """Ask the server how the sandbox is now."""
        self._info = replies.read_sandbox(self._client.call(requests.get(self.id)))

    def terminate(self) -> None:
        """
        End the sandbox, running or paused, with all it holds. Doing it again does nothing.

        The key of its disk and of all that was saved of it is destroyed; `deletion_receipts` says when.
        """
        if self.status in ENDED:
            return
        self._client.call(requests.terminate(self.id))
        self._info = dataclasses.replace(self._info, status="terminated")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            pairs.finish(self.terminate)
        except TerpError as failure:
            if error is None:
                raise
            if hasattr(error, "add_note"):  # Python 3.11; the block's own error is the one to tell
                error.add_note(f"{self.id} was not terminated, its lease will end it: {failure.detail}")

    # ---- what the server said last ----

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
