"""Stopping the server as an operator does, and starting it again."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import pytest
from support.consistency import assert_consistent
from support.server import Server
from support.wait import eventually
from terp import FileNotFound, Sandbox, StateConflict

pytestmark = pytest.mark.vm

OwnServer = Callable[..., Server]


def test_dev_leaves_nothing(own_server: OwnServer) -> None:
    """SIGTERM with --dev ends all sandboxes, busy ones too: no process, cgroup, mount or file of a machine is left."""
    server = own_server(dev=True).start()
    idle, busy = server.create(), server.create()
    stream = busy.exec_stream("echo begun; sleep 1000", timeout=2000)
    next(stream)
    assert idle.exec("true").exit_code == 0

    server.stop()

    assert server.host.remains() == []
    server.host.check_database()


def test_dev_after_a_kill_leaves_nothing(own_server: OwnServer) -> None:
    """A --dev server that was killed and started again ends what the first one had, at its own end at the latest."""
    server = own_server(dev=True).start()
    server.create()
    server.kill()

    server.start()
    server.stop()

    assert server.host.remains() == []


def _number(sandbox: Sandbox) -> int | None:
    """What the counting process wrote last; the moment between truncation and write is passed over."""
    with contextlib.suppress(FileNotFound, ValueError):
        return int(sandbox.files.read("/tmp/n"))
    return None


def test_sandboxes_survive_a_restart(own_server: OwnServer) -> None:
    """Without --dev sandboxes live on while no server runs: files, processes and memory are as they were."""
    server = own_server().start()
    sandbox = server.create(env={"KEPT": "in memory"}, metadata={"name": "survivor"})
    sandbox.files.write("/workspace/kept", "on disk")
    count = "echo $$ > /tmp/pid; n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.2; done"
    sandbox.exec(f"setsid sh -c '{count}' > /dev/null 2>&1 &").check()
    counted = eventually(functools.partial(_number, sandbox))
    monitor = server.host.monitor_of(sandbox.id)

    server.stop()
    assert server.host.monitor_of(sandbox.id) == monitor
    server.start()

    assert assert_consistent(server) == {sandbox.id}
    assert server.host.monitor_of(sandbox.id) == monitor
    again = server.get(sandbox.id)
    assert (again.status, again.metadata, again.expires_at) == ("running", {"name": "survivor"}, sandbox.expires_at)
    assert again.files.read("/workspace/kept") == "on disk"
    assert again.exec("echo $KEPT").stdout == "in memory\n"
    assert again.exec("kill -0 $(cat /tmp/pid)").exit_code == 0
    eventually(lambda: (_number(again) or 0) > counted)
    again.terminate()
    assert assert_consistent(server) == set()


def test_restarts_in_a_row(own_server: OwnServer) -> None:
    """A sandbox outlives several servers, whether they were stopped or killed, and can be used between them."""
    server = own_server().start()
    sandbox = server.create()

    for n, end in enumerate((server.stop, server.kill, server.stop, server.kill)):
        assert server.get(sandbox.id).exec(f"echo {n} >> /tmp/log; wc -l < /tmp/log").stdout == f"{n + 1}\n"
        end()
        server.start()

    assert assert_consistent(server) == {sandbox.id}


def test_lease_that_ended_meanwhile(own_server: OwnServer) -> None:
    """A lease that ran out while no server was there is enforced at the next start."""
    server = own_server().start()
    expiring = server.create(timeout=10)
    staying = server.create()
    server.stop()
    assert server.host.monitor_of(expiring.id)
    eventually(lambda: datetime.now(UTC) > expiring.expires_at)

    server.start()

    assert assert_consistent(server) == {staying.id}
    assert server.get(expiring.id).status == "terminated"
    with pytest.raises(StateConflict, match="lease"):
        server.get(expiring.id).exec("true")


def test_machine_that_ended_meanwhile(own_server: OwnServer) -> None:
    """A machine that died while no server was there makes its sandbox failed, and only its own."""
    server = own_server().start()
    lost, staying = server.create(), server.create()
    server.stop()
    server.host.monitor_of(lost.id).kill()

    server.start()

    assert assert_consistent(server) == {staying.id}
    assert server.get(lost.id).status == "failed"


def test_rubbish_in_the_data_directory(own_server: OwnServer) -> None:
    """What a crash may leave under machines/ (no record, half a record, stray files) is removed at the next start."""
    server = own_server().start()
    staying = server.create()
    server.stop()
    machines = server.host.machines_dir
    for name, record in {"m_empty": None, "m_torn": '{"machine_id": "m_to', "m_wrong": "[]"}.items():
        (machines / name).mkdir()
        (machines / name / "disk.qcow2").write_bytes(b"rubbish")
        if record is not None:
            (machines / name / "record.json").write_text(record)

    server.start()

    assert assert_consistent(server) == {staying.id}


def test_second_server_on_the_same_data(own_server: OwnServer) -> None:
    """A second server on a data directory in use refuses to start and harms nothing."""
    server = own_server().start()
    sandbox = server.create()
    second = own_server()
    second.data_dir = server.data_dir

    with pytest.raises(AssertionError, match="did not become ready"):
        second.start()

    assert assert_consistent(server) == {sandbox.id}


def test_keys_and_history_survive(own_server: OwnServer) -> None:
    """Keys, ended sandboxes and their reasons are as they were after a kill."""
    server = own_server().start()
    ended = server.create(metadata={"n": "1"})
    ended.terminate()
    server.kill()

    server.start()

    again = server.get(ended.id)
    assert (again.status, again.metadata) == ("terminated", {"n": "1"})
    for path in server.data_dir.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            assert server.api_key not in "\n".join(database.iterdump())
