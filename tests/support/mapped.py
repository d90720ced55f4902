"""A process that maps a file privately and writes to it when told: the memory of a machine without a machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terpd.node.jail.process import Process

PAGE = 4096

_PROGRAM = """
import mmap, os, sys
_, base, kind = sys.argv
fd = os.open(base, os.O_RDWR if kind == "shared" else os.O_RDONLY)
flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
memory = mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
os.close(fd)
print("mapped", flush=True)
for line in sys.stdin:
    act, path, *at = line.split()
    if act == "write":
        with open(path, "rb") as file:
            content = file.read()
        memory[int(at[0]) : int(at[0]) + len(content)] = content
    else:
        with open(path, "wb") as file:
            file.write(memory)
    print("done", flush=True)
"""


class Mapped:
    """Made by `mapped`. All methods block."""

    def __init__(self, popen: subprocess.Popen[str], scratch: Path) -> None:
        self.process = Process.of(popen.pid)
        self._popen = popen
        self._scratch = scratch
        self._expect("mapped")

    def write(self, page: int, content: bytes) -> None:
        self._scratch.write_bytes(content)
        self._tell(f"write {self._scratch} {page * PAGE}")

    def read(self) -> bytes:
        self._tell(f"read {self._scratch}")
        return self._scratch.read_bytes()

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def _tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()
        self._expect("done")

    def _expect(self, word: str) -> None:
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == word + "\n"


@contextmanager
def mapped(base: Path, *, kind: str = "private") -> Iterator[Mapped]:
    """*kind*: private, or shared."""
    command = [sys.executable, "-c", _PROGRAM, str(base), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as popen:
        try:
            yield Mapped(popen, base.with_name(f"scratch-{popen.pid}"))
        finally:
            popen.kill()
