"""Terminals in a real guest: they are terminals to their programs, and stay when nobody looks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
from support.server import Server
from support.wait import PATIENCE_S, eventually
from terp import InvalidRequest, Pty, Sandbox

pytestmark = pytest.mark.vm


class Screen:
    """What a terminal has shown, read by offset: each look attaches anew."""

    def __init__(self, pty: Pty) -> None:
        self.pty = pty
        self.shown = b""
        self._matched = 0

    def until(self, pattern: bytes) -> re.Match[bytes]:
        """Read on until *pattern* is shown behind what was matched before."""
        patience = threading.Timer(PATIENCE_S, self.pty.kill)  # which ends what is followed here
        patience.start()
        try:
            output = self.pty.output(len(self.shown))
            while not (found := re.search(pattern, self.shown[self._matched :])):
                self.shown += next(output)
        except StopIteration:
            raise AssertionError(f"it ended before it showed {pattern!r}: {self.shown[-2000:]!r}") from None
        finally:
            patience.cancel()
        self._matched += found.end()
        return found


@pytest.fixture
def shell(shared: Sandbox) -> Iterator[Screen]:
    """A shell that does not edit lines: what is typed is echoed by the terminal."""
    pty = shared.pty(command="exec sh")
    yield Screen(pty)
    pty.kill()


def test_a_program_sees_a_terminal(shell: Screen) -> None:
    """Of the size it was opened with, and of another one later, of which it is told by SIGWINCH."""
    shell.pty.write("tty; stty size; echo $TERM; trap 'echo resized' WINCH\n")
    shell.until(rb"/dev/pts/\d+\r\n24 80\r\nxterm-256color\r\n")
    shell.pty.resize(132, 50)
    shell.pty.write("stty size\n")
    shell.until(rb"(?s)resized.*50 132|50 132.*resized")


def test_control_characters_are_keys(shell: Screen) -> None:
    """^C interrupts the program in front and not the shell, ^D ends the shell."""
    shell.until(rb"# ")
    shell.pty.write("printf 'run%s\\n' ning; sleep 1000\n")
    shell.until(rb"running\r\n")
    shell.pty.write(b"\x03")
    shell.until(rb"(?s)\^C.*# ")
    shell.pty.write("echo al''ive\n")
    shell.until(rb"alive\r\n")
    shell.pty.write(b"\x04")

    assert shell.pty.wait(60) == 0


def test_a_program_in_raw_mode_has_every_byte(shared: Sandbox) -> None:
    """As an editor sets its terminal: nothing is echoed or changed on the way in or out."""
    keys = bytes(range(256))
    screen = Screen(
        shared.pty(command="stty raw -echo; printf go; head -c 256 | od -An -v -tx1 | tr -d ' \\n'; printf '\\377!'")
    )
    screen.until(rb"go")
    screen.pty.write(keys)

    assert screen.until(rb"([0-9a-f]{512})\xff!").group(1).decode() == keys.hex()
    assert screen.pty.wait(60) == 0


def test_it_stays_and_is_attached_to_again(shared: Sandbox, shell: Screen) -> None:
    """By another object of its id, from any offset."""
    shell.pty.write("x=remembered\n")
    shell.until(rb"remembered\r\n# ")
    again = Screen(shared.attach_pty(shell.pty.id))
    again.pty.write("echo $x-$x\n")

    again.until(rb"remembered-remembered\r\n")
    assert again.shown.startswith(shell.shown)
    assert shell.pty.id in [each.id for each in shared.ptys()]
    assert shell.pty.id not in [each.id for each in shared.commands()]


def test_much_is_typed(shared: Sandbox) -> None:
    """More than a terminal takes at once goes in at the pace of its reader, in its order."""
    text = "".join(f"{n:07d}\n" for n in range(40_000))
    screen = Screen(shared.pty(command="stty -echo; printf go; head -n 40000 | md5sum; printf done"))
    screen.until(rb"go")
    screen.pty.write(text)
    digest = shared.exec("md5sum", stdin=text).stdout.split()[0]

    screen.until(rb"%s.*\r\ndone" % digest.encode())


def test_over_a_pause(server: Server) -> None:
    with server.create("debian-12", timeout=3600) as sandbox:
        shell = Screen(sandbox.pty(command="exec sh"))
        shell.pty.write("x=before\n")
        shell.until(rb"before\r\n# ")
        sandbox.pause()
        sandbox.resume()
        shell.pty.write("echo $x-pause\n")
        shell.until(rb"before-pause\r\n")


def test_closing_ends_it(shared: Sandbox) -> None:
    """Its shell, what runs in that, and again it is nothing."""
    pty = shared.pty()
    pty.write("sleep 4711\n")
    eventually(lambda: shared.exec("pgrep -f '^sleep 4711'").exit_code == 0)
    for _ in range(2):
        pty.kill()
    pty.refresh()

    assert pty.status != "running"
    eventually(lambda: shared.exec("pgrep -f '^sleep 4711'").exit_code != 0)


def test_no_such_size(shared: Sandbox) -> None:
    with pytest.raises(InvalidRequest, match="1000"):
        shared.pty(cols=0)
