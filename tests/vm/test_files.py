"""Files in a real guest: large ones, and paths that try to lead elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
from collections.abc import Callable, Iterator

import pytest
from support.wait import eventually
from terp import FileNotFound, InvalidRequest, NotPermitted, Sandbox, TerpError

pytestmark = pytest.mark.vm

_LARGE_BYTES = 64 << 20


def test_large_file_round_trip(shared: Sandbox) -> None:
    """64 MiB are streamed in and out unchanged, past the cap of the one-shot calls."""
    content = random.Random(1).randbytes(_LARGE_BYTES)
    digest = hashlib.sha256(content).hexdigest()

    shared.files.write("/workspace/large.bin", io.BytesIO(content))

    assert shared.exec("sha256sum large.bin", timeout=120).stdout.split()[0] == digest
    received = hashlib.sha256()
    for chunk in shared.files.read_stream("/workspace/large.bin"):
        received.update(chunk)
    assert received.hexdigest() == digest
    shared.files.remove("/workspace/large.bin")


def test_dots_do_not_lead_out(shared: Sandbox) -> None:
    """`..` in a path is resolved before it is judged."""
    for path in ("/workspace/../etc/evil", "/tmp/a/../../etc/evil", "/workspace/./../../etc/evil", "//etc/evil"):
        with pytest.raises(NotPermitted):
            shared.files.write(path, "x")
    assert not shared.files.exists("/etc/evil")

    shared.files.write("/workspace/../tmp/fine", "x")
    assert shared.files.read("/tmp/fine") == "x"


@pytest.mark.parametrize("target", ["/etc", "../etc", "/proc/1/root/etc", "/workspace/loop-b"])
def test_symlinked_directories_do_not_lead_out(shared: Sandbox, target: str) -> None:
    """A symlink in a path does not widen what may be written, made, moved or removed."""
    shared.exec(f"ln -sfn {target} /workspace/loop-a; ln -sfn /etc /workspace/loop-b").check()
    shared.files.write("/tmp/mine", "x")
    before = shared.exec("ls -la /etc | cksum").stdout

    attempts: tuple[Callable[[], object], ...] = (
        lambda: shared.files.write("/workspace/loop-a/evil", "x"),
        lambda: shared.files.mkdir("/workspace/loop-a/evil"),
        lambda: shared.files.move("/tmp/mine", "/workspace/loop-a/evil"),
        lambda: shared.files.move("/workspace/loop-a/hostname", "/tmp/hostname"),
        lambda: shared.files.remove("/workspace/loop-a/hostname"),
    )
    for attempt in attempts:
        with pytest.raises(InvalidRequest):
            attempt()

    assert shared.exec("ls -la /etc | cksum").stdout == before


def test_a_link_swapped_meanwhile_does_not_lead_out(shared: Sandbox) -> None:
    """A guest program that swaps a directory for a symlink as fast as it can never gets a write through to /etc."""
    swap = "while [ ! -e /tmp/stop ]; do rm -rf race; mkdir race; rm -rf race; ln -s /etc race; done"
    shared.exec(f"rm -f /tmp/stop; setsid sh -c '{swap}' > /dev/null 2>&1 &").check()

    for n in range(40):
        with contextlib.suppress(InvalidRequest, FileNotFound):
            shared.files.write(f"/workspace/race/evil-{n}", "x")

    shared.exec("touch /tmp/stop").check()
    assert shared.exec("ls /etc | grep -c evil").stdout == "0\n"


def test_special_files_are_refused(shared: Sandbox) -> None:
    """A pipe, a device or a directory is not read as a file, and the call does not hang."""
    shared.exec("mkfifo /tmp/pipe").check()
    for path in ("/tmp/pipe", "/dev/zero", "/dev/console", "/tmp"):
        with pytest.raises(InvalidRequest):
            shared.files.read(path)


def test_file_that_grows_while_it_is_read(shared: Sandbox) -> None:
    """Reading a file that a program appends to without end comes to an end."""
    shared.exec(
        "setsid sh -c 'while [ ! -e /tmp/enough ]; do echo xxxxxxxxxxxxxxxx >> /tmp/grows; done' > /dev/null 2>&1 &"
    )
    eventually(lambda: shared.files.exists("/tmp/grows"))

    for _ in range(3):
        assert set(shared.files.read("/tmp/grows")) <= {"x", "\n"}

    shared.exec("touch /tmp/enough").check()


def test_a_failed_upload_leaves_the_old_file(shared: Sandbox) -> None:
    """A write that breaks off in the middle changes nothing: the file appears whole or not at all."""
    shared.files.write("/workspace/kept", "old")

    def torn() -> Iterator[bytes]:
        yield b"new" * 100_000
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shared.files.write_stream("/workspace/kept", torn())

    assert shared.files.read("/workspace/kept") == "old"
    eventually(lambda: shared.exec("ls -A | grep -c kept").stdout == "1\n")


def test_no_space_is_said(shared: Sandbox) -> None:
    """On a full disk a write is refused with a clear error; when there is room again it works."""
    shared.exec("fallocate -l $(df --output=avail -B1 . | tail -1) filler; dd if=/dev/zero of=rest bs=64k")

    with pytest.raises(TerpError) as caught:
        shared.files.write("/workspace/more", b"x" * (1 << 20))

    assert caught.value.status is not None
    assert caught.value.status < 500
    assert shared.exec("echo alive").stdout == "alive\n"
    shared.exec("rm /workspace/filler /workspace/rest").check()
    shared.files.write("/workspace/more", b"x" * (1 << 20))


def test_missing_files(shared: Sandbox) -> None:
    """What is not there is FileNotFound for every call that needs it."""
    for attempt in (
        lambda: shared.files.read("/workspace/absent"),
        lambda: shared.files.list("/workspace/absent"),
        lambda: shared.files.remove("/workspace/absent"),
        lambda: shared.files.move("/workspace/absent", "/workspace/there"),
    ):
        with pytest.raises(FileNotFound):
            attempt()
