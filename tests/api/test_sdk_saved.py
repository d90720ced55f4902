"""Our client against our server: what the one sends of pauses, snapshots and forks is what the other reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.api import RunningApi
from terp import AsyncSandbox, AsyncSnapshot, AsyncTerp, Exited, PlanLimit, SnapshotNotFound, Started, Stdout


@pytest.fixture
async def client(api: RunningApi) -> AsyncIterator[AsyncTerp]:
    async with AsyncTerp(api_key=await api.key(), base_url=api.url, wait_for_capacity=0) as client:
        yield client


async def test_paused_sandbox_goes_on(client: AsyncTerp) -> None:
    """It is listed as paused, with what it takes, and runs again under its id."""
    sandbox = await AsyncSandbox.create(on_timeout="pause", auto_resume=True, client=client)
    paused = await sandbox.pause()
    listed = [found.info async for found in AsyncSandbox.list(status="paused", client=client)]
    await sandbox.resume()

    assert [(info.id, info.stored_bytes, info.auto_resume) for info in listed] == [
        (sandbox.id, paused.stored_bytes, True)
    ]
    assert (sandbox.status, sandbox.info.stored_bytes) == ("running", None)


async def test_snapshot_outlives_its_source(client: AsyncTerp) -> None:
    """What is created from it says so; deleting it leaves a receipt."""
    async with await AsyncSandbox.create(client=client) as source:
        snapshot = await source.snapshot("ready")
    child = await AsyncSandbox.create(snapshot=snapshot, client=client)
    assert [found.info async for found in AsyncSnapshot.list(client=client)] == [snapshot.info]
    assert (child.info.snapshot, snapshot.info.source_sandbox_id) == (snapshot.id, source.id)

    await snapshot.delete()
    await snapshot.delete()

    with pytest.raises(SnapshotNotFound):
        await AsyncSnapshot.get(snapshot.id, client=client)
    (receipt,) = await client.deletion_receipts(subject=snapshot.id)
    assert snapshot.id in receipt.what


async def test_children_of_a_fork_run_and_end(client: AsyncTerp) -> None:
    """Each has an id and labels of its own; more than fit are refused at once."""
    source = await AsyncSandbox.create(client=client)
    children = await source.fork(2, metadata={"job": "7"})
    with pytest.raises(PlanLimit):
        await source.fork(10)

    assert len({source.id, *(child.id for child in children)}) == 3
    assert [(child.status, child.metadata) for child in children] == [("running", {"job": "7"})] * 2
    for child in children:
        await child.terminate()
        (receipt,) = await child.deletion_receipts()
        assert receipt.subject == child.id


async def test_command_is_followed_from_where_one_left(client: AsyncTerp) -> None:
    """The events of a later attach are those that the first stream had not shown yet."""
    sandbox = await AsyncSandbox.create(client=client)
    events = [event async for event in sandbox.exec_stream("echo hello")]
    started, *output, exited = events
    assert isinstance(started, Started)
    assert isinstance(exited, Exited)
    text = b"".join(event.data for event in output if isinstance(event, Stdout))

    rest = [event async for event in sandbox.attach(started.command_id, offset=2)]

    assert b"".join(event.data for event in rest if isinstance(event, Stdout)) == text[2:]
    assert rest[-1] == exited
