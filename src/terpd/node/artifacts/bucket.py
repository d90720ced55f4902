"""
Objects below one prefix of an S3-compatible bucket: whole ones, uploads in parts and downloads by range.

Only what every such storage has is used: Content-MD5 for what is sent, ETags of parts for what had arrived, ranges, and
one header of our own with the BLAKE3 digest. All methods block: call them in threads. They raise Unavailable when the
storage is away or refuses, StorageFull when it has no room.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError

from terpd.model.errors import StateDamaged, StorageFull, Unavailable
from terpd.node.artifacts.base import ArtifactInfo
from terpd.node.artifacts.files import faults

PART_BYTES = 16 << 20
_MAX_PARTS = 10_000  # of one object, in S3
_PARTS_AT_ONCE = 2
_CHUNK_BYTES = 1 << 20
_CONNECT_S = 5
_READ_S = 30
_ATTEMPTS = 3
_STALLS = 3  # downloads that broke off one after the other and brought nothing
_STALE = dt.timedelta(days=1)
_MISSING = {"NoSuchKey", "NotFound", "404"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}
_DIGEST = "blake3"  # x-amz-meta-blake3


class Bucket:
    """
    Credentials are those of the host, as AWS programs find them.

    Args:
        prefix: Before every name, e.g. `terp/`.
        endpoint: URL; AWS's own without.
    """

    def __init__(self, bucket: str, prefix: str, *, endpoint: str | None = None, region: str | None = None) -> None:
        self.url = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._prefix = prefix
        with _answers("be opened"):
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=endpoint,
                region_name=region,
                config=Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                    max_pool_connections=16,
                    # Other storages than AWS's often know neither the newer checksums nor a bucket as a host name.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path" if endpoint else "auto"},
                ),
            )

    def check(self) -> None:
        """Raises Unavailable when the bucket cannot be reached with these credentials."""
        with _answers("be reached"):
            self._client.head_bucket(Bucket=self._bucket)

    # ---- whole objects ---------------------------------------------------------------------------

    def has(self, info: ArtifactInfo) -> bool:
        """Whether it was uploaded whole. Nothing of it is read."""
        with _answers(f"look for {info.name}"):
            try:
                found = self._client.head_object(**self._object(info.name))
            except ClientError as error:
                if _code(error) in _MISSING:
                    return False
                raise
        return bool(found["ContentLength"] == info.size and found["Metadata"].get(_DIGEST) == info.digest)

    def put(self, name: str, content: bytes, *, digest: str | None = None) -> None:
        metadata = {_DIGEST: digest} if digest else {}
        with _answers(f"keep {name}"):
            self._client.put_object(
                **self._object(name), Body=content, ContentMD5=_content_md5(content), Metadata=metadata
            )

    def get(self, name: str, *, limit: int) -> bytes | None:
        """None when there is none. Raises StateDamaged for more than *limit* bytes."""
        with _answers(f"read {name}"):
            try:
                answer = self._client.get_object(**self._object(name))
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            with contextlib.closing(answer["Body"]) as body:
                if answer["ContentLength"] > limit:
                    raise StateDamaged(f"{name} is damaged: it has more than {limit} bytes")
                content: bytes = body.read()
        return content

    def delete(self, name: str) -> None:
        """Remove it, and what of it had been uploaded. Idempotent."""
        with _answers(f"remove {name}"):
            self._client.delete_object(**self._object(name))
            for upload in self._uploads(name):
                self._abort(upload)

    def names(self, prefix: str) -> Sequence[str]:
        with _answers("list what it has"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}"
            )
            return [each["Key"].removeprefix(self._prefix) for page in pages for each in page.get("Contents", [])]

    # ---- in parts --------------------------------------------------------------------------------

    def upload(self, info: ArtifactInfo, path: Path, stop: threading.Event) -> None:
        """
        Upload a file, or the parts of it that had not arrived, until *stop* is set. At most two parts are in memory.

        Raises:
            StateDamaged: The file is not of the size that it should have.
        """
        with faults(f"read {info.name}"), path.open("rb") as file:
            if info.size <= PART_BYTES:
                self.put(info.name, _read(file.fileno(), info, 0, info.size), digest=info.digest)
            else:
                with _answers(f"keep {info.name}"):
                    self._upload_parts(info, file.fileno(), stop)
        if not self.has(info):
            raise Unavailable(f"The object store did not keep {info.name} as it was sent; try again")

    def abort_stale(self) -> None:
        """Give up uploads that nobody has gone on with for a day: their parts cost money."""
        with _answers("list uploads"):
            before = dt.datetime.now(dt.UTC) - _STALE
            for upload in self._uploads(""):
                if upload["Initiated"] < before:
                    self._abort(upload)

    def _upload_parts(self, info: ArtifactInfo, file: int, stop: threading.Event) -> None:
        uploads = self._uploads(info.name)
        if uploads:
            upload_id = uploads[-1]["UploadId"]
        else:
            answer = self._client.create_multipart_upload(**self._object(info.name), Metadata={_DIGEST: info.digest})
            upload_id = answer["UploadId"]
        upload = {**self._object(info.name), "UploadId": upload_id}
        arrived = {
            part["PartNumber"]: (part["Size"], part["ETag"])
            for page in self._client.get_paginator("list_parts").paginate(**upload)
            for part in page.get("Parts", [])
        }
        part_bytes = max(PART_BYTES, -(-info.size // _MAX_PARTS))

        def send(number: int) -> dict[str, Any]:
            if stop.is_set():
                raise Unavailable(f"The upload of {info.name} was stopped")
            try:
                start = (number - 1) * part_bytes
                content = _read(file, info, start, min(part_bytes, info.size - start))
                etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
                if arrived.get(number) != (len(content), etag):
                    md5 = _content_md5(content)
                    etag = self._client.upload_part(**upload, PartNumber=number, Body=content, ContentMD5=md5)["ETag"]
            except BaseException:
                stop.set()  # the parts that wait need not begin
                raise
            return {"PartNumber": number, "ETag": etag}

        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            parts = list(pool.map(send, range(1, -(-info.size // part_bytes) + 1)))
        self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def _uploads(self, name: str) -> list[dict[str, Any]]:
        """Unfinished uploads of one name, or all with an empty one; the newest last."""
        key = f"{self._prefix}{name}"
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=key)
        found = [each for page in pages for each in page.get("Uploads", []) if not name or each["Key"] == key]
        return sorted(found, key=lambda each: each["Initiated"])

    def _abort(self, upload: dict[str, Any]) -> None:
        with contextlib.suppress(self._client.exceptions.NoSuchUpload):  # it was finished or given up meanwhile
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    # ---- by range --------------------------------------------------------------------------------

    def download(self, info: ArtifactInfo, part: Path, stop: threading.Event) -> None:
        """
        Append to *part* what it does not have yet, until *stop* is set. A connection that breaks is made anew.

        Raises:
            StateDamaged: The object is missing, or not of the size that it should have.
        """
        stalls = 0
        with faults(f"download {info.name}"), part.open("ab", buffering=0) as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # a download that was cancelled may still write, or another process
            out.seek(0, os.SEEK_END)
            if out.tell() > info.size:
                out.truncate(0)
                out.seek(0)
            had = out.tell()
            while had < info.size:
                broken: Unavailable | None = None
                try:
                    self._download_rest(info, out.fileno(), had, stop)
                except Unavailable as error:
                    broken = error
                has = os.fstat(out.fileno()).st_size
                stalls = 0 if has > had else stalls + 1
                if stop.is_set() or stalls == _STALLS:
                    raise broken or Unavailable(f"The object store sends nothing of {info.name}")
                had = has

    def _download_rest(self, info: ArtifactInfo, out: int, offset: int, stop: threading.Event) -> None:
        with _answers(f"download {info.name}"):
            try:
                answer = self._client.get_object(**self._object(info.name), Range=f"bytes={offset}-")
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise StateDamaged(f"{info.name} is missing") from error
                if _code(error) == "InvalidRange":
                    raise StateDamaged(f"{info.name} is damaged: it has fewer than {offset + 1} bytes") from error
                raise
            with contextlib.closing(answer["Body"]) as body:
                total = int(answer["ContentRange"].rpartition("/")[2])
                if total != info.size:
                    raise StateDamaged(f"{info.name} is damaged: it has {total} bytes and not {info.size}")
                for chunk in body.iter_chunks(_CHUNK_BYTES):
                    if stop.is_set():
                        raise Unavailable(f"The download of {info.name} was stopped")
                    with faults(f"download {info.name}"):
                        view = memoryview(chunk)
                        while view:
                            view = view[os.write(out, view) :]

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}


@contextlib.contextmanager
def _answers(act: str) -> Iterator[None]:
    """Say in our words why the storage did not do it."""
    try:
        yield
    except ClientError as error:
        context = {"act": act, "error": str(error)}
        if _code(error) in _FULL:
            raise StorageFull("The object store has no room; ask the operator", context=context) from error
        raise Unavailable(f"The object store cannot {act}: {_code(error)}", context=context) from error
    except (BotoCoreError, HTTPError) as error:
        context = {"act": act, "error": str(error)}
        raise Unavailable(f"The object store cannot {act}: {type(error).__name__}", context=context) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "?"))


def _content_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _read(file: int, info: ArtifactInfo, offset: int, count: int) -> bytes:
    content = os.pread(file, count, offset)
    if len(content) != count:
        raise StateDamaged(f"{info.name} is damaged: it is shorter than {info.size} bytes")
    return content
