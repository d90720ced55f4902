"""
Directories as tar streams: made of a local one, and unpacked into one.

An archive comes from a guest and is trusted in nothing. Python's own `data` filter decides what may be made; symbolic
links are made last, so that nothing is ever written through one; devices and what leads out are left out.
"""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

from terp.errors import BadReply, NotOffered, TooLarge
from terp.models import Transfer

CHUNK_BYTES = 256 * 1024
MAX_HEADER_BYTES = 1024 * 1024  # of a long name or of extended attributes, which tarfile reads into memory
MAX_LINKS = 100_000
MAX_SKIPPED = 1000
MAX_WAITING = 8  # chunks between the network and the disk
POLL_S = 0.1

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def pack(root: Path, skipped: list[str]) -> Iterator[bytes]:
    """
    Yield a tar stream of what *root* holds. What is no file, directory or link goes to *skipped* by its name.

    Raises:
        OSError: *root* is no directory, or something in it cannot be read or changes its size meanwhile.
    """
    for path, name in _walk(root):
        found = path.lstat()
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
        if stat.S_ISDIR(found.st_mode):
            member.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(found.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)  # noqa: PTH115 - the text as it is
        elif stat.S_ISREG(found.st_mode):
            yield from _pack_file(path, member)
            continue
        else:
            if len(skipped) < MAX_SKIPPED:
                skipped.append(name)
            continue
        yield _header(member)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """Directories before what they hold, without following links."""
    waiting = [root]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                yield path, path.relative_to(root).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _pack_file(path: Path, member: tarfile.TarInfo) -> Iterator[bytes]:
    with path.open("rb") as file:
        member.size = left = os.fstat(file.fileno()).st_size
        yield _header(member)
        while left:
            data = file.read(min(left, CHUNK_BYTES))
            if not data:
                raise OSError(f"It has become shorter while it was read: {path}")
            left -= len(data)
            yield data
    yield bytes(-member.size % tarfile.BLOCKSIZE)


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class Unpacker:
    """
    Unpacks in a thread of its own what it is fed: `tarfile` wants to read, and what comes off the network is pushed.

    `feed` all chunks, then `finish`; and `abandon` in any case.

    Raises:
        NotOffered: This Python has no safe way of unpacking.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        if not hasattr(tarfile, "data_filter"):
            raise NotOffered("This Python cannot unpack safely: it needs 3.10.12, 3.11.4, or newer")
        self._root = root
        self._room = max_bytes
        self._max_bytes = max_bytes
        self._chunks: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._rest = b""
        self._abandoned = False
        self._failure: Exception | None = None
        self._links: list[tarfile.TarInfo] = []
        self._skipped: list[str] = []
        self._files = self._size = 0
        self._thread = threading.Thread(target=self._run, name="terp-unpack", daemon=True)
        self._thread.start()

    def feed(self, chunk: bytes) -> None:
        """
        Raises:
            TooLarge: It is more than `max_bytes` in all.
            BadReply: It is no tar stream.
            OSError: What came until now could not be written.
        """
        self._room -= len(chunk)
        if self._room < 0:
            raise TooLarge(f"The directory is larger than max_bytes={self._max_bytes}; what came first was written")
        if chunk:
            self._put(chunk)

    def finish(self) -> Transfer:
        """Wait until all is written. Raises what `feed` does."""
        self._put(b"")
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return Transfer(self._files, self._size, tuple(self._skipped))

    def abandon(self) -> None:
        """Let the thread end, wherever it is. After `finish` it has."""
        self._abandoned = True

    def read(self, size: int) -> bytes:
        """What `tarfile` reads from; in the thread."""
        while not self._rest:
            if self._abandoned:
                raise _AbandonedError
            with contextlib.suppress(queue.Empty):
                self._rest = self._chunks.get(timeout=POLL_S)
                if not self._rest:
                    return b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _put(self, chunk: bytes) -> None:
        while self._failure is None:
            with contextlib.suppress(queue.Full):
                self._chunks.put(chunk, timeout=POLL_S)
                return
        raise self._failure

    def _run(self) -> None:
        try:
            with tarfile.open(fileobj=self, mode="r|", tarinfo=_Member, errorlevel=1) as archive:  # type: ignore[call-overload]  # `read` is all it needs
                self._root.mkdir(parents=True, exist_ok=True)
                while (member := archive.next()) is not None:
                    archive.members.clear()  # it would keep all of them
                    self._unpack(archive, member)
                for link in self._links:
                    if self._is_below_link(link):
                        self._skip(link)
                    else:
                        self._extract(archive, link)
            while self.read(CHUNK_BYTES):
                pass  # padding
        except _AbandonedError:
            pass
        except tarfile.TarError as error:
            self._failure = BadReply(f"What came is no tar stream as agreed: {error}")
        except Exception as error:  # noqa: BLE001 - for `feed` and `finish` to raise
            self._failure = error

    def _unpack(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.issym() and len(self._links) < MAX_LINKS:
            self._links.append(member)
        elif member.isdir() or member.islnk() or (member.isreg() and not member.issparse()):
            self._extract(archive, member)
        else:
            self._skip(member)

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.name in ("", "."):
            return
        try:
            if not member.isdir():  # a file or link of that name is replaced, not written through
                target = self._root / tarfile.data_filter(member, str(self._root)).name
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    target.unlink()
            archive.extract(member, self._root, set_attrs=not member.issym(), filter="data")
        except (tarfile.FilterError, FileExistsError, IsADirectoryError, NotADirectoryError):
            self._skip(member)
        else:
            self._files += 1
            self._size += member.size if member.isreg() else 0

    def _is_below_link(self, member: tarfile.TarInfo) -> bool:
        parents = Path(member.name.lstrip("/")).parents
        return any((self._root / parent).is_symlink() for parent in parents if parent != Path())

    def _skip(self, member: tarfile.TarInfo) -> None:
        if len(self._skipped) < MAX_SKIPPED:
            self._skipped.append(member.name)


class _Member(tarfile.TarInfo):
    """A header that tells of further headers of any length is refused before these are read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or attribute of {member.size} bytes")
        return member


class _AbandonedError(Exception):
    """Nobody waits for the rest."""
