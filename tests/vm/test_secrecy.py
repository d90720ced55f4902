"""Nothing a sandbox has in memory, in its environment or on its disk is readable in the server's files."""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path

import pytest
from support.resident import Resident
from support.server import Server
from terp import Sandbox

pytestmark = pytest.mark.vm

HOLDING = """
import sys
held = bytes.fromhex(sys.argv[2]) if sys.argv[2:] else b""

def answer(question):
    global held
    held = bytes.fromhex(question) * 64
    return len(held)
"""


def holding(directory: Path, *needles: bytes) -> list[str]:
    """Files below *directory* that have any of these bytes in them."""
    found = []
    for path in directory.rglob("*"):
        if path.is_symlink() or not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            at = 0
            while True:  # from data to data: images are mostly holes
                try:
                    begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                if any(content.find(needle, begin, at) >= 0 for needle in needles):
                    found.append(str(path))
                    break
    return found


def test_nothing_is_readable_in_the_data_directory(server: Server) -> None:
    """Not while it runs, is paused, resumed, kept and forked, nor when it has ended; and its end is proven."""
    memory, env, disk = (secrets.token_bytes(16), secrets.token_hex(16), secrets.token_hex(16))
    needles = (memory, env.encode(), disk.encode())

    def check(when: str) -> None:
        assert holding(server.data_dir, *needles) == [], when
        assert holding(server.log.parent, *needles) == [], when

    with server.create("python-3.12-bare", env={"SECRET": env}) as sandbox:
        resident = Resident.start(sandbox, "holding", HOLDING)
        resident.ask(memory.hex())
        sandbox.files.write("/workspace/secret", f"{disk}\n" * 1000)
        sandbox.exec("sync; echo 3 > /proc/sys/vm/drop_caches").check()
        assert sandbox.exec("grep -c . /workspace/secret; echo $SECRET").stdout == f"1000\n{env}\n"
        check("running")
        sandbox.pause()
        check("paused")
        sandbox.resume()
        check("resumed")
        snapshot = sandbox.snapshot("kept")
        check("kept")
        (child,) = sandbox.fork()
        with child:
            assert child.exec("echo $SECRET").stdout == f"{env}\n"
            check("forked")
        with Sandbox.create(snapshot=snapshot, client=server.client) as other:
            assert other.exec("head -1 /workspace/secret").stdout == f"{disk}\n"
            check("started from what was kept")
        snapshot.delete()
    check("ended")

    assert [receipt.subject for receipt in sandbox.deletion_receipts()] == [sandbox.id]
    assert [receipt.subject for receipt in child.deletion_receipts()] == [child.id]
    assert [receipt.subject for receipt in server.client.deletion_receipts(subject=snapshot.id)] == [snapshot.id]


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """The search itself is sound: behind a hole, and at the end of a file."""
    (tmp_path / "deep").mkdir()
    with (tmp_path / "deep" / "image").open("wb") as file:
        file.seek(1 << 24)
        file.write(b"needle")
    (tmp_path / "other").write_bytes(b"other")
    assert holding(tmp_path, b"needle", b"none") == [str(tmp_path / "deep" / "image")]
