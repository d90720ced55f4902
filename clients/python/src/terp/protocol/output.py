"""A command's output collected, to a limit: a guest that writes without end must not fill this process' memory."""

from __future__ import annotations

from terp.errors import ExecKilled, ExecTimeout, TerpError
from terp.models import ExecEvent, ExecResult, Exited, Stderr, Stdout

MAX_OUTPUT_CHARACTERS = 16 * 1024 * 1024  # per stream


class Output:
    """Feed it all events of one exec, then ask for the result."""

    def __init__(self) -> None:
        self._texts: dict[type, list[str]] = {Stdout: [], Stderr: []}
        self._room = {Stdout: MAX_OUTPUT_CHARACTERS, Stderr: MAX_OUTPUT_CHARACTERS}
        self._truncated = False
        self._exited: Exited | None = None

    def add(self, event: ExecEvent) -> None:
        if isinstance(event, Exited):
            self._exited = event
        elif isinstance(event, Stdout | Stderr):
            kind = type(event)
            room = self._room[kind]
            self._truncated |= len(event.text) > room
            self._texts[kind].append(event.text[:room])
            self._room[kind] = room - min(room, len(event.text))

    @property
    def stdout(self) -> str:
        return "".join(self._texts[Stdout])

    @property
    def stderr(self) -> str:
        return "".join(self._texts[Stderr])

    def result(self) -> ExecResult:
        assert self._exited is not None  # a stream either ends with it or raises
        return ExecResult(
            self.stdout, self.stderr, self._exited.exit_code, self._exited.duration_ms, truncated=self._truncated
        )

    def attach_to(self, error: TerpError) -> None:
        """Give an error that ended the command what the command had written until then."""
        if isinstance(error, ExecTimeout | ExecKilled):
            error.stdout = self.stdout
            error.stderr = self.stderr
