"""Taking the uncompressed kernel out of a bzImage, and finding kernels that are whole."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from terpd.node.template import artifact
from terpd.node.template.command import BuildFailed
from terpd.node.template.kernel import find_kernel, unpack_vmlinux

ELF = b"\x7fELF" + b"kernel text " * 1000


def bz_image(payload: bytes, *, offset: int = 96, length: int | None = None) -> bytes:
    """A bzImage with one setup sector, after Documentation/arch/x86/boot.rst."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, offset, len(payload) if length is None else length)
    return bytes(head) + bytes(offset) + payload + b"what follows the payload"


def packed(data: bytes, *, size: int | None = None) -> bytes:
    zstd = subprocess.run(["zstd", "--stdout", "--quiet"], input=data, capture_output=True, check=True).stdout
    return zstd + struct.pack("<I", len(data) if size is None else size)


def test_the_payload_is_unpacked() -> None:
    """What the header points to comes out as the ELF kernel, whatever stands around it."""
    assert unpack_vmlinux(bz_image(packed(ELF))) == ELF


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(4096), id="no header"),
        pytest.param(bz_image(packed(ELF), length=10**6), id="cut short"),
        pytest.param(bz_image(b"\x1f\x8b" + bytes(64)), id="gzip"),
        pytest.param(bz_image(packed(ELF)[:-40] + packed(ELF)[-4:]), id="damaged"),
        pytest.param(bz_image(packed(ELF, size=5)), id="another size than said"),
        pytest.param(bz_image(packed(b"no ELF")), id="no kernel"),
    ],
)
def test_anything_else_is_refused(image: bytes) -> None:
    """An image that is damaged or packed in another way is an error and never half a kernel."""
    with pytest.raises(BuildFailed):
        unpack_vmlinux(image)


def test_only_whole_kernels_are_found(tmp_path: Path) -> None:
    """A kernel is found by its digest and as the current one, and no longer when a part of it is gone."""
    directory = tmp_path / "kernel/0123"
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(ELF)
    artifact.write_json(directory / "kernel.json", {"format": 1, "version": "6.12.1-cloud"})
    artifact.point(tmp_path / "kernel/current", "0123")

    found = find_kernel(tmp_path, "current")
    (directory / "kernel.json").write_text("{ cut")
    damaged = find_kernel(tmp_path, "0123")

    assert found is not None
    assert (found.digest, found.version, found.vmlinux) == ("0123", "6.12.1-cloud", directory.resolve() / "vmlinux")
    assert damaged is None
    assert find_kernel(tmp_path / "elsewhere", "current") is None
