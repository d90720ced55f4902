"""
What is built on this host.

    templates/<name>/<digest>/{root.ext4, image.json}      templates/<name>/current → <digest>
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terpd.node.template import artifact
from terpd.node.template.kernel import Kernel, find_kernel

FORMAT = 1  # of image.json
_LOCK = "image"


@dataclass(frozen=True, slots=True)
class Image:
    """
    A template's root file system, ready to boot.

    `digest` names the contents of `root`, a read-only ext4 image of `disk_bytes` of which `size_bytes` are on disk.
    `kernel` is the one whose modules it holds. `warm` are shell commands to run once before a snapshot, `services` by
    name those of programs that run in it. `package_hosts` are what its own package clients fetch from. `inputs` names
    what it was made of.
    """

    template: str
    description: str
    digest: str
    inputs: str
    root: Path
    kernel: Kernel
    warm: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    package_hosts: tuple[str, ...]
    size_bytes: int
    disk_bytes: int
    built_at: dt.datetime
    services: Mapping[str, str] = field(default_factory=dict)


class Catalog:
    """The images under one TERP_HOME. Reads the disk at each call: builders are other processes."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._templates = home / "templates"

    def find(self, template: str) -> Image | None:
        """The current build, or None: not built, or damaged, or its kernel is gone."""
        return self.read(self._templates / template / "current")

    def list(self) -> Sequence[Image]:
        """Current builds by name."""
        found = (self.find(path.parent.name) for path in sorted(self._templates.glob("*/current")))
        return [image for image in found if image is not None]

    def needed_by(self, template: str) -> Sequence[str]:
        """The instances of servers that have pinned a build of this template or a snapshot of one."""
        places = [*self._templates.glob(f"{template}/*"), *(self._home / "snapshots").glob(f"{template}/*")]
        return sorted({owner for place in places for owner in artifact.pinned(place)})

    def remove(self, template: str, *, force: bool = False) -> None:
        """
        Remove all builds of a template that are not pinned, or nothing if there is none. *force*: the pinned ones too.

        Sandboxes whose disks are backed by one lose it: the caller sees to it that there are none.
        """
        directory = self._templates / template
        if not directory.is_dir():
            return
        with artifact.locked(directory, _LOCK):
            (directory / "current").unlink(missing_ok=True)  # first: nothing may start from what is half removed
            artifact.sync_directory(directory)
            for build in self._builds(directory):
                artifact.discard(build, _LOCK, force=force)

    def prune(self, template: str, in_use: Collection[str]) -> Sequence[str]:
        """Remove builds that are neither current, pinned nor in *in_use* (digests); returns the digests removed."""
        directory = self._templates / template
        if not directory.is_dir():
            return []
        with artifact.locked(directory, _LOCK):
            current = (directory / "current").resolve().name
            old = [build for build in self._builds(directory) if build.name not in {current, *in_use}]
            return [build.name for build in old if artifact.discard(build, _LOCK)]

    def build(self, template: str, digest: str) -> Image | None:
        """One build, current or not; None as for `find`."""
        return self.read(self._templates / template / digest)

    def read(self, directory: Path) -> Image | None:
        """Return the build in *directory*, or None when it is not whole."""
        directory = directory.resolve()
        record = artifact.read_json(directory / "image.json")
        root = directory / "root.ext4"
        if record is None or record.get("format") != FORMAT or not root.is_file():
            return None
        kernel = find_kernel(self._home, str(record["kernel"]))
        return None if kernel is None else _image(record, root, kernel)

    @staticmethod
    def _builds(directory: Path) -> Sequence[Path]:
        return [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]


def record_of(image: Image) -> dict[str, Any]:
    """What image.json says."""
    return {
        "format": FORMAT,
        "template": image.template,
        "description": image.description,
        "digest": image.digest,
        "inputs": image.inputs,
        "kernel": image.kernel.digest,
        "kernel_version": image.kernel.version,
        "warm": list(image.warm),
        "services": dict(image.services),
        "env": dict(image.env),
        "package_hosts": list(image.package_hosts),
        "size_bytes": image.size_bytes,
        "disk_bytes": image.disk_bytes,
        "built_at": image.built_at.isoformat(),
    }


def _image(record: Mapping[str, Any], root: Path, kernel: Kernel) -> Image:
    return Image(
        template=record["template"],
        description=record["description"],
        digest=record["digest"],
        inputs=record["inputs"],
        root=root,
        kernel=kernel,
        warm=tuple(record["warm"]),
        services=record.get("services", {}),
        env=record["env"],
        package_hosts=tuple(record["package_hosts"]),
        size_bytes=record["size_bytes"],
        disk_bytes=record["disk_bytes"],
        built_at=dt.datetime.fromisoformat(record["built_at"]),
    )
