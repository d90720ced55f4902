"""
Building a directory so that it is either whole or not there.

One builder at a time holds the lock of an artifact; it works in a sibling `.tmp-NAME~…`, which is flushed to disk
and renamed when whole. The lock dies with its process, so the next builder may remove whatever `.tmp-NAME~…` it finds.

Who cannot do without an artifact pins it: a file `.pins/<owner>` in it, which `discard` respects.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terpd.node.template.command import run

_PINS = ".pins"
DIGEST_LENGTH = 16  # hexadecimal digits in a directory's name: 64 bits, ample among a handful of builds


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the name of the artifact that is made from *value*, which must be plain JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


@contextmanager
def locked(parent: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """
    Hold the lock of artifact *name* in *parent*, waiting for whoever builds it now; clear away crashed builds.

    Raises:
        BlockingIOError: Somebody builds it now, and we are not to *wait*.
    """
    parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(parent / f".{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        for remains in parent.glob(f".tmp-{glob.escape(name)}~*"):
            remove(remains)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def building(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty directory beside the artifact, to be given to `commit`; it is removed if that did not happen."""
    temporary = parent / f".tmp-{name}~{secrets.token_hex(4)}"
    temporary.mkdir(mode=0o755)
    try:
        yield temporary
    finally:
        remove(temporary)


def commit(temporary: Path, final: Path) -> None:
    """Make *temporary* appear as *final* with all its content on disk; an older *final* is replaced."""
    run(["sync", "--file-system", temporary], timeout_s=600)
    if final.exists():
        aside = temporary.with_name(f"{temporary.name}-old")  # a crash here leaves a .tmp- and no final: built again
        final.rename(aside)
        temporary.rename(final)
        remove(aside)
    else:
        temporary.rename(final)
    sync_directory(final.parent)


def point(link: Path, target: str) -> None:
    """Make the relative symlink *link* name *target*, in one step."""
    fresh = link.with_name(f".tmp-{link.name}~{secrets.token_hex(4)}")
    fresh.symlink_to(target)
    fresh.replace(link)
    sync_directory(link.parent)


def remove(path: Path) -> None:
    """
    Remove a tree, or nothing.

    Never crosses into another file system: should a mount have survived in a half-built root, it is not emptied.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        run(["rm", "-rf", "--one-file-system", "--", path], timeout_s=600)


def pin(directory: Path, owner: str) -> None:
    """
    Keep an artifact until *owner* unpins it, over restarts of the host. Idempotent; *owner* becomes a file's name.

    Raises:
        FileNotFoundError: The artifact is gone.
    """
    with _held(directory):
        pins = directory / _PINS
        pins.mkdir(exist_ok=True)
        (pins / owner).touch()
        sync_directory(pins)
        sync_directory(directory)


def unpin(directory: Path, owner: str) -> None:
    """Idempotent, also when the artifact is gone."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _PINS / owner).unlink()
        sync_directory(directory / _PINS)


def pinned(directory: Path) -> Sequence[str]:
    """Who needs an artifact; nobody needs one that is gone."""
    try:
        return sorted(path.name for path in (directory / _PINS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def discard(directory: Path, name: str, *, force: bool = False) -> bool:
    """
    Remove an artifact that nobody has pinned, or one that somebody has by *force*. Its lock, *name*, is held.

    Returns whether it is gone.
    """
    try:
        with _held(directory):
            if not force and pinned(directory):
                return False
            # From here nobody can pin it, and whatever becomes of us, the lock's next holder removes it.
            doomed = directory.with_name(f".tmp-{name}~{secrets.token_hex(4)}")
            directory.rename(doomed)
    except FileNotFoundError:
        return True
    remove(doomed)
    return True


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Neither pinned nor discarded by anybody else meanwhile. Raises FileNotFoundError when it is gone."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(descriptor), directory.stat()):
            raise FileNotFoundError(f"{directory} was replaced meanwhile")
        yield
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in *path*; None when it is absent or damaged, which both mean: build again."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allocated_bytes(path: Path) -> int:
    """What a file, or all files below a directory, take on disk."""
    if not path.is_dir():
        return path.stat().st_blocks * 512
    return sum(entry.lstat().st_blocks * 512 for entry in path.rglob("*"))


def copy_tree(source: Path, destination: Path) -> None:
    """Copy a root file system with owners, modes, links and attributes; *destination* must not exist."""
    shutil.rmtree(destination, ignore_errors=True)
    run(["cp", "--archive", "--reflink=auto", source, destination], timeout_s=900)
