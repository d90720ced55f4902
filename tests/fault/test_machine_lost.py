"""A machine's monitor is killed from outside: its sandbox fails and says so, and nothing else changes."""

from __future__ import annotations

import threading

import pytest
from support.server import Server
from support.wait import eventually
from support.watch import unaffected
from terp import GuestFault, Sandbox, StateConflict, TerpError

pytestmark = pytest.mark.vm


def _assert_lost(server: Server, sandbox: Sandbox, machine_id: str) -> None:
    eventually(lambda: server.status(sandbox) == "failed")
    with pytest.raises(StateConflict, match="machine_lost"):
        sandbox.exec("true")
    eventually(lambda: machine_id not in server.host.machines(), what="its files are gone")
    assert machine_id not in {path.name for path in server.host.cgroups()}


def test_idle_machine(server: Server, sandbox: Sandbox, shared: Sandbox) -> None:
    """An idle sandbox whose monitor dies is failed by itself; its remains go away; a new one can be created."""
    monitor = server.host.monitor_of(sandbox.id)

    with unaffected(shared):
        monitor.kill()
        _assert_lost(server, sandbox, monitor.machine_id)

    with server.create() as another:
        assert another.exec("echo fine").stdout == "fine\n"


def test_busy_machine(server: Server, sandbox: Sandbox, shared: Sandbox) -> None:
    """Commands and transfers under way end with a clear error when their monitor dies."""
    errors: list[TerpError] = []

    def run(act: object) -> None:
        try:
            act()  # type: ignore[operator]
        except TerpError as error:
            errors.append(error)

    acts = (
        lambda: sandbox.exec("touch /tmp/begun; sleep 1000", timeout=2000),
        lambda: list(sandbox.exec_stream("sleep 1000", timeout=2000)),
    )
    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    eventually(lambda: sandbox.files.exists("/tmp/begun"))
    monitor = server.host.monitor_of(sandbox.id)

    with unaffected(shared):
        monitor.kill()
        for thread in threads:
            thread.join(timeout=60)
        _assert_lost(server, sandbox, monitor.machine_id)

    assert len(errors) == len(acts)
    assert all(isinstance(error, GuestFault | StateConflict) for error in errors), errors


def test_machine_that_stands_still(server: Server, sandbox: Sandbox, shared: Sandbox) -> None:
    """A machine that stands still holds up nothing but its own calls; they end when it is terminated, as it can be."""
    monitor = server.host.monitor_of(sandbox.id)
    errors: list[TerpError] = []

    def wait_for_it() -> None:
        try:
            sandbox.exec("true", timeout=1000)
        except TerpError as error:
            errors.append(error)

    with unaffected(shared):
        monitor.freeze()
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        server.get(sandbox.id).terminate()
        thread.join()

    assert isinstance(errors[0], GuestFault | StateConflict), errors
    assert server.status(sandbox) == "terminated"
    eventually(lambda: monitor.machine_id not in server.host.machines())
