"""Artifact stores to test: in a folder, or in a bucket of a real S3 server on loopback, behind a proxy that can cut."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from blake3 import blake3

from support.cut_proxy import CutProxy
from terpd.model.ids import new_layer_id, new_state_id
from terpd.node.artifacts.base import ArtifactInfo, ArtifactStore
from terpd.node.artifacts.bucket import Bucket
from terpd.node.artifacts.files import FilesStore
from terpd.node.artifacts.s3 import S3Store

_names = itertools.count()


def layer_name() -> str:
    return f"layers/{new_layer_id()}.qcow2"


def memory_name() -> str:
    return f"states/{new_state_id()}/memory"


def written(directory: Path, size: int, *, name: str | None = None) -> tuple[ArtifactInfo, Path]:
    """A file of random content beside the store, and what it is to be kept as."""
    content = os.urandom(size)
    path = directory / f"source-{next(_names)}"
    path.write_bytes(content)
    return ArtifactInfo(name or layer_name(), size, blake3(content).hexdigest()), path


@dataclass
class FilesShop:
    """Opens the same folder as often as a server is restarted."""

    directory: Path

    def store(self, *, reserve_bytes: int = 0) -> FilesStore:
        return FilesStore(self.directory, reserve_bytes=reserve_bytes)

    def damage(self, name: str, content: bytes | None) -> None:
        """Put other content in its place; None removes it."""
        path = self.directory / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)


@dataclass
class S3Shop:
    """The same for a bucket; without its local copies, which would hide what was done to it."""

    server: str
    proxy: CutProxy
    directory: Path
    bucket: str
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = boto3.client("s3", endpoint_url=self.server, region_name="us-east-1")
        self.client.create_bucket(Bucket=self.bucket)

    def store(self, *, reserve_bytes: int = 0, cache_bytes: int = 1 << 30, directory: Path | None = None) -> S3Store:
        bucket = Bucket(self.bucket, "terp/", endpoint=self.proxy.url, region="us-east-1")
        local = FilesStore(directory or self.directory, reserve_bytes=reserve_bytes)
        return S3Store(bucket, local, cache_bytes=cache_bytes)

    def damage(self, name: str, content: bytes | None) -> None:
        if content is None:
            self.client.delete_object(Bucket=self.bucket, Key=f"terp/{name}")
        else:
            self.client.put_object(Bucket=self.bucket, Key=f"terp/{name}", Body=content)
        self.forget(name)

    def forget(self, name: str) -> None:
        """Remove the local copy."""
        (self.directory / name).unlink(missing_ok=True)

    def content(self, name: str) -> bytes:
        """Of the object, as the server has it."""
        answer = self.client.get_object(Bucket=self.bucket, Key=f"terp/{name}")["Body"].read()
        assert isinstance(answer, bytes)
        return answer


Shop = FilesShop | S3Shop
Store = ArtifactStore
