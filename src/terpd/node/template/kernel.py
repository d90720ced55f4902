"""
The kernel that machines boot: Debian's cloud kernel, taken out of its package, unpacked.

    kernel/<digest>/{vmlinux, modules/<version>/…, kernel.json}      kernel/current → <digest>

`vmlinux` is the uncompressed kernel with its PVH entry: under emulation that saves 1.5 s of decompression at each boot.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terpd.node.template import artifact
from terpd.node.template.command import BuildFailed, run
from terpd.node.template.progress import Progress, megabytes, step

_FORMAT = 1  # of kernel.json and of what lies beside it
_META_PACKAGE = "linux-image-cloud-amd64"
# The series that the machine model was measured with: its virtio, ext4 and vmgenid are built in as initrd.py expects.
_SERIES = "6.12."
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ELF_MAGIC = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel. `version` is what `uname -r` says in the guest."""

    digest: str
    version: str
    directory: Path

    @property
    def vmlinux(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def modules(self) -> Path:
        """What belongs to /lib/modules/<version> in the guest."""
        return self.directory / "modules" / self.version


def ensure_kernel(home: Path, progress: Progress, *, refresh: bool = False) -> Kernel:
    """
    Return the kernel in use, fetching it first when there is none.

    Args:
        home: TERP_HOME.
        refresh: Ask apt for a newer one and switch to it. Templates built before keep the kernel they were built with.

    Raises:
        BuildFailed: apt has no kernel of the series, or what it delivered is not whole.
    """
    parent = home / "kernel"
    with artifact.locked(parent, "kernel"):
        current = find_kernel(home, "current")
        if current is not None and not refresh:
            return current
        with step(progress, "fetch kernel") as fetching:
            package, version, sha256 = _choose_package()
            digest = artifact.digest_of({"format": _FORMAT, "package": sha256})
            kernel = find_kernel(home, digest)
            if kernel is None:
                with artifact.building(parent, "kernel") as temporary:
                    _unpack(temporary, package, version, sha256)
                    artifact.commit(temporary, parent / digest)
                kernel = find_kernel(home, digest)
            if kernel is None:
                raise BuildFailed(f"The kernel in {parent / digest} cannot be read back")
            artifact.point(parent / "current", digest)
            fetching.note = f"{kernel.version}, {megabytes(artifact.allocated_bytes(kernel.directory))}"
        return kernel


def find_kernel(home: Path, digest: str) -> Kernel | None:
    """Return the kernel of that digest ("current": the one in use), or None when it is not there or not whole."""
    directory = (home / "kernel" / digest).resolve()
    record = artifact.read_json(directory / "kernel.json")
    if record is None or record.get("format") != _FORMAT or not (directory / "vmlinux").is_file():
        return None
    return Kernel(directory.name, str(record["version"]), directory)


def _choose_package() -> tuple[str, str, str]:
    """Name, version and SHA-256 of the newest kernel package of the series that apt knows."""
    versions = [
        fields[1].strip()
        for line in run(["apt-cache", "madison", _META_PACKAGE], timeout_s=60).decode().splitlines()
        if len(fields := line.split("|")) == 3
    ]
    wanted = [version for version in versions if version.startswith(_SERIES)]
    if not wanted:
        raise BuildFailed(
            f"apt offers no {_META_PACKAGE} {_SERIES}x (it offers: {', '.join(versions) or 'none'}); "
            "Debian 13 has it, and so have the backports of Debian 12, which `make setup` adds"
        )
    meta = _control_fields(f"{_META_PACKAGE}={wanted[0]}")
    found = re.search(r"(linux-image-[a-z0-9.+-]+-cloud-amd64) \(= ([^)]+)\)", meta.get("Depends", ""))
    if found is None:
        raise BuildFailed(f"{_META_PACKAGE} {wanted[0]} names no kernel image package: {meta.get('Depends')}")
    package, version = found.groups()
    return package, version, _control_fields(f"{package}={version}")["SHA256"]


def _control_fields(package: str) -> Mapping[str, str]:
    text = run(["apt-cache", "show", package], timeout_s=60).decode()
    return dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", text, re.MULTILINE))


def _unpack(directory: Path, package: str, version: str, sha256: str) -> None:
    """Fill *directory* with the kernel out of the package, whose SHA-256 comes from apt's signed index."""
    run(["apt-get", "--quiet", "--quiet", "download", f"{package}={version}"], timeout_s=900, cwd=directory)
    archive = next(directory.glob("*.deb"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
        raise BuildFailed(f"{package} {version}: the package does not have the digest of apt's index: {sha256}")
    tree = directory / "package"
    run(["dpkg", "-x", archive, tree], timeout_s=300)
    image = next((tree / "boot").glob("vmlinuz-*"))
    release = image.name.removeprefix("vmlinuz-")
    vmlinux = unpack_vmlinux(image.read_bytes())
    (directory / "vmlinux").write_bytes(vmlinux)
    modules = next(
        path for path in (tree / "lib/modules" / release, tree / "usr/lib/modules" / release) if path.is_dir()
    )
    (directory / "modules").mkdir()
    modules.rename(directory / "modules" / release)
    artifact.remove(tree)
    archive.unlink()
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "version": release,
        "package": package,
        "package_version": version,
        "package_sha256": sha256,
        "vmlinux_sha256": hashlib.sha256(vmlinux).hexdigest(),
    }
    artifact.write_json(directory / "kernel.json", record)


def unpack_vmlinux(image: bytes) -> bytes:
    """
    Return the ELF kernel that a zstd-compressed bzImage carries.

    Source: Linux, Documentation/arch/x86/boot.rst: payload_offset (0x248) and payload_length (0x24c) locate the
    payload from the start of the protected-mode code; its last four bytes are the unpacked size.

    Raises:
        BuildFailed: The image is damaged or is packed in another way.
    """
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        raise BuildFailed("The kernel image is no bzImage")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) != length or not payload.startswith(_ZSTD_MAGIC):
        raise BuildFailed("The kernel image is cut short or is not compressed with zstd")
    (size,) = struct.unpack("<I", payload[-4:])
    vmlinux = run(["zstd", "--decompress", "--stdout", "--quiet"], timeout_s=120, stdin=payload[:-4])
    if len(vmlinux) != size or not vmlinux.startswith(_ELF_MAGIC):
        raise BuildFailed(f"The kernel unpacks to {len(vmlinux)} bytes where its header says {size}")
    return vmlinux
