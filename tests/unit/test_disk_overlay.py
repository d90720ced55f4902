"""Overlays that QEMU itself opens with their secret and with no other, each with a key of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from terpd.daemon.node import VAULT
from terpd.node.disk import overlay
from terpd.node.vault import VaultFailed
from terpd.node.vmm.base import Layer

VIRTUAL_BYTES = 64 << 20


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with root.ext4, base.qcow2 and empty.qcow2. The root is 64 MiB of the letter r."""
    directory = tmp_path_factory.mktemp("template")
    (directory / overlay.ROOT_NAME).write_bytes(b"r" * VIRTUAL_BYTES)
    overlay.create_on_root(directory / overlay.BASE_NAME, VIRTUAL_BYTES)
    overlay.create_on_base(directory / "empty.qcow2", VIRTUAL_BYTES)
    return directory


async def make(template: Path, name: str, secret: bytes) -> Layer:
    path = template / name
    await overlay.create(VAULT, template / "empty.qcow2", path, secret=secret, uid=os.geteuid())
    return Layer(path, secret)


def qemu_io(layer: Layer, *commands: str) -> subprocess.CompletedProcess[str]:
    return qemu("qemu-io", layer, *(word for command in commands for word in ("-c", command)))


def qemu(program: str, layer: Layer, *arguments: str) -> subprocess.CompletedProcess[str]:
    secret = layer.path.with_suffix(".secret")
    secret.write_bytes(layer.passphrase)
    image = f"driver=qcow2,file.filename={layer.path},encrypt.format=luks,encrypt.key-secret=s0"
    options = ["--object", f"secret,id=s0,file={secret}", "--image-opts", image]
    command = [*program.split(), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_qemu_reads_and_writes_it(template: Path) -> None:
    """What was written is there for the next who opens it; what was not is the template's; neither lies there plain."""
    layer = await make(template, "a.qcow2", secrets.token_bytes(32))

    written = qemu_io(layer, "write -P 0x41 1M 2M")
    read = qemu_io(layer, "read -P 0x41 1M 2M", "read -P 0x72 0 1M", "read -P 0x72 3M 61M")

    assert (written.returncode, read.returncode) == (0, 0), written.stderr + read.stderr
    assert "failed" not in read.stdout
    assert b"A" * 64 not in layer.path.read_bytes()
    assert qemu("qemu-img check", layer).returncode == 0


async def test_no_other_secret_opens_it(template: Path) -> None:
    """Neither another overlay's nor what the empty one was created with, since the master key is another too."""
    secret = secrets.token_bytes(32)
    ours, other = await make(template, "b.qcow2", secret), await make(template, "c.qcow2", secrets.token_bytes(32))

    refused = qemu_io(Layer(ours.path, other.secret), "read 0 1M")

    assert refused.returncode != 0
    assert "Invalid password" in refused.stderr
    # The same secret twice: still not the same key, so one header cannot open the other's data.
    again = await make(template, "d.qcow2", secret)
    assert luks_header(again.path) != luks_header(ours.path)
    assert luks_header(ours.path) != luks_header(template / "empty.qcow2")


async def test_whose_it_is(template: Path) -> None:
    """Only its user may read it, and it takes little room."""
    layer = await make(template, "e.qcow2", secrets.token_bytes(32))
    found = layer.path.stat()

    assert found.st_mode & 0o777 == 0o600
    assert found.st_uid == os.geteuid()
    assert found.st_blocks * 512 < 512 << 10 < found.st_size


async def test_an_existing_file_is_left_alone(template: Path) -> None:
    layer = await make(template, "f.qcow2", secrets.token_bytes(32))
    before = layer.path.read_bytes()

    with pytest.raises(VaultFailed, match="exists"):
        await make(template, "f.qcow2", secrets.token_bytes(32))

    assert layer.path.read_bytes() == before


@pytest.mark.parametrize("damage", ["plain", "cut", "noise"])
async def test_what_is_no_empty_overlay(template: Path, tmp_path: Path, damage: str) -> None:
    """A file of another kind is refused, and leaves nothing."""
    empty = tmp_path / "empty.qcow2"
    if damage == "plain":
        shutil.copyfile(template / overlay.BASE_NAME, empty)
    else:
        content = (template / "empty.qcow2").read_bytes()
        empty.write_bytes(content[: 1 << 18] if damage == "cut" else secrets.token_bytes(1 << 18))

    with pytest.raises(VaultFailed, match="empty overlay"):
        await overlay.create(VAULT, empty, tmp_path / "new", secret=bytes(32), uid=os.geteuid())

    assert not (tmp_path / "new").exists()


def luks_header(path: Path) -> bytes:
    content = path.read_bytes()
    at = content.index(b"LUKS\xba\xbe")
    return content[at : at + 592]
