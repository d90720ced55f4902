# Generated from src/terp/_async/files.py by tools/sync.py: change that one.
"""The files of one sandbox."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from terp import pairs
from terp._sync.client import Terp
from terp.archive import Unpacker, pack
from terp.errors import FileNotFound, InvalidRequest, PartialWrite, TerpError, TooLarge
from terp.models import FileEvent, FileInfo, Presigned, Transfer
from terp.protocol import file_replies as replies
from terp.protocol import file_requests as requests
from terp.protocol.batches import plan_batches
from terp.protocol.events import EventParser

DEFAULT_MODE = 0o644
MAX_READ_BYTES = 256 * 1024 * 1024  # a guest can make a file look endless; `read_stream` has no limit
MAX_DIRECTORY_BYTES = 64 * 1024 * 1024 * 1024


class Files:
    """
    Files of a sandbox; paths are absolute. Writes are allowed below /workspace, /tmp and /persist.

    Every method may raise FileNotFound, NotPermitted, InvalidRequest, StateConflict (the sandbox does not run), and
    what any request may raise: ConnectionFailed, RequestTimeout, Unauthenticated.
    """

    def __init__(self, client: Terp, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    def write(self, path: str, content: str | bytes | IO[str] | IO[bytes], *, mode: int = DEFAULT_MODE) -> None:
        """
        Write *content* to *path*, whole or not at all; missing directories are made, an existing file is replaced.

        Args:
            content: Text goes out as UTF-8. A file object is read from where it stands, and streamed.
        """
        if isinstance(content, str | bytes | bytearray | memoryview):
            data = content.encode() if isinstance(content, str) else bytes(content)
            request = requests.write_content(self._sandbox_id, path, mode=mode, repeatable=True)
            self._client.call(request, data)
        else:
            request = requests.write_content(self._sandbox_id, path, mode=mode, repeatable=False)
            self._client.upload(request, pairs.read_file(content))

    def write_stream(self, path: str, chunks: pairs.Chunks, *, mode: int = DEFAULT_MODE) -> None:
        """As `write`, from an iterable of bytes. What *chunks* raises comes out, and nothing is written."""
        request = requests.write_content(self._sandbox_id, path, mode=mode, repeatable=False)
        self._client.upload(request, pairs.iterate(chunks))

    def write_many(self, files: Mapping[str, str | bytes], *, mode: int = DEFAULT_MODE) -> None:
        """
        Write many files in few requests.

        Args:
            files: Content by path.

        Raises:
            PartialWrite: Some could not be written; all others were.
        """
        data = {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}
        failed: dict[str, TerpError] = {}
        for batch in plan_batches(data):
            if len(batch) == 1:
                (path,) = batch
                try:
                    self.write(path, batch[path], mode=mode)
                except (FileNotFound, InvalidRequest, TooLarge) as error:  # about this file, not about the sandbox
                    failed[path] = error
            else:
                request = requests.write_batch(self._sandbox_id, batch, mode=mode)
                failed.update(replies.read_failures(self._client.call(request)))
        if failed:
            raise PartialWrite(failed)

    def read(self, path: str) -> str:
        """
        Return the file's text.

        Raises:
            InvalidRequest: It is not UTF-8; `read_bytes` takes anything.
            TooLarge: It has more than 256 MiB.
        """
        try:
            return self.read_bytes(path).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"It is not UTF-8, use read_bytes: {path}") from error

    def read_bytes(self, path: str) -> bytes:
        """
        Return the file's content.

        Raises:
            TooLarge: It has more than 256 MiB.
        """
        content = bytearray()
        with contextlib.closing(self.read_stream(path)) as chunks:
            for chunk in chunks:
                content += chunk
                if len(content) > MAX_READ_BYTES:
                    raise TooLarge(f"It has more than {MAX_READ_BYTES >> 20} MiB, use read_stream: {path}")
        return bytes(content)

    def read_stream(self, path: str) -> pairs.Stream[bytes]:
        """Yield the file's content as it comes, in chunks of no certain size."""
        with self._client.stream(requests.read_content(self._sandbox_id, path)) as chunks:
            for chunk in chunks:
                yield chunk

    def list(self, path: str) -> tuple[FileInfo, ...]:
        """
        Return what the directory holds, without going deeper.

        Raises:
            InvalidRequest: It is a file.
        """
        reply = self._client.call(requests.list_files(self._sandbox_id, path))
        return tuple(replies.read_directory(reply, path))

    def stat(self, path: str) -> FileInfo:
        """
        Raises:
            FileNotFound: There is nothing at *path*.
        """
        found = self._find(path)
        if found is None:
            raise FileNotFound(f"No such file or directory: {path}")
        return found

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def mkdir(self, path: str, *, parents: bool = True) -> None:
        """
        Make a directory.

        Args:
            parents: Make missing ones above too, and take an existing one for done.
        """
        self._client.call(requests.make_directory(self._sandbox_id, path, parents=parents))

    def move(self, source: str, destination: str) -> None:
        """Rename a file or directory."""
        self._client.call(requests.move_file(self._sandbox_id, source, destination))

    def remove(self, path: str) -> None:
        """Remove a file. For directories run `rm -r`."""
        self._client.call(requests.remove_file(self._sandbox_id, path))

    # ---- directories ----

    def download_dir(
        self, remote: str, local: str | os.PathLike[str], *, max_bytes: int = MAX_DIRECTORY_BYTES
    ) -> Transfer:
        """
        Copy what the directory *remote* holds into the local directory *local*, which is made if missing.

            sbx.files.download_dir("/workspace/out", "out")

        It is streamed; existing files of the same names are replaced. Nothing is written outside of *local*: links
        that lead out of it, devices, pipes and sockets are left out, and told in `skipped`.

        Args:
            max_bytes: Most that may come: a guest decides what its directory holds.

        Raises:
            TooLarge: More came. What was written until then stays, as with any other error.
            OSError: A local file could not be written.
        """
        unpacker = Unpacker(Path(local), max_bytes=max_bytes)
        try:
            with self._client.stream(requests.read_archive(self._sandbox_id, remote)) as chunks:
                for chunk in chunks:
                    pairs.in_thread(functools.partial(unpacker.feed, chunk))
            return pairs.in_thread(unpacker.finish)
        finally:
            unpacker.abandon()

    def upload_dir(self, local: str | os.PathLike[str], remote: str) -> Transfer:
        """
        Copy what the local directory *local* holds into the directory *remote*, which is made if missing.

            sbx.files.upload_dir("project", "/workspace/project")

        It is streamed; existing files of the same names are replaced. Links are copied as links, owners are not kept.

        Raises:
            OSError: *local* is no directory, or a file in it could not be read or changed its size meanwhile. What was
                written until then stays, as with any other error.
        """
        skipped: list[str] = []
        chunks = pairs.pull(pack(Path(local), skipped))
        self.mkdir(remote)
        reply = self._client.upload(requests.write_archive(self._sandbox_id, remote), chunks)
        files, size = replies.read_extracted(reply)
        return Transfer(files, size, tuple(skipped))

    def watch(self, path: str, *, recursive: bool = True) -> pairs.Stream[FileEvent]:
        """
        Yield what changes below the directory *path*, until the caller leaves or the directory is gone.

            with contextlib.closing(sbx.files.watch("/workspace")) as changes:
                for change in changes:
                    print(change.kind, change.path)

        The first event is `ready`: from then on nothing is missed. After `overflow` something was: list anew.

        Raises:
            FileNotFound: There is no such directory.
            LimitExceeded: It has more directories than can be watched.
            ConnectionFailed: Watch anew, and list anew: what changed in between is not told.
        """
        parser = EventParser()
        with self._client.stream(requests.watch(self._sandbox_id, path, recursive=recursive)) as chunks:
            for chunk in chunks:
                for payload in parser.feed(chunk):
                    for change in replies.read_change(payload):
                        yield change

    # ---- addresses ----

    def presign_download(self, path: str, *, expires_in: int = 600) -> Presigned:
        """
        Make an address from which anybody who has it can read the file with a plain GET, Range included.

        Args:
            expires_in: Seconds, 60 to 3600.
        """
        request = requests.presign(self._sandbox_id, path, direction="download", expires_in=expires_in)
        return replies.read_presigned(self._client.call(request))

    def presign_upload(self, path: str, *, expires_in: int = 600) -> Presigned:
        """
        Make an address to which anybody who has it can write the file with a plain PUT of its content.

        Args:
            expires_in: Seconds, 60 to 3600.
        """
        request = requests.presign(self._sandbox_id, path, direction="upload", expires_in=expires_in)
        return replies.read_presigned(self._client.call(request))

    def _find(self, path: str) -> FileInfo | None:
        return replies.read_stat(self._client.call(requests.stat_file(self._sandbox_id, path)), path)
