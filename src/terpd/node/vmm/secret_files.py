"""
How a monitor that starts learns the secrets of its disk: by small files in memory, shown to it in its jail.

A command line can be read by every user of the host, and a disk keeps what was written to it. So the secrets lie in a
tmpfs for the 30 ms of a start, each readable for the machine's uid alone, and are overwritten then: the file in the
jail is the same one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

_TMPFS = Path("/dev/shm")


class SecretFiles:
    """Of one instance of the daemon: `/dev/shm/terp-<instance>/<machine>/k<n>`."""

    def __init__(self, instance: str, *, tmpfs: Path = _TMPFS) -> None:
        self._directory = tmpfs / f"terp-{instance}"

    @contextlib.contextmanager
    def shown(self, machine: str, uid: int, secrets: Sequence[bytes]) -> Iterator[Sequence[Path]]:
        """
        Yield one file for each secret, which are emptied and removed when the block ends.

        Raises:
            OSError: There is no memory left, or somebody else has taken the place of the directory.
        """
        directory = self._directory / machine
        with contextlib.suppress(FileExistsError):
            _make(self._directory)
        if not self._is_ours():
            raise PermissionError(f"{self._directory} was made by somebody else; remove it")
        shutil.rmtree(directory, ignore_errors=True)
        _make(directory)
        paths = [directory / f"k{number}" for number in range(len(secrets))]
        try:
            for path, secret in zip(paths, secrets, strict=True):
                _write(path, secret, uid)
            yield paths
        finally:
            _remove(directory)
            self._leave()

    def sweep(self) -> None:
        """Remove what a dead daemon left. Idempotent."""
        if not self._is_ours():
            return
        for directory in self._directory.iterdir():
            _remove(directory)
        self._leave()

    def _leave(self) -> None:
        with contextlib.suppress(OSError):  # others are shown there
            self._directory.rmdir()

    def _is_ours(self) -> bool:
        """Anybody may put anything at its place in /dev/shm, and what lies in a directory of theirs is theirs too."""
        try:
            found = self._directory.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    directory.chmod(0o711)  # whatever the umask: monitors pass through to their own


def _write(path: Path, secret: bytes, uid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    try:
        os.write(fd, secret)
        if os.geteuid() == 0:
            os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


def _remove(directory: Path) -> None:
    for path in directory.glob("k*"):
        with contextlib.suppress(OSError):
            os.truncate(path, 0)  # a jail holds on to the file, not to what was in it
    shutil.rmtree(directory, ignore_errors=True)
