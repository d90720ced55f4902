"""Cases: from create to the end of a sandbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from orkestr import OrkestrClient, Sandbox, SandboxNotReady

from expect import eventually, raises


def create_returns_a_running_sandbox() -> None:
    """Create answers when the sandbox runs, and says what was asked for."""
    before = datetime.now(UTC)
    with Sandbox.create(
        template="debian-12",
        size="small",
        network="off",
        timeout_seconds=300,
        on_timeout="kill",
        env={"GREETING": "grüß dich"},
        metadata={"purpose": "conformance"},
    ) as sbx:
        assert sbx.id.startswith("sbx_")
        assert sbx.status == "running"
        assert (sbx.template, sbx.network, sbx.cpu, sbx.memory_mb) == ("debian-12", "off", 1.0, 1024)
        assert sbx.region
        assert sbx.node_id
        assert sbx.created_at.tzinfo is not None
        assert before - timedelta(seconds=5) < sbx.created_at
        assert timedelta(seconds=240) < sbx.expires_at - before < timedelta(seconds=400)
        assert (sbx.on_timeout, sbx.auto_resume, sbx.preview_auth) == ("kill", False, False)
        assert sbx.preview_auth_token is None
        assert sbx.paused_expires_at is None
        assert sbx.volume is None
        assert sbx.metadata == {"purpose": "conformance"}
        assert sbx.exec("echo $GREETING").stdout == "grüß dich\n"


def with_block_terminates() -> None:
    """Leaving the with block ends the sandbox, also by an exception."""
    try:
        with Sandbox.create(template="debian-12") as sbx:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert sbx.status == "terminated"
    assert Sandbox.get(sbx.id).status == "terminated"


def get_finds_it_again(sandbox: Sandbox) -> None:
    """Another process with the same key gets the same sandbox by its id and can use it."""
    found = Sandbox.get(sandbox.id, client=OrkestrClient())
    assert found == sandbox
    assert found.exec("echo here").stdout == "here\n"


def terminate_is_idempotent() -> None:
    """Terminating twice succeeds from any handle; the row stays readable and calls say that it is not ready."""
    first = Sandbox.create(template="debian-12")
    second = Sandbox.get(first.id)
    first.terminate()
    first.terminate()
    second.terminate()
    after = Sandbox.get(first.id)
    assert after.status == "terminated"
    assert after.expires_at
    assert after.refresh().status == "terminated"
    Sandbox.get(first.id).terminate()
    for call in (
        lambda: after.exec("true"),
        lambda: list(after.exec_stream("true")),
        lambda: after.files.write("/tmp/a", "a"),
        lambda: after.files.read("/tmp/a"),
        lambda: after.files.list("/tmp"),
        lambda: after.files.stat("/tmp"),
        lambda: after.files.mkdir("/tmp/b"),
        lambda: after.files.move("/tmp/a", "/tmp/b"),
        lambda: after.files.delete("/tmp/a"),
        lambda: after.files.write_batch({"/tmp/a": "a"}),
        lambda: after.set_timeout(60),
    ):
        error = raises(SandboxNotReady, call)
        assert error.status_code == 409
        assert "terminated" in str(error)


def refresh_sees_the_end(fresh: Sandbox) -> None:
    """A handle learns by refresh what another one did."""
    other = Sandbox.get(fresh.id)
    fresh.terminate()
    assert other.status == "running"
    assert other.refresh() is other
    assert other.status == "terminated"


def list_filters_and_pages() -> None:
    """List is newest first, filters by status and by all metadata given, and follows the cursor to the end."""
    mark = str(uuid4())
    tags = {"mark": mark, "user id": "4/2 & ü=[]"}
    made = [Sandbox.create(template="debian-12", metadata={**tags, "n": str(n)}) for n in range(3)]
    try:
        newest_first = [sbx.id for sbx in reversed(made)]
        assert [sbx.id for sbx in Sandbox.list(metadata=tags)] == newest_first
        assert [sbx.id for sbx in Sandbox.list(metadata=tags, limit=1)] == newest_first
        assert [sbx.id for sbx in Sandbox.list(metadata=tags, limit=2, max_results=2)] == newest_first[:2]
        assert [sbx.id for sbx in Sandbox.list(metadata={"mark": mark, "n": "1"})] == [made[1].id]
        assert Sandbox.list(metadata={"mark": mark, "n": "17"}) == []
        assert Sandbox.list(metadata={"mark": mark}, status="terminated") == []
        made[0].terminate()
        assert [sbx.id for sbx in Sandbox.list(metadata=tags, status="running")] == newest_first[:2]
        assert [sbx.id for sbx in Sandbox.list(metadata=tags, status="terminated")] == [made[0].id]
        everything = [sbx.id for sbx in Sandbox.list(limit=200)]
        assert everything == sorted(everything, reverse=True)
        assert set(newest_first) <= set(everything)
        row = next(sbx for sbx in Sandbox.list(metadata=tags) if sbx.id == made[1].id)
        assert row == Sandbox.get(made[1].id)
    finally:
        for sbx in made:
            sbx.terminate()


def set_timeout_counts_from_now(fresh: Sandbox) -> None:
    """The lease is restarted, longer or shorter, not added to what was left."""
    fresh.set_timeout(3000)
    later = fresh.expires_at
    assert timedelta(seconds=2900) < later - datetime.now(UTC) < timedelta(seconds=3100)
    assert Sandbox.get(fresh.id).expires_at == later
    fresh.set_timeout(500)
    assert timedelta(seconds=400) < fresh.expires_at - datetime.now(UTC) < timedelta(seconds=600)
    assert Sandbox.get(fresh.id).expires_at == fresh.expires_at


def lease_end_terminates() -> None:
    """A sandbox whose lease has run out is ended by the server, and running commands with it."""
    sbx = Sandbox.create(template="debian-12", timeout_seconds=10)
    eventually(lambda: sbx.refresh().status == "terminated")
    assert datetime.now(UTC) >= sbx.expires_at
    raises(SandboxNotReady, lambda: sbx.exec("true"))


def limits_describe_the_plan() -> None:
    """Limits parse, and their menu is consistent in itself."""
    limits = Sandbox.limits()
    assert limits.plan in ("free", "payg", "enterprise")
    assert limits.max_concurrent >= 1
    assert limits.max_snapshots >= 0
    menu = {row.size: (row.cpu, row.memory_mb) for row in limits.sizes}
    assert menu["small"] == (1.0, 1024)
    assert menu["medium"] == (2.0, 4096)
    assert menu["large"] == (4.0, 8192)
    assert limits.allowed_sizes == [row.size for row in limits.sizes if row.allowed]
    assert "small" in limits.allowed_sizes
    assert limits.regions
    with Sandbox.create(template="debian-12", region=limits.regions[0].id) as sbx:
        assert sbx.region == limits.regions[0].id
