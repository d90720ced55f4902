"""A snapshot is used only when everything it was made of is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from terpd.node.snapshot.manifest import NAME, Manifest, SnapshotMismatch, memory_digest, sha256

MADE_OF = {"image": "a1", "qemu": "q1", "cpu": "EPYC"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "memory").write_bytes(bytes(4096))
    (tmp_path / "devices").write_bytes(b"state")
    Manifest(
        made_of=MADE_OF,
        sizes={"memory": 4096, "devices": 5},
        devices_sha256=sha256(tmp_path / "devices"),
        memory_digest=memory_digest(tmp_path / "memory"),
        virtual_disk_bytes=1 << 30,
    ).write(tmp_path)
    return tmp_path


def test_what_was_written_is_read_and_fits(saved: Path) -> None:
    """The round trip keeps every field."""
    manifest = Manifest.read(saved)

    manifest.check(saved, MADE_OF)
    assert manifest.virtual_disk_bytes == 1 << 30
    assert manifest.memory_digest == blake3(bytes(4096)).hexdigest()


@pytest.mark.parametrize("name", sorted(MADE_OF))
def test_a_difference_is_refused_and_named(saved: Path, name: str) -> None:
    """QEMU would load it "successfully" into a dead guest."""
    with pytest.raises(SnapshotMismatch, match=name):
        Manifest.read(saved).check(saved, {**MADE_OF, name: "other"})


def test_an_ingredient_that_the_snapshot_does_not_know_is_refused(saved: Path) -> None:
    """A newer daemon may depend on more than an older one recorded."""
    with pytest.raises(SnapshotMismatch, match="tsc"):
        Manifest.read(saved).check(saved, {**MADE_OF, "tsc": "1"})


def test_a_short_file_is_refused(saved: Path) -> None:
    """A full disk must not become a guest with missing memory."""
    (saved / "memory").write_bytes(bytes(100))

    with pytest.raises(SnapshotMismatch, match="memory"):
        Manifest.read(saved).check(saved, MADE_OF)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 2}'])
def test_a_torn_or_foreign_manifest_is_refused(saved: Path, text: str) -> None:
    """Whatever stands there, the answer is a refusal and never another exception."""
    (saved / NAME).write_text(text)

    with pytest.raises(SnapshotMismatch):
        Manifest.read(saved)


def test_no_manifest_means_no_snapshot(tmp_path: Path) -> None:
    """The manifest is written last: a directory without one was never finished."""
    with pytest.raises(SnapshotMismatch):
        Manifest.read(tmp_path)
