# Generated from src/terp/_async/commands.py by tools/sync.py: change that one.
"""Commands: the part of a sandbox's surface."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from terp import pairs
from terp._sync.command import Command
from terp._sync.following import read_events
from terp._sync.part import SandboxPart
from terp.errors import TerpError
from terp.models import ExecEvent, ExecResult, Stderr, Stdout
from terp.protocol import command_replies as replies
from terp.protocol import command_requests as requests
from terp.protocol.events import ExecReader
from terp.protocol.output import Output


class CommandCalls(SandboxPart):
    """Commands: the part of a sandbox's surface."""

    def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        timeout: int = 60,
        stdin: str | bytes | None = None,
        secrets: Mapping[str, str] | None = None,
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
            secrets: Variables over *env* for this command alone: in the guest's memory until it is started, and kept
                nowhere.
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
            stream = self.exec_stream(command, cwd=cwd, env=env, timeout=timeout, stdin=stdin, secrets=secrets)
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
        secrets: Mapping[str, str] | None = None,
    ) -> pairs.Stream[ExecEvent]:
        """
        Run *command* and yield what happens: `Started`, any `Stdout` and `Stderr`, `Exited`.

        Arguments and errors as of `exec`. Reading slowly holds the command back. Leaving early lets it run on until
        its timeout.
        """
        request = requests.exec_stream(
            self.id, command, cwd=cwd, env=env or {}, timeout=timeout, stdin=stdin, secrets=secrets or {}
        )
        with contextlib.closing(read_events(self._client, request, ExecReader())) as events:
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
        with contextlib.closing(read_events(self._client, request, ExecReader())) as events:
            for event in events:
                yield event

    def start(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> Command:
        """
        Start *command* in the background and return at once.

            server = sbx.start("python -m http.server 8000")
            ...
            server.kill()

        It has no timeout and ends with the sandbox at the latest. Arguments as of `exec`.

        Raises:
            InvalidRequest: The directory does not exist, or a value is out of bounds.
            StateConflict: The sandbox does not run.
        """
        request = requests.start(self.id, command, cwd=cwd, env=env or {}, secrets=secrets or {})
        return Command(self._client, self.id, replies.read_command(self._client.call(request)))

    def commands(self) -> tuple[Command, ...]:
        """Return the background commands, ended ones included as long as the sandbox remembers them."""
        found = replies.read_commands(self._client.call(requests.list_commands(self.id)))
        return tuple(Command(self._client, self.id, info) for info in found)

    def command(self, command_id: str) -> Command:
        """
        Return a background command that was started before.

        Raises:
            ExecNotFound: No such command in this sandbox, or it ended long ago.
        """
        reply = self._client.call(requests.get_command(self.id, command_id))
        return Command(self._client, self.id, replies.read_command(reply))
