"""Memory that one process changed appears in another, byte by byte, or not at all: with the real terp-vault."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import blake3
import pytest
from support.mapped import PAGE, Mapped, mapped

from terpd.daemon.node import VAULT
from terpd.model.errors import StateDamaged, StorageFull
from terpd.node.snapshot.memory import MemoryCapture, MemoryFailed, MemoryImage, MemoryLoad

KEY = bytes(range(32))
CONTEXT = "state/snap_1/memory"
PAGES = 4096
MIB = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """16 MiB: random, text and a hole."""
    path = tmp_path / "base"
    random_part = random.Random(1).randbytes(1024 * PAGE)
    with path.open("wb") as file:
        file.write(random_part)
        file.write(b"the quick brown fox jumps over it" * (1024 * PAGE // 33))
        file.truncate(PAGES * PAGE)
    return path


@pytest.fixture
def source(base: Path) -> Iterator[Mapped]:
    with mapped(base) as process:
        yield process


def dirty(process: Mapped, base: Path) -> int:
    """Change memory in all the ways there are; returns how many pages differ from the base then."""
    rng = random.Random(2)
    process.write(3, rng.randbytes(700 * PAGE))  # over random data: more than two chunks
    process.write(900, b"\1" * PAGE)
    process.write(950, bytes(20 * PAGE))  # zeros over data
    process.write(2000, bytes(PAGE // 2))  # half a page of zeros
    process.write(3000, bytes(300 * PAGE))  # zeros over zeros: no difference
    process.write(3500, b"x" * (10 * PAGE))
    for page in range(1100, 1900, 2):  # every other page
        process.write(page, rng.randbytes(PAGE // 4))
    process.write(PAGES - 1, b"the last page")
    untouched = content(base)[5 * PAGE : 6 * PAGE]
    process.write(5, untouched)  # written to, and as it was
    return 699 + 1 + 20 + 1 + 10 + 400 + 1


async def capture(
    process: Mapped, base: Path, target: Path, *, buffer_bytes: int = 64 * MIB, vault: Path = VAULT
) -> MemoryImage:
    async with capturing(process, base, target, buffer_bytes=buffer_bytes, vault=vault) as running:
        await running.copy()
        return await running.finish()


def capturing(
    process: Mapped, base: Path, target: Path, *, buffer_bytes: int = 64 * MIB, vault: Path = VAULT
) -> AbstractAsyncContextManager[MemoryCapture]:
    return MemoryCapture.open(
        vault,
        process=process.process,
        base=base,
        target=target,
        key=KEY,
        context=CONTEXT,
        buffer_bytes=buffer_bytes,
    )


async def restore(process: Mapped, base: Path, image: Path, *, key: bytes = KEY, context: str = CONTEXT) -> None:
    async with MemoryLoad.open(VAULT, source=image, base=base, key=key, context=context) as load:
        await load.inject(process.process)


@pytest.mark.parametrize("buffer_bytes", [64 * MIB, 0], ids=["copied first", "encoded as it is read"])
async def test_memory_comes_back(base: Path, source: Mapped, tmp_path: Path, buffer_bytes: int) -> None:
    """Another process has the same memory afterwards, the base is as it was, and what is said of the file is so."""
    original = content(base)
    pages = dirty(source, base)

    image = await capture(source, base, tmp_path / "image", buffer_bytes=buffer_bytes)

    assert image.dirty_bytes == pages * PAGE
    stored = (tmp_path / "image").read_bytes()
    assert (image.size, image.digest) == (len(stored), blake3.blake3(stored).hexdigest())
    assert len(stored) < 5 * MIB  # zeros and repetitions cost next to nothing
    with mapped(base) as other:
        await restore(other, base, tmp_path / "image")
        assert other.read() == source.read()
    assert content(base) == original


async def test_nothing_changed(base: Path, source: Mapped, tmp_path: Path) -> None:
    """An image without pages is one too."""
    image = await capture(source, base, tmp_path / "image")

    assert image.dirty_bytes == 0
    assert image.size < 200
    with mapped(base) as other:
        await restore(other, base, tmp_path / "image")
        assert other.read() == content(base)


async def test_every_generation_is_whole(base: Path, source: Mapped, tmp_path: Path) -> None:
    """What is saved of a restored process is all that differs from the base, so no image needs another one."""
    dirty(source, base)
    await capture(source, base, tmp_path / "first")
    with mapped(base) as second:
        await restore(second, base, tmp_path / "first")
        second.write(40, b"changed again")
        await capture(second, base, tmp_path / "second")
        with mapped(base) as third:
            await restore(third, base, tmp_path / "second")
            assert third.read() == second.read()


async def test_what_changes_after_the_copy_is_not_in_it(base: Path, source: Mapped, tmp_path: Path) -> None:
    """The process may run on from there, while the image is written."""
    dirty(source, base)
    before = source.read()
    async with capturing(source, base, tmp_path / "image") as running:
        source.write(10, b"between ready and copy")
        source.write(10, before[10 * PAGE : 11 * PAGE])
        await running.copy()
        source.write(3, bytes(700 * PAGE))
        await running.finish()
    with mapped(base) as other:
        await restore(other, base, tmp_path / "image")
        assert other.read() == before


async def test_no_plain_text_in_the_file(base: Path, source: Mapped, tmp_path: Path) -> None:
    """Neither compressible nor other pages can be found in it, and equal memory never makes equal files."""
    source.write(0, b"topsecret" * 1000)
    await capture(source, base, tmp_path / "first")
    await capture(source, base, tmp_path / "second")

    first, second = (tmp_path / "first").read_bytes(), (tmp_path / "second").read_bytes()
    assert b"topsecret" not in first
    assert first[60:] != second[60:]


async def test_damage_is_found(base: Path, source: Mapped, tmp_path: Path) -> None:
    """A bit anywhere, a missing end, chunks in another order or from another file: never a restored process."""
    dirty(source, base)
    image, other = tmp_path / "image", tmp_path / "other"
    await capture(source, base, image)
    await capture(source, base, other)
    sound, foreign = image.read_bytes(), other.read_bytes()
    chunks, foreign_chunks = split(sound), split(foreign)
    assert len(chunks) > 4
    bad = {
        "empty": b"",
        "header only": sound[:56],
        "cut in a chunk": sound[:-1],
        "cut between chunks": b"".join(chunks[:-1]),
        "only the end": chunks[0] + chunks[-1],
        "no end but the first": b"".join(chunks[:2]),
        "swapped": b"".join([chunks[0], chunks[2], chunks[1], *chunks[3:]]),
        "twice": b"".join([*chunks[:2], chunks[1], *chunks[2:]]),
        "chunk of another file": b"".join([*chunks[:2], foreign_chunks[2], *chunks[3:]]),
        "header of another file": b"".join([foreign_chunks[0], *chunks[1:]]),
        "longer": sound + b"\0",
        "two files": sound + foreign,
    } | {f"bit at {at}": flipped(sound, at) for at in [0, 9, 20, 30, 56, 59, 60, 5000, len(sound) // 2, len(sound) - 1]}

    restored = []
    for name, changed in bad.items():
        image.write_bytes(changed)
        with mapped(base) as process, contextlib.suppress(StateDamaged):
            await restore(process, base, image)
            restored.append(name)
    assert not restored


@pytest.mark.parametrize("change", [{"key": bytes(32)}, {"context": "state/snap_2/memory"}])
async def test_another_key_or_context(
    base: Path, source: Mapped, tmp_path: Path, change: dict[str, bytes | str]
) -> None:
    """It opens with its own only, and says so before there is a machine."""
    await capture(source, base, tmp_path / "image")

    arguments = {"source": tmp_path / "image", "base": base, "key": KEY, "context": CONTEXT} | change
    with pytest.raises(StateDamaged):
        await MemoryLoad.open(VAULT, **arguments).__aenter__()  # type: ignore[arg-type]


async def test_a_base_of_another_size(base: Path, source: Mapped, tmp_path: Path) -> None:
    await capture(source, base, tmp_path / "image")
    larger = tmp_path / "larger"
    shutil.copyfile(base, larger)
    os.truncate(larger, (PAGES + 1) * PAGE)

    with mapped(larger) as process, pytest.raises(MemoryFailed, match="of a base"):
        await restore(process, larger, tmp_path / "image")


async def test_a_process_that_maps_another_base(base: Path, source: Mapped, tmp_path: Path) -> None:
    """Equal content is not enough: only the very file is what the process is known to map."""
    await capture(source, base, tmp_path / "image")
    shutil.copyfile(base, tmp_path / "copy")

    with mapped(tmp_path / "copy") as process, pytest.raises(MemoryFailed, match="does not map"):
        await restore(process, base, tmp_path / "image")


async def test_a_base_mapped_for_writing_is_left_alone(base: Path, source: Mapped, tmp_path: Path) -> None:
    """Writing to such a process would change what all machines start from."""
    dirty(source, base)
    await capture(source, base, tmp_path / "image")
    original = content(base)

    with mapped(base, kind="shared") as process, pytest.raises(MemoryFailed, match="writes through"):
        await restore(process, base, tmp_path / "image")
    assert content(base) == original


async def test_a_process_that_ends(base: Path, source: Mapped, tmp_path: Path) -> None:
    """Before or during a capture, or before a restore: no image, no success."""
    stranger = replace(source.process, started=source.process.started - 1)
    async with capturing(source, base, tmp_path / "image", buffer_bytes=0) as running:
        await running.copy()
        await running.finish()
    async with capturing(source, base, tmp_path / "second", buffer_bytes=0) as running:
        source.end()
        with pytest.raises(MemoryFailed):
            await running.copy()
    with pytest.raises(MemoryFailed):
        await capture(source, base, tmp_path / "third")
    with pytest.raises(MemoryFailed):
        await restore(source, base, tmp_path / "image")
    async with MemoryLoad.open(VAULT, source=tmp_path / "image", base=base, key=KEY, context=CONTEXT) as load:
        with pytest.raises(MemoryFailed):
            await load.inject(stranger)


def test_a_full_disk(base: Path, source: Mapped) -> None:
    """The vault tells it apart from other failures."""
    dirty(source, base)
    with Path("/dev/full").open("wb") as full:
        said = run_save(source, base, full, KEY + b"copy\n")

    assert b'"code":"disk_full"' in said.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("said", "raised", "match"),
    [
        ('{"event":"error","code":"disk_full","detail":"x"}', StorageFull, "no room"),
        ('{"event":"error","code":"damaged","detail":"x"}', StateDamaged, "not what was saved"),
        ('{"event":"error","code":"gone","detail":"why"}', MemoryFailed, "why"),
        ('{"event":"copied"}', MemoryFailed, "said copied and not ready"),
        ("", MemoryFailed, "ended without a word: exit code or signal 3"),
    ],
)
async def test_what_it_says_is_understood(
    base: Path, source: Mapped, tmp_path: Path, said: str, raised: type[Exception], match: str
) -> None:
    """Each fault is raised as what callers act on; a vault that ends or talks out of turn is a failure."""
    vault = tmp_path / "vault"
    vault.write_text(f"#!/bin/sh\nprintf '%s' '{said}{chr(10) if said else ''}'\nexit 3\n")
    vault.chmod(0o755)

    with pytest.raises(raised, match=match):
        await capture(source, base, tmp_path / "image", vault=vault)


async def test_leaving_kills_it(base: Path, source: Mapped, tmp_path: Path) -> None:
    """A caller that changes its mind, or is cancelled, leaves no process behind."""
    dirty(source, base)
    before = children()
    async with capturing(source, base, tmp_path / "image", buffer_bytes=0):
        assert len(children() - before) == 1
    assert children() == before


async def test_its_death_is_a_failure(base: Path, source: Mapped, tmp_path: Path) -> None:
    """Killed for want of memory, say: whoever waits is told."""
    before = children()
    async with capturing(source, base, tmp_path / "image", buffer_bytes=0) as running:
        (pid,) = children() - before
        os.kill(pid, 9)
        with pytest.raises(MemoryFailed, match="ended without a word"):
            await running.copy()


def test_a_caller_that_dies(base: Path, source: Mapped, tmp_path: Path) -> None:
    """It ends by itself when nobody is left to tell it to begin, and has touched nothing."""
    with (tmp_path / "image").open("wb") as out:
        done = run_save(source, base, out, KEY)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        b'{"event":"ready"}',
        b'{"event":"error","code":"failed","detail":"the caller has gone"}',
    ]
    assert (tmp_path / "image").stat().st_size == 0


def run_save(process: Mapped, base: Path, out: BinaryIO, said: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run the vault by hand and say all of it at once."""
    with base.open("rb") as file:
        fds = [file.fileno(), out.fileno()]
        arguments = ["save", "--pid", str(process.process.pid), "--base", str(fds[0]), "--out", str(fds[1])]
        arguments += ["--context", "x", "--buffer-mib", "0"]
        return subprocess.run([VAULT, *arguments], input=said, capture_output=True, pass_fds=fds, check=False)


def split(image: bytes) -> list[bytes]:
    """Header and chunks, as vault/src/image.rs describes them."""
    parts, at = [image[:56]], 56
    while at < len(image):
        length = 4 + (int.from_bytes(image[at : at + 4], "little") & 0x7FFF_FFFF)
        parts.append(image[at : at + length])
        at += length
    return parts


def flipped(image: bytes, at: int) -> bytes:
    return image[:at] + bytes([image[at] ^ 1]) + image[at + 1 :]


def content(path: Path) -> bytes:
    return path.read_bytes()


def children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in path.read_text().split()}
