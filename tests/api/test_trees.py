"""Whole trees over HTTP: archives as streams, and what changes as events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.api import RunningApi, running_api
from support.simulated_node import SimulatedFile

from terpd.api.pace import Pace
from terpd.model.guest import FileChange, FileEvent
from terpd.model.ids import SandboxId

MIB = 1024 * 1024


def url(sandbox_id: str, rest: str) -> str:
    return f"/v1/sandboxes/{sandbox_id}/files/{rest}"


async def test_archives_stream_in_both_directions(api: RunningApi) -> None:
    """Any number of bytes, above the bound of other bodies; what came of them is counted."""
    sandbox_id = await api.create()
    content = bytes(range(256)) * 4096 * 30
    answer = await api.client.put(url(sandbox_id, "archive"), params={"path": "/workspace/a"}, content=content)
    assert (answer.status_code, answer.json()) == (200, {"files": 1, "bytes": len(content)})
    answer = await api.client.get(url(sandbox_id, "archive"), params={"path": "/workspace/a/archive"})
    assert answer.content == content
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_archives_are_bounded_to_write_roots(api: RunningApi) -> None:
    """A write root itself will do, other places not; reading is free."""
    sandbox_id = await api.create()
    for path, status in (("/workspace", 200), ("/tmp/", 200), ("/etc", 422), ("/workspace/../etc", 422), ("a", 422)):
        answer = await api.client.put(url(sandbox_id, "archive"), params={"path": path}, content=b"x")
        assert answer.status_code == status, path
    answer = await api.client.get(url(sandbox_id, "archive"), params={"path": "/none"})
    assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found")


async def test_an_archive_that_breaks_off_is_cut(api: RunningApi) -> None:
    """The client sees that it has not all of it."""
    sandbox_id = await api.create()
    api.node.machines[SandboxId(sandbox_id)].files["/workspace/f"] = SimulatedFile(bytes(MIB))
    api.node.read_error_after = MIB // 2
    with pytest.raises(httpx.RemoteProtocolError):
        await api.client.get(url(sandbox_id, "archive"), params={"path": "/workspace/f"})


async def frames(answer: httpx.Response) -> AsyncIterator[dict[str, object] | None]:
    """Of the stream, one after another; None for a comment."""
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield None
        elif line:
            assert line.startswith("data: ")
            assert line.isascii()
            yield json.loads(line.removeprefix("data: "))


async def test_changes_are_events(api: RunningApi) -> None:
    """READY first, then each as it comes, to the end of what is watched."""
    sandbox_id = await api.create()
    api.node.file_events.put_nowait(FileEvent(FileChange.CREATED, "/workspace/ä\u2028", is_dir=False))
    api.node.file_events.put_nowait(FileEvent(FileChange.MOVED, "/workspace/b", is_dir=True, moved_from="/workspace/a"))
    api.node.file_events.put_nowait(FileEvent(FileChange.OVERFLOW, "/workspace", is_dir=False))
    api.node.file_events.put_nowait(None)
    params = {"path": "/workspace", "recursive": "true"}
    async with api.client.stream("GET", url(sandbox_id, "watch"), params=params) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [frame async for frame in frames(answer)] == [
            {"kind": "ready", "path": "/workspace", "is_dir": True},
            {"kind": "created", "path": "/workspace/ä\u2028", "is_dir": False},
            {"kind": "moved", "path": "/workspace/b", "is_dir": True, "moved_from": "/workspace/a"},
            {"kind": "overflow", "path": "/workspace", "is_dir": False},
        ]


async def test_a_quiet_watch_stays_alive_and_ends_with_a_pause(tmp_path: Path) -> None:
    """Comments keep clients from giving up; what ends it is told in the last frame."""
    async with running_api(tmp_path, pace=Pace(keepalive_s=0.01)) as api:
        sandbox_id = await api.create()
        async with api.client.stream("GET", url(sandbox_id, "watch"), params={"path": "/workspace"}) as answer:
            coming = frames(answer)
            assert (await anext(coming) or {})["kind"] == "ready"
            assert await anext(coming) is None
            pausing = asyncio.create_task(api.client.post(f"/v1/sandboxes/{sandbox_id}/pause"))
            told = [frame async for frame in coming if frame is not None]
            await pausing
        assert [(frame["kind"], frame["code"]) for frame in told] == [("error", "state_conflict")]


async def test_watches_that_cannot_begin(api: RunningApi) -> None:
    """They have a status of their own."""
    sandbox_id = await api.create()
    for path, status in (("/none", 404), ("relative", 422)):
        assert (await api.client.get(url(sandbox_id, "watch"), params={"path": path})).status_code == status
    await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
    assert (await api.client.get(url(sandbox_id, "watch"), params={"path": "/workspace"})).status_code == 409


async def test_a_paused_sandbox_wakes_to_be_watched(api: RunningApi) -> None:
    """With auto_resume, as for every other call."""
    sandbox_id = await api.create(auto_resume=True)
    await api.client.post(f"/v1/sandboxes/{sandbox_id}/pause")
    api.node.file_events.put_nowait(None)
    answer = await api.client.get(url(sandbox_id, "watch"), params={"path": "/workspace"})
    assert answer.status_code == 200
