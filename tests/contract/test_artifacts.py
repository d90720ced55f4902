"""One suite for every artifact store: a folder, and S3 with local copies against a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.artifacts import S3Shop, Shop, layer_name, memory_name, written
from support.until import until

from terpd.model.errors import StateDamaged, StorageFull, Unavailable
from terpd.model.ids import new_state_id

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "terp-test", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


# ---- what every store does -----------------------------------------------------------------------


async def test_what_was_kept_can_be_fetched(shop: Shop, tmp_path: Path) -> None:
    """By another process too, with the same content, and nobody may write to it."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 3 * MIB)
    content = path.read_bytes()

    await store.keep(info, path)
    path.unlink()

    for each in (store, shop.store()):
        found = await each.fetch(info)
        assert found.read_bytes() == content
        assert found.stat().st_mode & 0o777 == 0o444
        assert await each.names("layers/") == [info.name]
        assert await each.names("states/") == []


async def test_keeping_again_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    """Also when the source is gone by then."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 1000)
    await store.keep(info, path)

    await store.keep(info, path)
    path.unlink()
    await store.keep(info, path)

    assert (await store.fetch(info)).stat().st_size == 1000


async def test_a_file_of_another_size_is_not_kept(shop: Shop, tmp_path: Path) -> None:
    """What a writer left unfinished gets no name."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 1000)

    with pytest.raises(StateDamaged, match=info.name):
        await store.keep(replace(info, size=1001), path)

    assert await store.names("layers/") == []


async def test_a_link_is_not_followed(shop: Shop, tmp_path: Path) -> None:
    """A monitor that puts a link to a file of root's where its disk was gets neither its content nor its mode."""
    store = shop.store()
    await store.open()
    info, secret = written(tmp_path, 1000)
    secret.chmod(0o600)
    link = tmp_path / "disk.qcow2"
    link.symlink_to(secret)

    with pytest.raises(Unavailable):
        await store.keep(info, link)

    assert await store.names("layers/") == []
    assert secret.stat().st_mode & 0o777 == 0o600


async def test_drafts_end_with_their_block(shop: Shop, tmp_path: Path) -> None:
    """Kept or not; and what a dead process left ends with the next start."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 1000, name=memory_name())

    with store.draft(info.name) as draft:
        draft.write_bytes(path.read_bytes())
        await store.keep(info, draft)
    with store.draft(info.name) as unused:
        unused.write_bytes(b"unfinished")
    (draft.parent / "left").write_bytes(b"by a dead process")
    await shop.store().open()

    assert list(draft.parent.iterdir()) == []
    assert (await store.fetch(info)).read_bytes() == path.read_bytes()


async def test_small_artifacts(shop: Shop) -> None:
    """Read as put, replaced when put again, None when there is none, refused when too large."""
    store = shop.store()
    await store.open()
    name = f"states/{new_state_id()}/manifest.json"
    assert await store.read(name, limit=100) is None

    await store.put(name, b"first")
    await store.put(name, b"second")

    for each in (store, shop.store()):
        assert await each.read(name, limit=6) == b"second"
        with pytest.raises(StateDamaged, match=name):
            await each.read(name, limit=5)


@pytest.mark.parametrize(
    "content", [None, b"short", b"x" * 1000, b"x" * 1001], ids=["missing", "torn", "other", "long"]
)
async def test_damage_is_noticed(shop: Shop, tmp_path: Path, content: bytes | None) -> None:
    """And the message names the artifact."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 1000)
    await store.keep(info, path)
    assert (await store.fetch(info)).exists()

    shop.damage(info.name, content)

    for each in (store, shop.store()):
        with pytest.raises(StateDamaged, match=info.name):
            await each.fetch(info)


async def test_discarded_artifacts_are_gone(shop: Shop, tmp_path: Path) -> None:
    """All of them, twice if need be; who has one open can still read it."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 1000, name=memory_name())
    manifest = f"{info.name.rpartition('/')[0]}/manifest.json"
    await store.keep(info, path)
    await store.put(manifest, b"{}")
    with (await store.fetch(info)).open("rb") as file:
        for name in (info.name, manifest, info.name, manifest):
            await store.discard(name)
        assert file.read() == path.read_bytes()

    assert await store.names("states/") == []
    assert await store.read(manifest, limit=10) is None
    with pytest.raises(StateDamaged):
        await store.fetch(info)


@pytest.mark.parametrize("name", ["../../etc/passwd", "layers/../x", "/etc/passwd", "states/x/memory", "owner", ""])
async def test_only_names_of_ours_become_paths(shop: Shop, tmp_path: Path, name: str) -> None:
    """Whatever a record or a manifest says."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 10)

    with pytest.raises(ValueError, match="not the name"):
        await store.keep(replace(info, name=name), path)
    with pytest.raises(ValueError, match="not the name"):
        await store.put(name, b"")
    with pytest.raises(ValueError, match="not the name"):
        await store.read(name, limit=10)
    with pytest.raises(ValueError, match="not the name"):
        await store.fetch(replace(info, name=name))
    with pytest.raises(ValueError, match="not the name"):
        await store.discard(name)
    with pytest.raises(ValueError, match="not the name"), store.draft(name):
        pass


async def test_a_full_disk(shop: Shop, small_disk: Path) -> None:
    """It is said, nothing torn is left, and it works again when there is room."""
    shop.directory = small_disk / "artifacts"
    store = shop.store()
    await store.open()
    name = f"states/{new_state_id()}/manifest.json"
    await store.put(name, b"old")
    stuffing = small_disk / "stuffing"
    _fill(stuffing)

    with pytest.raises(StorageFull):
        await store.put(name, os.urandom(64 * 1024))
    with pytest.raises(StorageFull), store.draft(layer_name()):
        pass
    assert store.free_bytes() == 0
    stuffing.unlink()

    assert [each.name for each in (shop.directory / ".drafts").iterdir()] == []
    await store.put(name, b"new")
    assert await store.read(name, limit=10) == b"new"


async def test_the_reserve_is_left_to_others(shop: Shop, small_disk: Path) -> None:
    """No artifact is begun that would use it, however much is free besides."""
    shop.directory = small_disk / "artifacts"
    store = shop.store(reserve_bytes=4 * MIB)
    await store.open()

    with pytest.raises(StorageFull), store.draft(layer_name()):
        pass
    with shop.store(reserve_bytes=MIB).draft(layer_name()):
        pass


async def test_many_fetch_at_once(shop: Shop, tmp_path: Path) -> None:
    """As the children of one fork do."""
    store = shop.store()
    await store.open()
    info, path = written(tmp_path, 3 * MIB)
    await store.keep(info, path)
    if isinstance(shop, S3Shop):
        shop.forget(info.name)

    found = await asyncio.gather(*(store.fetch(info) for _ in range(8)))

    assert {each.read_bytes() for each in found} == {path.read_bytes()}


# ---- S3 ------------------------------------------------------------------------------------------


async def test_a_broken_upload_goes_on_where_it_was(s3: S3Shop, tmp_path: Path) -> None:
    """Also in the next process: parts that had arrived are not sent again."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 40 * MIB)
    s3.proxy.allow(36 * MIB)  # of three parts, two arrive
    with pytest.raises(Unavailable):
        await store.keep(info, path)
    assert _names(s3) == []

    s3.proxy.allow(None)
    await s3.store().keep(info, path)

    assert s3.proxy.sent < 30 * MIB
    assert s3.content(info.name) == path.read_bytes()


async def test_a_cancelled_upload_can_be_repeated(s3: S3Shop, tmp_path: Path) -> None:
    """And one that was cancelled and discarded leaves no parts, which would cost money."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 40 * MIB)
    keeping = asyncio.create_task(store.keep(info, path))
    await until(lambda: s3.proxy.sent > 8 * MIB)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping

    await store.keep(info, path)
    assert s3.content(info.name) == path.read_bytes()
    await store.discard(info.name)

    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=s3.bucket)
    assert _names(s3) == []


async def test_a_part_that_arrived_wrong_is_sent_again(s3: S3Shop, tmp_path: Path) -> None:
    """What the unfinished upload has is compared, not trusted."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 20 * MIB)
    upload = s3.client.create_multipart_upload(
        Bucket=s3.bucket, Key=f"terp/{info.name}", Metadata={"blake3": info.digest}
    )
    part = {"Bucket": s3.bucket, "Key": f"terp/{info.name}", "UploadId": upload["UploadId"], "PartNumber": 1}
    s3.client.upload_part(**part, Body=bytes(16 * MIB))

    await store.keep(info, path)

    assert s3.content(info.name) == path.read_bytes()


async def test_a_download_goes_on_over_broken_connections(s3: S3Shop, tmp_path: Path) -> None:
    """By itself, from where it was."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 20 * MIB)
    await store.keep(info, path)
    s3.forget(info.name)
    s3.proxy.allow(7 * MIB, cuts=2)

    found = await store.fetch(info)

    assert found.read_bytes() == path.read_bytes()
    assert s3.proxy.received < 25 * MIB


async def test_a_download_goes_on_in_the_next_process(s3: S3Shop, tmp_path: Path) -> None:
    """What had arrived is not asked for again; when it is done, nothing of it is left."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 20 * MIB)
    await store.keep(info, path)
    s3.forget(info.name)
    s3.proxy.allow(15 * MIB)
    with pytest.raises(Unavailable):
        await store.fetch(info)

    s3.proxy.allow(None)
    again = s3.store()
    await again.open()
    found = await again.fetch(info)

    assert found.read_bytes() == path.read_bytes()
    assert s3.proxy.received < 10 * MIB
    assert list((s3.directory / ".parts").iterdir()) == []


async def test_a_wrong_half_is_thrown_away(s3: S3Shop, tmp_path: Path) -> None:
    """What a power loss made of a half-done download does not spoil it for good."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 2 * MIB)
    await store.keep(info, path)
    s3.forget(info.name)
    (s3.directory / ".parts" / info.name.replace("/", "~")).write_bytes(bytes(MIB))

    assert (await store.fetch(info)).read_bytes() == path.read_bytes()


async def test_a_full_disk_keeps_no_half_download(s3: S3Shop, small_disk: Path, tmp_path: Path) -> None:
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 5 * MIB)
    await store.keep(info, path)
    small = s3.store(directory=small_disk / "artifacts")
    _share(s3, small_disk / "artifacts")
    await small.open()

    with pytest.raises(StorageFull):
        await small.fetch(info)

    assert list((small_disk / "artifacts" / ".parts").iterdir()) == []


async def test_a_bucket_that_is_away(s3: S3Shop, tmp_path: Path) -> None:
    """A server starts without it and uses what it has here; whatever needs it says so and can be repeated."""
    store = s3.store()
    await store.open()
    (kept, kept_path), (other, other_path) = written(tmp_path, 1000), written(tmp_path, 1000)
    await store.keep(kept, kept_path)
    s3.proxy.allow(0)

    store = s3.store()
    await store.open()
    assert (await store.fetch(kept)).read_bytes() == kept_path.read_bytes()
    for act in (
        store.keep(other, other_path),
        store.fetch(other),
        store.names("layers/"),
        store.discard(kept.name),
        store.read(f"states/{new_state_id()}/manifest.json", limit=10),
    ):
        with pytest.raises(Unavailable):
            await act
    s3.proxy.allow(None)

    await store.keep(other, other_path)
    assert set(await store.names("layers/")) == {kept.name, other.name}


async def test_copies_that_nobody_used_make_room(s3: S3Shop, tmp_path: Path) -> None:
    """The oldest first, none that was used within the hour; they come back when they are wanted."""
    store = s3.store(cache_bytes=2500)
    await store.open()
    infos = []
    for age_s in (9000, 8000, 60):
        info, path = written(tmp_path, 1000)
        await store.keep(info, path)
        copy = s3.directory / info.name
        os.utime(copy, (copy.stat().st_atime - age_s, copy.stat().st_mtime))
        infos.append(info)
    fourth, path = written(tmp_path, 1000)

    await store.keep(fourth, path)

    here = [(s3.directory / info.name).exists() for info in (*infos, fourth)]
    assert here == [False, False, True, True]
    assert (await store.fetch(infos[0])).stat().st_size == 1000


async def test_a_prefix_belongs_to_one_server(s3: S3Shop, tmp_path: Path) -> None:
    """Another one would remove what it does not know; it is told so, and changes nothing."""
    store = s3.store()
    await store.open()
    info, path = written(tmp_path, 1000)
    await store.keep(info, path)

    other = s3.store(directory=tmp_path / "other")
    with pytest.raises(Unavailable, match="another server"):
        await other.open()
    with pytest.raises(Unavailable, match="another server"):
        await other.discard(info.name)
    with pytest.raises(Unavailable, match="another server"):
        await other.names("layers/")

    assert await store.names("layers/") == [info.name]


async def test_uploads_that_nobody_goes_on_with_are_given_up(s3: S3Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day after they began, at the next start. (All uploads of this server began in 2010.)"""
    from terpd.node.artifacts import bucket

    await s3.store().open()
    s3.client.create_multipart_upload(Bucket=s3.bucket, Key=f"terp/{layer_name()}")
    with monkeypatch.context() as patched:
        patched.setattr(bucket, "_STALE", dt.timedelta(days=100 * 365))
        await s3.store().open()
        assert len(s3.client.list_multipart_uploads(Bucket=s3.bucket)["Uploads"]) == 1

    await s3.store().open()

    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket=s3.bucket)


def _names(s3: S3Shop) -> list[str]:
    """What the bucket has, whatever lies here."""
    found = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="terp/layers/").get("Contents", [])
    return [each["Key"] for each in found]


def _share(s3: S3Shop, directory: Path) -> None:
    """Make another folder the same server's."""
    directory.mkdir(parents=True)
    (directory / "owner").write_text((s3.directory / "owner").read_text())


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
