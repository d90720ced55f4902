"""
The prepared root: QEMU, its libraries and firmware, copied once into a directory that every jail shows read-only.

    vmm/<digest>/{usr/bin/qemu-system-x86_64, lib…, usr/share/qemu/…, etc/ld.so.cache, m/}
    vmm/current.json       what it was copied from: path, size and time of each file → digest

An upgrade of QEMU on the host makes a new root; machines that run keep theirs. `m/` is where the launcher shows a
machine's own files.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from terpd.node.template import artifact

QEMU = Path("/usr/bin/qemu-system-x86_64")

_FORMAT = 1  # of current.json and of the directory
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_DATA = Path("/usr/share/qemu")
# What `-M microvm -bios qboot.rom` loads: the firmware, and the option roms that start a PVH kernel, start a bzImage
# and help a KVM guest with its interrupt controller.
_FIRMWARE = ("qboot.rom", "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin")
_FIRMWARE_NEEDED = ("qboot.rom", "pvh.bin")
# Some builds have the emulator itself as a module; Debian 12's backport has it built in.
_MODULES = ("accel-tcg-x86_64.so",)
_MODULE_DIRECTORIES = (Path("/usr/lib/x86_64-linux-gnu/qemu"), Path("/usr/lib/qemu"))
_TIMEOUT_S = 60


class RootFailed(Exception):
    """QEMU is not there or is not whole. For the operator: the text says what to install."""


@dataclass(frozen=True, slots=True)
class JailRoot:
    """`digest` is of all that is in it, 16 hex digits; `qemu_version` is e.g. `10.0.2`."""

    path: Path
    digest: str
    qemu_version: str


def prepare_root(home: Path, qemu: Path = QEMU) -> JailRoot:
    """
    Return the prepared root for the QEMU that is installed now, made first if need be.

    About 0.2 s the first time, 0.5 ms later. If the process dies midway, the next preparation starts anew.

    Raises:
        RootFailed: QEMU or a part of it is missing.
    """
    parent = home / "vmm"
    record = parent / "current.json"
    return _recorded(record, qemu) or _prepare(parent, record, qemu)


def _recorded(record: Path, qemu: Path) -> JailRoot | None:
    """What was prepared before, if nothing changed since."""
    found = artifact.read_json(record)
    if found is None or found.get("format") != _FORMAT or found.get("qemu") != str(qemu):
        return None
    try:
        if any(_stamp(Path(path)) != stamp for path, stamp in found["sources"].items()):
            return None
        root = JailRoot(record.parent / found["digest"], found["digest"], found["qemu_version"])
    except (OSError, KeyError):
        return None
    return root if root.path.is_dir() else None


def _prepare(parent: Path, record: Path, qemu: Path) -> JailRoot:
    sources = _sources(qemu)
    stamps = {str(path): _stamp(path) for path in sources}  # before the copies: an upgrade meanwhile is seen next time
    version = _version(qemu)
    with artifact.locked(parent, "root"):
        with artifact.building(parent, "root") as temporary:
            digest = _fill(temporary, sources)
            final = parent / digest
            if not final.is_dir():
                artifact.commit(temporary, final)
        content = {"format": _FORMAT, "qemu": str(qemu), "sources": stamps, "digest": digest, "qemu_version": version}
        replacement = parent / f".{record.name}"
        artifact.write_json(replacement, content)
        replacement.replace(record)
    return JailRoot(final, digest, version)


def _fill(root: Path, sources: Sequence[Path]) -> str:
    """Copy *sources* into *root* under their own paths and return the digest of all."""
    digest = hashlib.sha256(b"%d" % _FORMAT)
    for source in sorted(sources):
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        executable = os.access(source, os.X_OK)
        target.chmod(0o555 if executable else 0o444)
        with target.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{source}\0{executable}\0{content}\n".encode())
    (root / "m").mkdir()
    if any(source.name.startswith("ld-linux") for source in sources):
        # Without its cache the loader tries several directories for each of fifty libraries.
        (root / "etc").mkdir(exist_ok=True)
        directories = sorted({str(source.parent) for source in sources if ".so" in source.name})
        (root / "etc/ld.so.conf").write_text("".join(f"{directory}\n" for directory in directories))
        _run(["/sbin/ldconfig", "-X", "-r", str(root)])
        shutil.rmtree(root / "var", ignore_errors=True)  # ldconfig's own notes
    # Another uid reads this, whatever the umask was: only what is secret is hidden, and nothing here is.
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else path.stat().st_mode & 0o555 | 0o444)
    return digest.hexdigest()[: artifact.DIGEST_LENGTH]


def _sources(qemu: Path) -> list[Path]:
    """QEMU, the loader, the libraries, the modules and the firmware that it needs."""
    if not qemu.is_file():
        raise RootFailed(f"QEMU is not installed; install qemu-system-x86 (Debian 12: from backports): {qemu}")
    modules = [path for each in _MODULE_DIRECTORIES for name in _MODULES if (path := each / name).is_file()]
    firmware = [path for name in _FIRMWARE if (path := _DATA / name).is_file()]
    missing = set(_FIRMWARE_NEEDED) - {path.name for path in firmware}
    if missing:
        raise RootFailed(f"QEMU's firmware is not installed; install qemu-system-data: {', '.join(sorted(missing))}")
    libraries = {library for program in (qemu, *modules) for library in _libraries(program)}
    return [qemu, *modules, *firmware, *sorted(libraries)]


def _libraries(program: Path) -> list[Path]:
    """
    What the loader would load for *program*, the loader included; nothing for a static one.

    The loader's own `--list` maps the files and runs no code of theirs.
    """
    with program.open("rb") as file:
        if b"ld-linux" not in file.read(4096):  # PT_INTERP stands in the first page
            return []
    listed = _run([str(_LOADER), "--list", str(program)])
    if missing := re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE):
        raise RootFailed(f"Libraries of {program} are missing; reinstall its package: {', '.join(missing)}")
    return [_LOADER, *(Path(path) for path in re.findall(r"=> (/\S+) \(0x", listed))]


def _version(qemu: Path) -> str:
    found = re.search(r"version (\d+\.\d+\.\d+)", _run([str(qemu), "--version"]))
    if found is None:
        raise RootFailed(f"{qemu} does not say its version; is it QEMU?")
    return found.group(1)


def _run(command: list[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise RootFailed(f"{command[0]} ended with {error.returncode}: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RootFailed(f"{command[0]}: {error}") from error
    return ended.stdout.decode(errors="replace")


def _stamp(path: Path) -> list[int]:
    """Size and time of a file, links followed: what an upgrade of its package changes."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]
