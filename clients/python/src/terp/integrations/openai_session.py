"""One machine as a session of the OpenAI Agents SDK. For `openai_sandbox`, which see."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from agents.sandbox import (
    ExecResult,
    ExecTimeoutError,
    ExposedPortEndpoint,
    ExposedPortUnavailableError,
    User,
    WorkspaceArchiveWriteError,
    WorkspaceWriteTypeError,
)
from agents.sandbox.errors import WorkspaceStartError
from agents.sandbox.session import BaseSandboxSession
from agents.sandbox.session.pty_types import PtyExecUpdate
from agents.sandbox.session.runtime_helpers import RESOLVE_WORKSPACE_PATH_HELPER, RuntimeHelperScript
from agents.sandbox.session.tar_workspace import shell_tar_exclude_args
from agents.sandbox.util.tar_utils import UnsafeTarMemberError, validate_tar_bytes
from agents.sandbox.workspace_paths import sandbox_path_str

from terp import AsyncSandbox
from terp.errors import ExecKilled, ExecTimeout, TerpError
from terp.integrations.openai_errors import context_of, not_run, reading, writing
from terp.integrations.openai_processes import Processes
from terp.integrations.openai_state import TerpSandboxSessionState
from terp.models import Exited, Stderr, Stdout

MAX_OUTPUT_BYTES = 16 * 1024 * 1024  # of each stream of a command: a guest decides how much it writes
_LONGEST_S = 24 * 3600  # of commands without a timeout
_SIGKILL = 9

logger = logging.getLogger(__name__)


class TerpSandboxSession(BaseSandboxSession):
    """A session in one machine."""

    state: TerpSandboxSessionState

    def __init__(self, state: TerpSandboxSessionState, sandbox: AsyncSandbox) -> None:
        self.state = state
        self.sandbox = sandbox
        self._processes = Processes(sandbox)

    # ---- its life ----

    async def running(self) -> bool:
        try:
            await self.sandbox.refresh()
        except TerpError:
            return False
        return self.sandbox.status == "running"

    async def _prepare_backend_workspace(self) -> None:
        root = sandbox_path_str(self.state.manifest.root)
        try:
            made = await self.sandbox.exec(["mkdir", "-p", "--", root], cwd="/")
        except TerpError as error:
            raise WorkspaceStartError(path=Path(root), message=error.detail, cause=error) from error
        if made.exit_code != 0:
            raise WorkspaceStartError(path=Path(root), message=f"failed to make {root}: {made.stderr.strip()}")

    async def _shutdown_backend(self) -> None:
        # The SDK calls it a second time to delete, and wants no errors: what is not ended here ends by its lease.
        try:
            if not self.state.options.pause_on_exit:
                await self.sandbox.terminate()
            elif await self.running():
                await self.sandbox.pause()
        except TerpError as error:
            logger.warning("The sandbox %s was not ended: %s", self.sandbox.id, error)

    # ---- commands ----

    def _prepare_exec_command(
        self, *command: str | Path, shell: bool | list[str], user: str | User | None
    ) -> list[str]:
        """As the SDK's own, with what machines have in place of sudo."""
        prepared = super()._prepare_exec_command(*command, shell=shell, user=None)
        if user is None:
            return prepared
        return ["runuser", "-u", user.name if isinstance(user, User) else user, "--", *prepared]

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        arguments = [str(each) for each in command]
        kept = {Stdout: bytearray(), Stderr: bytearray()}
        exit_code = 0
        try:
            stream = self.sandbox.exec_stream(
                arguments,
                cwd=sandbox_path_str(self.state.manifest.root),
                env=await self.state.manifest.environment.resolve(),
                timeout=_LONGEST_S if timeout is None else max(1, math.ceil(timeout)),
            )
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    if isinstance(event, Stdout | Stderr):
                        held = kept[type(event)]
                        held += event.data[: MAX_OUTPUT_BYTES - len(held)]
                    elif isinstance(event, Exited):
                        exit_code = event.exit_code
        except ExecTimeout as error:
            raise ExecTimeoutError(command=command, timeout_s=timeout, cause=error) from error
        except ExecKilled as error:
            exit_code = 128 + (error.signal or _SIGKILL)
        except TerpError as error:
            raise not_run(command, error) from error
        return ExecResult(stdout=bytes(kept[Stdout]), stderr=bytes(kept[Stderr]), exit_code=exit_code)

    def supports_pty(self) -> bool:
        return True

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,  # noqa: ARG002 - a process ends with its session
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        try:
            return await self._processes.start(
                self._prepare_exec_command(*command, shell=shell, user=user),
                cwd=sandbox_path_str(self.state.manifest.root),
                env=await self.state.manifest.environment.resolve(),
                tty=tty,
                yield_time_s=yield_time_s,
                max_output_tokens=max_output_tokens,
            )
        except TerpError as error:
            raise not_run(command, error) from error

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        try:
            return await self._processes.write(
                session_id, chars, yield_time_s=yield_time_s, max_output_tokens=max_output_tokens
            )
        except TerpError as error:
            raise not_run(["write_stdin"], error) from error

    async def pty_terminate_all(self) -> None:
        await self._processes.end_all()

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            url = urlsplit(await self.sandbox.preview_url(port))
        except TerpError as error:
            raise ExposedPortUnavailableError(
                port=port,
                exposed_ports=self.state.exposed_ports,
                reason="backend_unavailable",
                context=context_of(error),
                cause=error,
            ) from error
        tls = url.scheme == "https"
        return ExposedPortEndpoint(url.hostname or "", url.port or (443 if tls else 80), tls=tls, query=url.query)

    # ---- files ----

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        if user is None:
            found = await self._validate_path_access(path)
        else:
            found = await self._check_read_with_exec(path, user=user)
        with reading(found):
            return io.BytesIO(await self.sandbox.files.read_bytes(sandbox_path_str(found)))

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        found = await self._validate_path_access(path)
        kept = bytearray()
        with reading(found):
            stream = self.sandbox.files.read_stream(sandbox_path_str(found))
            async with contextlib.aclosing(stream) as chunks:
                async for chunk in chunks:
                    kept += chunk[: max_bytes - len(kept)]
                    if len(kept) == max_bytes:
                        break
        return bytes(kept)

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        if user is not None:
            await self._check_write_with_exec(path, user=user)
        content = _content_of(data, path)
        there = await self._validate_path_access(path, for_write=True)
        with writing(there):
            await self.sandbox.files.write(sandbox_path_str(there), content)

    # ---- the workspace as a tar file, for the SDK's own snapshots ----

    async def persist_workspace(self) -> io.IOBase:
        """
        Return a copy of the workspace.

        Raises:
            WorkspaceArchiveReadError: It could not be read, or has more than 256 MiB: pause the machine instead.
        """
        root = self._workspace_root_path()
        excluded = " ".join(shell_tar_exclude_args(self._persist_workspace_skip_relpaths()))
        path = self._tar_path("persist")
        with reading(root):
            # One that changes meanwhile (exit code 1) is a copy of what was there.
            line = f"tar {excluded} -C {shlex.quote(root.as_posix())} -cf {path} . || test $? -eq 1"
            try:
                (await self.sandbox.exec(line, timeout=_LONGEST_S)).check()
                return io.BytesIO(await self.sandbox.files.read_bytes(path))
            finally:
                await self._removed(path)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root = self._workspace_root_path()
        content = _content_of(data, root)
        try:
            # Links out of the workspace lead to the same machine at most: every virtual environment has some.
            validate_tar_bytes(content, allow_external_symlink_targets=True)
        except UnsafeTarMemberError as error:
            context: dict[str, object] = {"reason": "unsafe_or_invalid_tar", "member": error.member}
            raise WorkspaceArchiveWriteError(path=root, context=context, cause=error) from error
        path = self._tar_path("hydrate")
        with writing(root):
            try:
                await self.sandbox.files.write(path, content)
                target = shlex.quote(root.as_posix())
                line = f"mkdir -p -- {target} && tar -C {target} -xf {path}"
                (await self.sandbox.exec(line, cwd="/", timeout=_LONGEST_S)).check()
            finally:
                await self._removed(path)

    def _tar_path(self, purpose: str) -> str:
        return f"/tmp/terp-{purpose}-{self.state.session_id.hex}.tar"

    async def _removed(self, path: str) -> None:
        with contextlib.suppress(TerpError):  # the machine is gone, and the file with it
            await self.sandbox.exec(["rm", "-f", "--", path])


def _content_of(data: io.IOBase, path: Path) -> bytes:
    content = data.read()
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes | bytearray):
        raise WorkspaceWriteTypeError(path=path, actual_type=type(content).__name__)
    return bytes(content)
