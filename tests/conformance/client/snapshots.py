"""Cases: named snapshots, and what is created from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orkestr import APIError, OrkestrClient, Sandbox, SandboxNotFound, SandboxNotReady, Snapshot, SnapshotCapReached

from expect import count, eventually, raises, start_counter


def snapshot_describes_itself(fresh: Sandbox) -> None:
    """It is ready when the call returns, and can be looked up and listed, newest first."""
    before = datetime.now(UTC)
    first, second = fresh.snapshot("after setup, 1"), fresh.snapshot()
    try:
        assert first.id != second.id
        assert (first.status, first.name, second.name) == ("ready", "after setup, 1", None)
        assert (first.template, first.cpu, first.memory_mb, first.network) == ("debian-12", 1.0, 1024, "off")
        assert first.source_sandbox_id == fresh.id
        assert first.size_mb is not None
        assert 1 <= first.size_mb < 512  # what was touched, not the whole memory
        assert first.node_id
        assert first.region
        assert first.error_message is None
        assert first.created_at is not None
        assert first.ready_at is not None
        assert before - timedelta(seconds=5) < first.created_at <= first.ready_at
        assert Snapshot.get(first.id) == first
        ours = [each for each in Snapshot.list() if each.source_sandbox_id == fresh.id]
        assert ours == [second, first]
        assert fresh.exec("echo the source runs on").exit_code == 0
    finally:
        Snapshot.delete(first.id)
        Snapshot.delete(second.id)


def children_inherit_and_diverge() -> None:
    """Children have the source's files, environment and processes of that moment, and then go ways of their own."""
    with Sandbox.create(template="debian-12", env={"KEPT": "yes"}, metadata={"of": "source"}) as source:
        source.files.write("/workspace/note", "kept")
        start_counter(source)
        before = count(source)
        snap = source.snapshot("base")
        source.files.write("/workspace/note", "changed later")
        children = [Sandbox.create(snapshot=snap.id, env={"ROLE": f"child {n}"}) for n in range(2)]
        try:
            for n, child in enumerate(children):
                assert child.status == "running"
                assert (child.template, child.cpu, child.memory_mb, child.network) == ("debian-12", 1.0, 1024, "off")
                assert child.metadata == {}
                assert child.files.read("/workspace/note") == "kept"
                assert child.exec('echo "$KEPT $ROLE"').stdout == f"yes child {n}\n"
                after = count(child)
                assert after >= before
                assert eventually(lambda child=child, after=after: count(child) > after)
                child.files.write("/workspace/note", f"of child {n}")
            notes = [each.files.read("/workspace/note") for each in (source, *children)]
            assert notes == ["changed later", "of child 0", "of child 1"]
            children[0].terminate()
            assert eventually(lambda: count(children[1]) > before)
        finally:
            for child in children:
                child.terminate()
            Snapshot.delete(snap.id)


def children_are_different_machines(fresh: Sandbox) -> None:
    """Id, host name, machine id and random numbers are a child's own."""
    snap = fresh.snapshot()
    with Sandbox.create(snapshot=snap.id) as one, Sandbox.create(snapshot=snap.id) as two:
        for command in ("hostname", "cat /etc/machine-id", "head -c 32 /dev/urandom | od -A n -t x1"):
            seen = {each.exec(command).stdout for each in (fresh, one, two)}
            assert len(seen) == 3, (command, seen)
        assert len({fresh.id, one.id, two.id}) == 3
    Snapshot.delete(snap.id)


def snapshot_outlives_its_source() -> None:
    """When the source is terminated, the snapshot still is what it was."""
    with Sandbox.create(template="debian-12") as source:
        source.files.write("/workspace/note", "kept")
        snap = source.snapshot()
    assert Snapshot.get(snap.id).status == "ready"
    with Sandbox.create(snapshot=snap.id) as child:
        assert child.files.read("/workspace/note") == "kept"
    Snapshot.delete(snap.id)


def child_outlives_its_snapshot(fresh: Sandbox) -> None:
    """When the snapshot is deleted, its children run on, and can be paused and resumed."""
    fresh.files.write("/workspace/note", "kept")
    snap = fresh.snapshot()
    with Sandbox.create(snapshot=snap.id) as child:
        Snapshot.delete(snap.id)
        child.exec("sync; echo 3 > /proc/sys/vm/drop_caches")
        assert child.files.read("/workspace/note") == "kept"
        child.pause()
        assert Sandbox.resume(child.id).files.read("/workspace/note") == "kept"


def child_has_a_life_of_its_own(fresh: Sandbox) -> None:
    """A child takes the options of create, can be a source itself, and is paused at its lease's end."""
    fresh.exec("echo 1 > /tmp/depth")
    snap = fresh.snapshot()
    with Sandbox.create(
        snapshot=snap.id, timeout_seconds=10, on_timeout="pause", auto_resume=True, metadata={"of": "child"}
    ) as child:
        assert (child.on_timeout, child.auto_resume, child.metadata) == ("pause", True, {"of": "child"})
        child.exec("echo 2 > /tmp/depth")
        deeper = child.snapshot()
        with Sandbox.create(snapshot=deeper.id) as grandchild:
            assert grandchild.exec("cat /tmp/depth").stdout == "2\n"
        eventually(lambda: Sandbox.get(child.id).status == "paused")
        assert child.exec("cat /tmp/depth").stdout == "2\n"
    Snapshot.delete(snap.id)
    Snapshot.delete(deeper.id)


def delete_is_idempotent(fresh: Sandbox) -> None:
    """Deleting twice succeeds; then the snapshot is not found, nor is anything created from it."""
    snap = fresh.snapshot()
    Snapshot.delete(snap.id)
    Snapshot.delete(snap.id)
    assert snap.id not in {each.id for each in Snapshot.list()}
    for call in (lambda: Snapshot.get(snap.id), lambda: Sandbox.create(snapshot=snap.id)):
        assert raises(SandboxNotFound, call).status_code == 404
    for bad in ("snap_x", "nonsense", "snap_01ARZ3NDEKTSV4RRFFQ69G5FAV"):
        raises(SandboxNotFound, lambda bad=bad: Snapshot.get(bad))


def names_are_bounded(fresh: Sandbox) -> None:
    """A name is text for people; what is none is refused, and nothing is taken."""
    for bad in ("", "x" * 129, "a\nb", "\0"):
        error = raises(APIError, lambda bad=bad: fresh.snapshot(bad))
        assert error.status_code == 422
        assert "name" in str(error)
    assert [each for each in Snapshot.list() if each.source_sandbox_id == fresh.id] == []


def terminated_has_no_snapshot() -> None:
    """There is nothing left to take one of."""
    sbx = Sandbox.create(template="debian-12")
    sbx.terminate()
    raises(SandboxNotReady, sbx.snapshot)


def other_tenants_snapshot(fresh: Sandbox, keys: dict[str, str]) -> None:
    """Another tenant's snapshot does not exist, cannot be used, and a deletion leaves it."""
    snap = fresh.snapshot()
    stranger = OrkestrClient(api_key=keys["stranger"])
    assert Snapshot.list(client=stranger) == []
    raises(SandboxNotFound, lambda: Snapshot.get(snap.id, client=stranger))
    raises(SandboxNotFound, lambda: Sandbox.create(snapshot=snap.id, client=stranger))
    Snapshot.delete(snap.id, client=stranger)
    assert Snapshot.get(snap.id) == snap
    Snapshot.delete(snap.id)


def named_cap(capped: dict[str, Any]) -> None:
    """Above its number of named snapshots a tenant gets SnapshotCapReached; deleting one makes room."""
    client = OrkestrClient(**capped)
    with Sandbox.create(template="debian-12", client=client) as sbx:
        first = sbx.snapshot("first")
        error = raises(SnapshotCapReached, lambda: sbx.snapshot("second"))
        assert error.status_code == 409
        assert [each.name for each in Snapshot.list(client=client)] == ["first"]
        Snapshot.delete(first.id, client=client)
        second = sbx.snapshot("second")
        Snapshot.delete(second.id, client=client)
