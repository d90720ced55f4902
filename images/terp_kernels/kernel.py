"""One kernel: its process, the channels to it, and how it ends. Sockets are files in a folder that only root reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import write_connection_file

from terp_kernels.nursery import NotStarted, Nursery
from terp_kernels.zygote import INLINE

READY_S = 120.0  # from the fork to the first answer; about a second under emulation
_ASK_AGAIN_S = 1.0  # doubled each time: a host so busy that an answer takes longer must not be asked ever more
_IDLE_S = 5.0  # from the reply to the last output, which comes by another socket and may be lost in a flood


class Dead(Exception):
    """The kernel's process has ended. `begun`: what it was asked for had, or may have."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True)
class Reply:
    """`error` is name, value and traceback of what an "error" status is about."""

    status: str
    execution_count: int | None
    error: tuple[str, str, list[str]]


@dataclass
class _Execution:
    take: Callable[[str, Mapping[str, Any]], None]
    replied: asyncio.Future[Mapping[str, Any]]
    idle: asyncio.Future[None]
    begun: bool = False


class Kernel:
    """
    Args:
        name: Names its sockets; unique.
        directory: Where they are.
        env: Its whole environment.

    Attributes:
        died: Done once its process has ended.
    """

    def __init__(self, name: str, language: str, cwd: str, env: Mapping[str, str], directory: Path) -> None:
        self.env = {**env, "MPLBACKEND": INLINE}  # whatever the template says of programs outside of kernels
        self.language = language
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cwd = cwd
        self._place = directory / name
        self._executions: dict[str, _Execution] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._pid = 0
        self._interpreters: list[int] | None = None  # leaders of the groups that end with it; None: not known yet
        self._client: Any = None

    async def start(self, nursery: Nursery) -> None:
        """Raises NotStarted; nothing is left then."""
        connection_file, _ = write_connection_file(
            str(self._place) + ".json", transport="ipc", ip=str(self._place), key=secrets.token_hex(32).encode()
        )
        try:
            self._pid = await nursery.fork(self.language, connection_file, self._cwd, self.env)
            self._watch()
            async with asyncio.timeout(READY_S):
                self._client = AsyncKernelClient(connection_file=connection_file)
                self._client.load_connection_file()
                self._client.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=False)
                self._tasks = [asyncio.create_task(self._read_iopub()), asyncio.create_task(self._read_shell())]
                patience_s = _ASK_AGAIN_S
                while not await self._answers(patience_s):
                    patience_s *= 2
            self._find_interpreters()
        except (OSError, TimeoutError, Dead) as error:
            await self.kill()
            why = f"not within {READY_S:.0f} s" if isinstance(error, TimeoutError) else str(error)
            raise NotStarted(f"The {self.language} kernel did not start: {why}") from error
        except BaseException:
            await self.kill()
            raise

    async def execute(self, code: str, take: Callable[[str, Mapping[str, Any]], None]) -> Reply:
        """Run code; *take* is given each message that shows something. Raises Dead."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        return await self._ask("execute_request", {**content, "user_expressions": {}}, take)

    async def execute_silently(self, code: str) -> Reply:
        """Run code that leaves no trace in the counter and the history. Raises Dead."""
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
        return await self._ask("execute_request", {**content, "user_expressions": {}}, _ignore)

    async def set_environment(self, env: Mapping[str, str]) -> None:
        """Give it *env* from now on, but what it chose for itself. Raises Dead."""
        wanted = {**env, "MPLBACKEND": self.env["MPLBACKEND"]}
        changed = {name: value for name, value in wanted.items() if self.env.get(name) != value}
        gone = [name for name in self.env if name not in wanted]
        if changed or gone:
            await self.execute_silently(_environment_code(self.language, changed, gone))
            self.env = wanted

    def interrupt(self) -> None:
        """SIGINT to its processes."""
        self._signal(signal.SIGINT)

    async def kill(self) -> None:
        """SIGKILL. Nothing of it is left."""
        for task in self._tasks:
            task.cancel()
        if self._interpreters is None:
            self._find_interpreters()
        self._signal(signal.SIGKILL)
        if self._client is not None:
            self._client.stop_channels()
            self._client = None
        if self._pid:
            await self.died
        for remains in self._place.parent.glob(f"{self._place.name}[.-]*"):
            remains.unlink(missing_ok=True)

    def _signal(self, number: int) -> None:
        """To its process group: it leads one. One that is gone has none, whose number may be another's by now."""
        if self._pid and not self.died.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _watch(self) -> None:
        """Learn at once of its end. And let it be what is ended first when memory runs out. Raises OSError: gone."""
        try:
            descriptor = os.pidfd_open(self._pid)
        except OSError:
            self.died.set_result(None)  # or `kill` would wait for ever
            raise
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            for leader in self._interpreters or ():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(leader, signal.SIGKILL)
            self.died.set_result(None)

        loop.add_reader(descriptor, ended)
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._pid}/oom_score_adj").write_text("0")

    def _find_interpreters(self) -> None:
        """
        Its children before the first cell: bash or Node, in a session of its own, which would outlive it. What cells
        start in sessions of their own is not among them, and stays.
        """
        with contextlib.suppress(OSError):  # gone
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text()
            self._interpreters = [int(child) for child in children.split()]

    async def _answers(self, within_s: float) -> bool:
        """Whether both channels are connected: output that is sent before would be lost."""
        try:
            async with asyncio.timeout(within_s):
                await self._ask("kernel_info_request", {}, _ignore, strict=True)
        except TimeoutError:
            return False
        return True

    async def _ask(
        self,
        kind: str,
        content: Mapping[str, Any],
        take: Callable[[str, Mapping[str, Any]], None],
        *,
        strict: bool = False,
    ) -> Reply:
        if self.died.done() or self._client is None:
            raise Dead(f"the {self.language} kernel has ended", begun=False)
        loop = asyncio.get_running_loop()
        message = self._client.session.msg(kind, content)
        execution = _Execution(take, loop.create_future(), loop.create_future())
        self._executions[message["header"]["msg_id"]] = execution
        try:
            self._client.shell_channel.send(message)
            await asyncio.wait({execution.replied, self.died}, return_when=asyncio.FIRST_COMPLETED)
            if not execution.replied.done():
                await asyncio.wait({execution.idle}, timeout=0.2)  # what it said last may be on its way
                raise Dead(f"the {self.language} kernel has ended", begun=execution.begun)
            await asyncio.wait(
                {execution.idle, self.died}, timeout=None if strict else _IDLE_S, return_when=asyncio.FIRST_COMPLETED
            )
            reply = execution.replied.result()
            count = reply.get("execution_count")
            name, value = str(reply.get("ename", "KernelError")), str(reply.get("evalue", ""))
            traceback = [str(line) for line in reply.get("traceback") or []]
            return Reply(str(reply.get("status")), count if isinstance(count, int) else None, (name, value, traceback))
        finally:
            del self._executions[message["header"]["msg_id"]]

    async def _read_iopub(self) -> None:
        channel = self._client.iopub_channel
        while True:
            try:
                message = await channel.get_msg(timeout=None)
            except ValueError:  # not signed by the kernel, or cut
                continue
            execution = self._executions.get(message["parent_header"].get("msg_id", ""))
            if execution is None:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status":
                execution.begun = True
                if content.get("execution_state") == "idle" and not execution.idle.done():
                    execution.idle.set_result(None)
            else:
                execution.take(kind, content)

    async def _read_shell(self) -> None:
        channel = self._client.shell_channel
        while True:
            try:
                message = await channel.get_msg(timeout=None)
            except ValueError:
                continue
            execution = self._executions.get(message["parent_header"].get("msg_id", ""))
            if execution is not None and not execution.replied.done():
                execution.replied.set_result(message["content"])


def _environment_code(language: str, changed: Mapping[str, str], gone: list[str]) -> str:
    if language == "python":
        put = f"__import__('os').environ.update({changed!r})"
        return f"{put}, [__import__('os').environ.pop(name, None) for name in {gone!r}], __import__('time').tzset()"
    if language == "javascript":
        unset = "".join(f"delete process.env[{json.dumps(name)}];" for name in gone)
        return f"{{Object.assign(process.env, {json.dumps(changed)});{unset}}}"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in changed.items()]
    return "\n".join([*lines, *(f"unset {name}" for name in gone)])


def _ignore(_kind: str, _content: Mapping[str, Any]) -> None:
    pass
