"""`terp shell`: this terminal, connected to one in a sandbox."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer

from terp import ConnectionFailed, LimitExceeded, Pty, RequestTimeout, Sandbox, StateConflict, TerpError
from terp.cli import options
from terp.cli.escapes import Escapes
from terp.cli.interrupts import Interrupted
from terp.cli.terminal import complain, told

READ_BYTES = 16 * 1024
END_OF_FILE = b"\x04"
MAX_SIZE = 1000
EXIT_WAIT_S = 10.0


def shell(
    sandbox_id: options.SandboxId,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="Instead of a login shell.", show_default=False)
    ] = None,
    *,
    attach: Annotated[
        str | None, typer.Option(metavar="TERMINAL", help="Go on with one that was opened before, by its id.")
    ] = None,
    cwd: Annotated[str, typer.Option(help="Directory to start in.")] = "/workspace",
    env: options.Env = None,
) -> None:
    """
    Open a terminal in a sandbox; the exit code is the shell's.

    Ctrl-] twice, or ~. at the start of a line, leaves it open and says how to come back. It also stays open when the
    connection is lost, and goes on after a pause.

    Example: terp shell sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB

    Example: terp shell sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB -- htop
    """
    if attach and command:
        raise typer.BadParameter("give a command or --attach, not both", param_hint="--attach")
    line = options.command_line(command) if command else None
    variables = options.read_env(env)
    sandbox = Sandbox.get(sandbox_id)
    cols, rows = _size()
    if attach:
        pty = sandbox.attach_pty(attach)
        if pty.status == "running":
            pty.resize(cols, rows)
    else:
        pty = sandbox.pty(command=line, cols=cols, rows=rows, cwd=cwd, env=variables)
    session = _Session(pty)
    try:
        with _raw(sys.stdin.fileno()):
            detached = session.run()
    except (Interrupted, ConnectionFailed, RequestTimeout, StateConflict):
        _tell_way_back(sandbox, pty)
        raise
    if detached:
        _tell_way_back(sandbox, pty)
        return
    code = pty.wait(timeout=EXIT_WAIT_S)
    if code is None:
        complain("the terminal's program was killed")
    raise typer.Exit(1 if code is None else code)


class _Session:
    """
    Output in a thread, what is typed and the size in the main one, where signals arrive. A pipe wakes the main one.

    Nothing is held back between the two: a program that writes without end can be interrupted.
    """

    def __init__(self, pty: Pty) -> None:
        self._pty = pty
        self._escapes = Escapes()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._resized = False
        self._ended = False
        self._failure: BaseException | None = None

    def run(self) -> bool:
        """Return whether the user has detached; False when the program has ended."""
        with self._size_changes():
            threading.Thread(target=self._show, name="terp-shell", daemon=True).start()
            sources = [self._woken, sys.stdin.fileno()]
            while True:
                ready, _, _ = select.select(sources, [], [])
                if self._woken in ready:
                    os.read(self._woken, READ_BYTES)
                    if self._failure is not None:
                        raise self._failure
                    if self._ended:
                        return False
                    if self._resized:
                        self._resized = False
                        self._pty.resize(*_size())
                if sys.stdin.fileno() in ready:
                    typed = os.read(sys.stdin.fileno(), READ_BYTES)
                    if not typed:
                        sources.remove(sys.stdin.fileno())
                    passed, detach = self._escapes.feed(typed) if typed else (END_OF_FILE, False)
                    self._type(passed)
                    if detach:
                        return True

    def _type(self, data: bytes) -> None:
        try:
            self._pty.write(data)
        except LimitExceeded:
            sys.stderr.write("\a")  # the program does not read: as a terminal whose queue is full
            sys.stderr.flush()
        except TerpError:
            self._pty.refresh()
            if self._pty.status == "running":
                raise  # else it has ended in between, which the other thread tells

    def _show(self) -> None:
        try:
            for data in self._pty.output():
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            self._ended = True
        except BaseException as error:  # noqa: BLE001 - for the main thread to raise
            self._failure = error
        self._signal_main()

    @contextlib.contextmanager
    def _size_changes(self) -> Iterator[None]:
        before = signal.signal(signal.SIGWINCH, self._size_changed)
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)

    def _size_changed(self, _number: int, _frame: FrameType | None) -> None:
        self._resized = True
        self._signal_main()

    def _signal_main(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._wake, b"\0")


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Every key goes to the sandbox, Ctrl-C included, and it alone echoes. However we leave, it ends."""
    if not os.isatty(terminal):
        yield
        return
    import termios  # noqa: PLC0415 - Windows has none
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has been closed
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size((80, 24))
    return min(max(size.columns, 1), MAX_SIZE), min(max(size.lines, 1), MAX_SIZE)


def _tell_way_back(sandbox: Sandbox, pty: Pty) -> None:
    try:
        pty.refresh()
    except TerpError as error:
        complain(f"how the terminal is cannot be asked: {told(error)}")
    if pty.status == "running":
        complain(f"the terminal stays open. To go on: terp shell {sandbox.id} --attach {pty.id}")
