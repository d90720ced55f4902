"""The sandbox: create, run commands, terminate."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType

from terp import pairs
from terp._async.client import AsyncTerp
from terp._async.default import default_client
from terp._async.files import AsyncFiles
from terp.errors import ConnectionFailed, RequestTimeout, StateConflict, TerpError
from terp.models import ExecEvent, ExecResult, Limits, SandboxInfo, Stderr, Stdout
from terp.protocol import replies, requests
from terp.protocol.events import EventParser, ExecReader
from terp.protocol.output import Output

ENDED = ("terminated", "failed")


class AsyncSandbox:
    """
    A sandbox: a virtual machine of its own, reached over the server's API.

        async with await AsyncSandbox.create(template="python-3.12") as sbx:
            await sbx.files.write("/workspace/main.py", "print(6 * 7)")
            result = await sbx.exec("python /workspace/main.py")
            print(result.stdout)

    Leaving the `with` block terminates it. Objects come from `create`, `get` and `list`; what they say of the sandbox
    is what the server said last, `refresh` asks again. Several tasks or threads may use one object.

    Every method may raise what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
    """

    def __init__(self, client: AsyncTerp, info: SandboxInfo) -> None:
        self._client = client
        self._info = info
        self.files = AsyncFiles(client, info.id)

    # ---- where sandboxes come from ----

    @classmethod
    async def create(
        cls,
        template: str = "python-3.12",
        *,
        size: str = "small",
        network: str = "off",
        timeout: int = 600,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        on_timeout: str = "kill",
        client: AsyncTerp | None = None,
    ) -> AsyncSandbox:
        """
        Start a sandbox and return it running.

        Args:
            network: `off`, `restricted` or `open`, as far as the server offers it.
            timeout: Seconds from now until it ends by itself; `set_timeout` gives it more.
            env: Environment of every command. It stays in the guest's memory and is recorded nowhere.
            metadata: Labels of yours, to find it again with `list`.
            on_timeout: `kill` or `pause`, as far as the server offers it.

        Raises:
            TemplateNotFound, InvalidRequest, NotOffered, PlanLimit: Nothing was started.
            CapacityUnavailable: The server stayed full for the client's `wait_for_capacity`. Nothing was started.
            GuestFault, DeadlineExceeded: The machine did not come up.

        A reply that is lost on the way is asked for again, and never makes a second sandbox.
        """
        client = client or await default_client()
        request = requests.create(
            template=template,
            size=size,
            network=network,
            timeout=timeout,
            on_timeout=on_timeout,
            env=env or {},
            metadata=metadata or {},
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
            status: Only those: `starting`, `running`, `terminated` or `failed`.
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

    # ---- commands ----

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        timeout: int = 60,
        stdin: str | bytes | None = None,
        on_stdout: pairs.AsyncOnText | None = None,
        on_stderr: pairs.AsyncOnText | None = None,
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
            StateConflict: The sandbox does not run.
            GuestFault: The guest is lost.

        Cancelled or disconnected, the command runs on until its timeout.
        """
        output = Output()
        try:
            stream = self.exec_stream(command, cwd=cwd, env=env, timeout=timeout, stdin=stdin)
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    output.add(event)
                    if isinstance(event, Stdout) and on_stdout and event.text:
                        await pairs.call_async(on_stdout, event.text)
                    elif isinstance(event, Stderr) and on_stderr and event.text:
                        await pairs.call_async(on_stderr, event.text)
        except TerpError as error:
            output.attach_to(error)
            raise
        return output.result()

    async def exec_stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        timeout: int = 60,
        stdin: str | bytes | None = None,
    ) -> pairs.AsyncStream[ExecEvent]:
        """
        Run *command* and yield what happens: `Started`, any `Stdout` and `Stderr`, `Exited`.

        Arguments and errors as of `exec`. Reading slowly holds the command back. Leaving early lets it run on until
        its timeout.
        """
        request = requests.exec_stream(self.id, command, cwd=cwd, env=env or {}, timeout=timeout, stdin=stdin)
        parser, reader = EventParser(), ExecReader()
        async with self._client.stream(request) as chunks:
            try:
                async for chunk in chunks:
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
            raise ConnectionFailed("The stream ended before the command did; it runs on until its timeout")

    # ---- its life ----

    async def set_timeout(self, seconds: int) -> None:
        """
        Let the sandbox end *seconds* from now, earlier or later than before.

        Raises:
            StateConflict: It does not run.
        """
        expires_at = replies.read_expiry(await self._client.call(requests.set_timeout(self.id, seconds)))
        self._info = dataclasses.replace(self._info, expires_at=expires_at)

    async def refresh(self) -> None:
        """Ask the server how the sandbox is now."""
        self._info = replies.read_sandbox(await self._client.call(requests.get(self.id)))

    async def terminate(self) -> None:
        """End the sandbox with all it holds. Doing it again does nothing."""
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
