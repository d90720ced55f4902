"""
What a server has on this host, seen from outside: by /proc, /sys and its files, not by asking it.

A monitor is known by its argument vector and by its mounts, which name its data directory even when the files are gone.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from terpd.daemon.node import instance_name


@dataclass(frozen=True)
class Monitor:
    """A process that runs, or starts to run, a machine."""

    pid: int
    command: str

    @property
    def machine_id(self) -> str:
        """Of the `-name terp-INSTANCE-MACHINE` argument; empty in a process that is not QEMU yet."""
        words = self.command.split(" ")
        names = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "-name"]
        return names[0].rpartition("-")[2] if names else ""

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)


@dataclass(frozen=True)
class Host:
    """The host as far as the server with this data directory is concerned."""

    data_dir: Path

    @property
    def machines_dir(self) -> Path:
        return self.data_dir / "machines"

    def monitors(self) -> list[Monitor]:
        return [Monitor(pid, command) for pid, command in _processes() if self._ours(pid, command)]

    def machines(self) -> list[str]:
        """Names of what is under machines/."""
        return sorted(path.name for path in self.machines_dir.iterdir()) if self.machines_dir.exists() else []

    def owners(self) -> dict[str, str]:
        """Sandbox id → machine id, as the machines' records say."""
        records = [json.loads(path.read_text()) for path in self.machines_dir.glob("*/record.json")]
        return {record["sandbox_id"]: record["machine_id"] for record in records if record["sandbox_id"]}

    def monitor_of(self, sandbox_id: str) -> Monitor:
        machine_id = self.owners()[sandbox_id]
        return next(monitor for monitor in self.monitors() if monitor.machine_id == machine_id)

    def mounts(self) -> list[str]:
        """Mounts of this host's own namespace that show or hold anything of the data directory."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.data_dir) in line]

    def temporaries(self) -> list[str]:
        """Half-written files anywhere in the data directory, the database's own journal apart."""
        return [str(path) for path in self.data_dir.rglob(".*") if path.is_file()]

    def check_database(self) -> None:
        """Raise AssertionError if any database file is torn."""
        for path in self.data_dir.glob("*.db"):
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                assert database.execute("pragma integrity_check").fetchall() == [("ok",)], path
                assert database.execute("pragma foreign_key_check").fetchall() == [], path

    def remains(self) -> list[str]:
        """All that must be gone when the server has stopped and nothing was to survive it."""
        return [
            *(f"process {monitor.pid}: {monitor.command[:200]}" for monitor in self.monitors()),
            *(f"machine {name}" for name in self.machines()),
            *(f"cgroup {path}" for path in (*self.cgroups(), *self._cgroup_roots())),
            *(f"mount {line}" for line in self.mounts()),
        ]

    def cgroups(self) -> list[Path]:
        """Control groups of this server's machines, one in each hierarchy."""
        return [path for path in self._cgroup_roots() for path in path.iterdir() if path.is_dir()]

    def _cgroup_roots(self) -> list[Path]:
        """Control groups that hold those of the machines, at the top of each hierarchy (v2, or v1 one level down)."""
        top = Path("/sys/fs/cgroup")
        name = f"terp-{self.instance}"
        return [path for path in (top / name, *top.glob(f"*/{name}")) if path.is_dir()]

    @property
    def instance(self) -> str:
        """The name the server gives itself on this host."""
        return instance_name(self.data_dir)

    def _ours(self, pid: int, command: str) -> bool:
        if f"terp-{self.instance}-" in command:
            return True
        try:
            return str(self.data_dir) in Path(f"/proc/{pid}/mountinfo").read_text() and not self._shared(pid)
        except OSError:  # it has ended
            return False

    @staticmethod
    def _shared(pid: int) -> bool:
        """Whether the process lives in this test's own mount namespace: then its mounts say nothing of it."""
        return Path(f"/proc/{pid}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()


def _processes() -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has ended
                continue
            found.append((int(entry.name), b" ".join(words).decode(errors="replace").strip()))
    return found
