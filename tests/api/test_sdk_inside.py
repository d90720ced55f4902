"""Our client against our server: what happens inside of a sandbox. Commands, terminals, variables, files, figures."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.api import RunningApi
from support.simulated_commands import SimulatedCommand
from terp import (
    AsyncSandbox,
    AsyncTerp,
    AsyncVolume,
    AsyncWebhook,
    ExecKilled,
    ExecNotFound,
    Exited,
    InvalidRequest,
    LogDropped,
    SecretsInUse,
    Stdout,
    VolumeInUse,
    VolumeNotFound,
    WebhookNotFound,
    usage_async,
)

from terpd.model.ids import SandboxId


@pytest.fixture
async def client(api: RunningApi) -> AsyncIterator[AsyncTerp]:
    async with AsyncTerp(api_key=await api.key(), base_url=api.url, wait_for_capacity=0) as client:
        yield client


@pytest.fixture
async def sandbox(client: AsyncTerp) -> AsyncSandbox:
    return await AsyncSandbox.create(client=client)


def inside(api: RunningApi, sandbox: AsyncSandbox, command_id: str) -> SimulatedCommand:
    return api.node.command(SandboxId(sandbox.id), command_id)


async def test_background_command(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """Found again, read in pages, followed to its end."""
    command = await sandbox.start("sit", env={"A": "1"})
    guest = inside(api, sandbox, command.id)
    guest.write("ä".encode())
    (found,) = await sandbox.commands()
    page = await found.logs()
    guest.write(b"more")
    following = await found.logs(page.next_offset)
    guest.exit(3)
    events = [event async for event in command.stream(page.next_offset)]

    assert (page.content, page.next_offset, following.content) == ("ä", 2, "more")
    assert b"".join(event.data for event in events if isinstance(event, Stdout)) == b"more"
    assert [event.exit_code for event in events if isinstance(event, Exited)] == [3]
    assert (await command.wait(), command.status, command.started_at) == (3, "exited", found.started_at)


async def test_killed_command(sandbox: AsyncSandbox) -> None:
    """It has no exit code, and following it says why."""
    command = await sandbox.start("sit")
    await command.kill()

    assert (await command.wait(), command.status) == (None, "killed")
    with pytest.raises(ExecKilled):
        [event async for event in command.stream()]
    with pytest.raises(ExecNotFound):
        await sandbox.command("cmd_01JG0000000000000000000000")


async def test_dropped_log(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """A place that is gone is an error with the first that is kept; no place is that one."""
    command = await sandbox.start("sit")
    guest = inside(api, sandbox, command.id)
    guest.write(b"0123456789")
    guest.drop(4)
    guest.exit()

    assert (await command.logs()).content == "456789"
    for read in (command.logs(0), anext(command.stream(0))):
        with pytest.raises(LogDropped) as caught:
            await read
        assert caught.value.first_offset == 4
    assert [event.data async for event in command.stream(4) if isinstance(event, Stdout)] == [b"456789"]


async def test_terminal(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """Typed once by two objects in turn, shown as bytes, of the size that it was given last."""
    pty = await sandbox.pty(command="cat", cols=100, rows=30)
    guest = inside(api, sandbox, pty.id)
    await pty.write("ä" * 20_000)
    other = await sandbox.attach_pty(pty.id)
    await other.write(b"\xff")
    await other.resize(120, 40)
    shown = bytes(guest.log)
    guest.exit(130, 2)
    seen = b"".join([data async for data in pty.output()])

    assert bytes(guest.typed) == "ä".encode() * 20_000 + b"\xff"
    assert seen == shown
    assert guest.size is not None
    assert (guest.size.cols, guest.size.rows) == (120, 40)
    assert [each.id for each in await sandbox.ptys()] == [pty.id]
    await pty.kill()
    assert await pty.wait() is None


async def test_variables_and_secrets(sandbox: AsyncSandbox) -> None:
    """Names come back; a command's own are its own; a fork waits for those that hold some."""
    assert await sandbox.env.set({"B": "2"}, A="1") == ("A", "B")
    assert await sandbox.env.unset("B", "C") == ("A",)
    assert await sandbox.env.list() == ("A",)
    assert (await sandbox.exec("env A")).stdout == "1"
    command = await sandbox.start("sit", secrets={"KEY": "s"})
    with pytest.raises(SecretsInUse):
        await sandbox.snapshot()
    await sandbox.snapshot(include_secrets=True)
    await command.kill()
    (child,) = await sandbox.fork()
    assert await child.env.list() == ()
    assert (await sandbox.exec("env KEY", secrets={"KEY": "s"})).stdout == "s"
    assert (await sandbox.exec("env KEY")).stdout == ""
    with pytest.raises(InvalidRequest):
        await sandbox.env.set({"1A": "x"})


async def test_presigned_files(sandbox: AsyncSandbox) -> None:
    """Any HTTP client can use them."""
    upload = await sandbox.files.presign_upload("/workspace/a.txt")
    download = await sandbox.files.presign_download("/workspace/a.txt", expires_in=60)
    async with httpx.AsyncClient(trust_env=False) as other:
        put = await other.request(upload.method, upload.url, content=b"hello")
        got = await other.request(download.method, download.url)

    assert put.is_success, put.text
    assert got.content == b"hello"
    with pytest.raises(InvalidRequest):
        await sandbox.files.presign_download("/workspace/a.txt", expires_in=5)


async def test_volumes(client: AsyncTerp) -> None:
    """Held by their sandbox, found by name, gone with their key."""
    volume = await AsyncVolume.create("models", 0.5, max_lifetime_days=3, client=client)
    sandbox = await AsyncSandbox.create(volume=volume, client=client)
    await volume.refresh()

    assert (volume.size_mb, volume.status, volume.info.attached_sandbox_id) == (512, "attached", sandbox.id)
    assert sandbox.info.volume == "models"
    with pytest.raises(VolumeInUse) as caught:
        await volume.delete()
    assert caught.value.sandbox_id == sandbox.id
    await volume.update(max_lifetime_hours=2)
    assert (volume.info.max_lifetime_days, volume.info.max_lifetime_hours) == (None, 2)
    await volume.update(max_lifetime_hours=None)
    assert volume.info.expires_at is None
    await sandbox.terminate()
    found = await AsyncVolume.get("models", client=client)
    assert found.id == volume.id
    await found.delete()
    assert [each.status async for each in AsyncVolume.list(client=client) if each.status != "deleting"] == []
    with pytest.raises(VolumeNotFound):
        await AsyncVolume.get("vol_01JG0000000000000000000000", client=client)


async def test_webhooks(client: AsyncTerp) -> None:
    """Made, listed without the secret, told of nothing yet."""
    webhook = await AsyncWebhook.create("https://93.184.216.34/hook", ["sandbox.created"], client=client)
    (found,) = [each async for each in AsyncWebhook.list(client=client)]

    assert (webhook.secret or "").startswith("whsec_")
    assert (found.id, found.secret, found.info.event_types) == (webhook.id, None, ("sandbox.created",))
    assert await found.deliveries() == ()
    await found.enable()
    await found.delete()
    with pytest.raises(WebhookNotFound):
        await webhook.enable()
    with pytest.raises(InvalidRequest):
        await AsyncWebhook.create("https://93.184.216.34/hook", ["sandbox.sneezed"], client=client)


async def test_figures(client: AsyncTerp, sandbox: AsyncSandbox) -> None:
    """Of one sandbox, and of all by day."""
    metrics = await sandbox.metrics(since=dt.datetime.now(dt.UTC))
    used = await usage_async(dt.date(2026, 1, 1), dt.date(2026, 1, 2), client=client)

    assert (metrics.sandbox_id, metrics.status, metrics.cores) == (sandbox.id, "running", 1.0)
    assert metrics.memory_limit_bytes == 1024 << 20
    assert (used.days, used.cpu_seconds, used.gb_seconds) == ((), 0.0, 0.0)


async def test_changes_of_files(api: RunningApi, sandbox: AsyncSandbox) -> None:
    """`ready` first; leaving ends the watch."""
    async with contextlib.aclosing(sandbox.files.watch("/workspace")) as changes:
        first = await anext(changes)

    assert (first.kind, first.path) == ("ready", "/workspace")


async def test_directories(sandbox: AsyncSandbox, tmp_path: Path) -> None:
    """What goes in comes out. The simulated guest keeps an archive as it came."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "ä.bin").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "in" / "link").symlink_to("sub")

    sent = await sandbox.files.upload_dir(tmp_path / "in", "/workspace/new")
    got = await sandbox.files.download_dir("/workspace/new/archive", tmp_path / "out")

    assert sent.skipped == got.skipped == ()
    assert (got.files, got.size) == (3, 1 << 20)
    assert (tmp_path / "out" / "link" / "ä.bin").read_bytes() == bytes(range(256)) * 4096
