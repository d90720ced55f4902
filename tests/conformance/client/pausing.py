"""Cases: pause, resume, and what happens by itself at the end of a lease."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from orkestr import (
    FleetFull,
    OrkestrClient,
    OrkestrError,
    PlanLimitError,
    Sandbox,
    SandboxNotFound,
    SandboxNotReady,
    SnapshotCapReached,
)

from expect import count, eventually, raises, start_counter


def resume_continues() -> None:
    """The same id, files, environment and processes: a counter that lives in memory goes on where it was."""
    with Sandbox.create(template="debian-12", env={"KEPT": "yes"}, metadata={"n": "1"}) as sbx:
        sbx.files.write("/workspace/note", "kept")
        start_counter(sbx)
        boot_id = sbx.exec("cat /proc/sys/kernel/random/boot_id").stdout
        before = count(sbx)

        assert sbx.pause() == sbx.id

        assert sbx.status == "paused"
        assert sbx.refresh().status == "paused"
        assert sbx.id in {each.id for each in Sandbox.list(status="paused")}
        assert sbx.id not in {each.id for each in Sandbox.list(status="running")}
        resumed = Sandbox.resume(sbx.id, client=OrkestrClient())
        assert (resumed.id, resumed.status, resumed.metadata) == (sbx.id, "running", {"n": "1"})
        assert resumed.exec("cat /proc/sys/kernel/random/boot_id; echo $KEPT").stdout == f"{boot_id}yes\n"
        assert resumed.files.read("/workspace/note") == "kept"
        after = count(resumed)
        assert after >= before
        assert eventually(lambda: count(resumed) > after)
        assert sbx.exec("echo the old handle too").exit_code == 0


def pause_again_and_again(fresh: Sandbox) -> None:
    """Each pause keeps what has changed since the last one, on disk and in memory."""
    start_counter(fresh)
    for n in range(3):
        fresh.exec(f"echo {n} >> /workspace/log; head -c 3000000 /dev/urandom > /workspace/blob; sync")
        digest = fresh.exec("sha256sum < /workspace/blob").stdout
        before = count(fresh)
        fresh.pause()
        Sandbox.resume(fresh.id)
        assert fresh.exec("sha256sum < /workspace/blob").stdout == digest
        assert fresh.files.read("/workspace/log") == "".join(f"{m}\n" for m in range(n + 1))
        assert eventually(lambda before=before: count(fresh) > before)


def clock_is_right_after_resume(fresh: Sandbox) -> None:
    """The guest does not believe that no time has passed."""
    fresh.pause()
    time.sleep(3)  # the pause that the clock must not have missed
    Sandbox.resume(fresh.id)
    assert abs(float(fresh.exec("date +%s.%N").stdout) - time.time()) < 2


def lease_after_resume() -> None:
    """A resume begins a lease of the length that was last set; expires_at is there in every state."""
    with Sandbox.create(template="debian-12", timeout_seconds=300) as sbx:
        sbx.set_timeout(1000)
        sbx.pause()
        assert Sandbox.get(sbx.id).expires_at is not None
        resumed = Sandbox.resume(sbx.id)
        left = resumed.expires_at - datetime.now(UTC)
        assert timedelta(seconds=900) < left <= timedelta(seconds=1010), left


def paused_is_not_ready(fresh: Sandbox) -> None:
    """Without auto_resume a paused sandbox refuses what needs it running, and says what to do."""
    fresh.pause()
    for call in (
        lambda: fresh.exec("true"),
        lambda: list(fresh.exec_stream("true")),
        lambda: fresh.files.write("/tmp/a", "a"),
        lambda: fresh.files.read("/etc/hostname"),
        lambda: fresh.files.list("/tmp"),
        lambda: fresh.files.stat("/tmp"),
        lambda: fresh.set_timeout(60),
        fresh.snapshot,
    ):
        error = raises(SandboxNotReady, call)
        assert error.status_code == 409
        assert "paused" in str(error)
    assert fresh.refresh().status == "paused"


def running_cannot_be_resumed(fresh: Sandbox) -> None:
    """Resume is for paused ones."""
    assert "running" in str(raises(SandboxNotReady, lambda: Sandbox.resume(fresh.id)))
    assert fresh.exec("echo unharmed").stdout == "unharmed\n"


def ended_can_be_neither() -> None:
    """A terminated sandbox is not paused, and a paused one that was terminated never comes back."""
    sbx = Sandbox.create(template="debian-12")
    sbx.pause()
    Sandbox.get(sbx.id).terminate()
    for call in (sbx.pause, lambda: Sandbox.resume(sbx.id)):
        assert "terminated" in str(raises(SandboxNotReady, call))
    assert sbx.refresh().status == "terminated"
    unknown = "sbx_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    raises(SandboxNotFound, lambda: Sandbox.resume(unknown))


def commands_go_on_after_resume(fresh: Sandbox) -> None:
    """A pause ends the calls that follow a command, with an error that says so, and not the command."""
    ends: dict[str, OrkestrError] = {}

    def follow(name: str, call: Any) -> None:
        try:
            call()
        except OrkestrError as error:
            ends[name] = error

    def command(name: str) -> str:
        return f"touch /tmp/{name}-began; until [ -e /tmp/go ]; do sleep 0.1; done; touch /tmp/{name}-ended"

    threads = [
        threading.Thread(target=follow, args=("buffered", lambda: fresh.exec(command("buffered")))),
        threading.Thread(target=follow, args=("streamed", lambda: list(fresh.exec_stream(command("streamed"))))),
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: fresh.files.exists("/tmp/buffered-began") and fresh.files.exists("/tmp/streamed-began"))

    fresh.pause()

    for thread in threads:
        thread.join()
    assert isinstance(ends["buffered"], SandboxNotReady), ends
    assert "paused" in str(ends["buffered"])
    assert "paused" in str(ends["streamed"])
    Sandbox.resume(fresh.id)
    fresh.files.write("/tmp/go", "")
    assert eventually(lambda: fresh.files.exists("/tmp/buffered-ended") and fresh.files.exists("/tmp/streamed-ended"))


def auto_resume_by_any_call() -> None:
    """With auto_resume each exec and each file call finds a paused sandbox running."""
    with Sandbox.create(template="debian-12", auto_resume=True) as sbx:
        assert sbx.auto_resume
        start_counter(sbx)
        for call in (
            lambda: sbx.exec("true"),
            lambda: list(sbx.exec_stream("true")),
            lambda: sbx.files.write("/tmp/a", "a"),
            lambda: sbx.files.read("/tmp/a"),
            lambda: sbx.files.list("/tmp"),
            lambda: sbx.files.stat("/tmp/a"),
            lambda: sbx.files.mkdir("/tmp/b"),
            lambda: sbx.files.move("/tmp/a", "/tmp/c"),
            lambda: sbx.files.write_batch({"/tmp/a": "a"}),
            lambda: sbx.files.delete("/tmp/c"),
        ):
            before = count(sbx)
            sbx.pause()
            call()
            assert sbx.refresh().status == "running"
            assert eventually(lambda before=before: count(sbx) > before)


def auto_resume_by_many_at_once() -> None:
    """Calls that meet a paused sandbox together all succeed: one of them resumes it."""
    with Sandbox.create(template="debian-12", auto_resume=True) as sbx:
        sbx.pause()
        results: list[str] = []
        threads = [threading.Thread(target=lambda n=n: results.append(sbx.exec(f"echo {n}").stdout)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [f"{n}\n" for n in range(4)]


def lease_end_pauses() -> None:
    """With on_timeout=pause the server saves the sandbox at its deadline; nothing is lost, and it can be resumed."""
    with Sandbox.create(template="debian-12", timeout_seconds=10, on_timeout="pause") as sbx:
        assert sbx.on_timeout == "pause"
        sbx.files.write("/workspace/note", "kept")
        start_counter(sbx)
        before = count(sbx)
        eventually(lambda: sbx.refresh().status == "paused")
        assert datetime.now(UTC) >= sbx.expires_at
        resumed = Sandbox.resume(sbx.id)
        assert resumed.expires_at > datetime.now(UTC)
        resumed.set_timeout(600)
        assert resumed.files.read("/workspace/note") == "kept"
        assert eventually(lambda: count(resumed) > before)


def lease_end_pauses_and_a_call_resumes() -> None:
    """on_timeout=pause with auto_resume: to who calls now and then, it is always there."""
    with Sandbox.create(template="debian-12", timeout_seconds=10, on_timeout="pause", auto_resume=True) as sbx:
        sbx.exec("echo kept > /tmp/note")
        eventually(lambda: Sandbox.get(sbx.id).status == "paused")
        assert sbx.exec("cat /tmp/note").stdout == "kept\n"


def paused_frees_its_place(tight: dict[str, Any]) -> None:
    """A paused sandbox does not count as live; to resume needs a free place again, and a refusal changes nothing."""
    client = OrkestrClient(api_key=tight["tenants"][0], base_url=tight["url"])
    first = Sandbox.create(template="debian-12", client=client)
    try:
        first.pause()
        with Sandbox.create(template="debian-12", client=client) as second:
            assert second.exec("echo fine").exit_code == 0
            error = raises(PlanLimitError, lambda: Sandbox.resume(first.id, client=client))
            assert error.status_code in (402, 403)
            assert first.refresh().status == "paused"
        assert Sandbox.resume(first.id, client=client).exec("echo back").stdout == "back\n"
    finally:
        first.terminate()


def resume_on_a_full_node(tight: dict[str, Any]) -> None:
    """FleetFull, with a time to wait; the sandbox stays paused, and resumes when there is room."""
    client, *others = (OrkestrClient(api_key=key, base_url=tight["url"]) for key in tight["tenants"])
    sbx = Sandbox.create(template="debian-12", client=client)
    made: list[Sandbox] = []
    try:
        sbx.pause()
        made += [Sandbox.create(template="debian-12", client=other, max_retries=0) for other in others]
        error = raises(FleetFull, lambda: Sandbox.resume(sbx.id, client=client, max_retries=0))
        assert error.retry_after is not None
        assert sbx.refresh().status == "paused"
        made.pop().terminate()
        assert Sandbox.resume(sbx.id, client=client).exec("echo back").stdout == "back\n"
    finally:
        for each in (sbx, *made):
            each.terminate()


def paused_cap(capped: dict[str, Any]) -> None:
    """Above its number of paused sandboxes a tenant gets SnapshotCapReached, and what it wanted to pause runs on."""
    client = OrkestrClient(**capped)
    assert Sandbox.limits(client=client).max_snapshots == 1
    first, second = (Sandbox.create(template="debian-12", client=client) for _ in range(2))
    try:
        first.pause()
        error = raises(SnapshotCapReached, second.pause)
        assert error.status_code == 409
        assert second.refresh().status == "running"
        assert second.exec("echo runs on").stdout == "runs on\n"
        first.terminate()
        second.pause()
    finally:
        for each in (first, second):
            each.terminate()


def lease_end_at_the_cap(capped: dict[str, Any]) -> None:
    """on_timeout=pause ends the sandbox where there is no room for one more paused one."""
    client = OrkestrClient(**capped)
    with Sandbox.create(template="debian-12", client=client) as first:
        first.pause()
        second = Sandbox.create(template="debian-12", client=client, timeout_seconds=10, on_timeout="pause")
        eventually(lambda: second.refresh().status == "terminated")


def paused_time_is_bounded(capped: dict[str, Any]) -> None:
    """Where the server bounds the paused time, a paused sandbox says when it ends; a running one has no such time."""
    client = OrkestrClient(**capped)
    with Sandbox.create(template="debian-12", client=client) as sbx:
        assert sbx.paused_expires_at is None
        sbx.pause()
        paused = Sandbox.get(sbx.id, client=client)
        assert paused.paused_expires_at is not None
        assert timedelta(0) < paused.paused_expires_at - datetime.now(UTC) <= timedelta(seconds=3600)
        assert Sandbox.resume(sbx.id, client=client).paused_expires_at is None


def running_window_is_bounded(capped: dict[str, Any]) -> None:
    """Where the server bounds the running window, a keep-alive cannot exceed it; pause and resume begin a new one."""
    client = OrkestrClient(**capped)
    window = Sandbox.limits(client=client).max_running_lifetime_seconds
    assert window == 900
    with Sandbox.create(template="debian-12", client=client, timeout_seconds=60) as sbx:
        before = sbx.expires_at
        error = raises(PlanLimitError, lambda: sbx.set_timeout(window + 60))
        assert error.status_code in (402, 403)
        assert Sandbox.get(sbx.id, client=client).expires_at == before
        sbx.set_timeout(window - 60)
        sbx.pause()
        Sandbox.resume(sbx.id, client=client)
        sbx.set_timeout(window - 60)
