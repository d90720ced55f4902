"""Background commands and terminals when the server dies: they are the guest's, and go on without it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest
from support.server import Server
from support.wait import eventually
from terp import Stdout, TerpError

pytestmark = pytest.mark.vm

OwnServer = Callable[..., Server]


def test_they_go_on_and_nothing_is_lost(own_server: OwnServer) -> None:
    """Killed while a log is followed and a terminal is open, then started again: the same ids, the next byte."""
    server = own_server().start()
    sandbox = server.create("debian-12", timeout=3600)
    command = sandbox.start("n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done")
    pty = sandbox.pty(command="exec sh")
    pty.write("x=before\n")
    seen = bytearray()
    following = threading.Event()

    def follow() -> None:
        with contextlib.suppress(TerpError):
            for event in command.stream():
                if isinstance(event, Stdout):
                    seen.extend(event.data)
                    following.set()
                if len(seen) > 4000:
                    return

    thread = threading.Thread(target=follow)
    thread.start()
    following.wait()
    server.kill()
    server.start()
    thread.join()
    listed = {each.id: each for each in sandbox.commands()}

    assert listed[command.id].status == "running"
    assert [each.id for each in sandbox.ptys()] == [pty.id]
    rest = b""
    for event in command.stream(len(seen)):
        if isinstance(event, Stdout):
            rest += event.data
            if len(rest) > 500:
                break
    text = (bytes(seen) + rest).decode()
    assert text.startswith("".join(f"{n}\n" for n in range(int(text.split("\n")[-2]))))
    again = sandbox.attach_pty(pty.id)
    again.write("echo $x-kill\n")
    shown = bytearray()
    for data in again.output():
        shown += data
        if b"before-kill\r\n" in shown:
            break
    listed[command.id].kill()
    eventually(lambda: sandbox.command(command.id).status == "killed")
