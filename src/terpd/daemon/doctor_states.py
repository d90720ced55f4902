"""The doctor's checks of what pauses, snapshots and forks need: the vault, memory for secrets, keys, room, S3."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
from pathlib import Path

from terpd.daemon.check import GIB, Check, Level
from terpd.daemon.config import Config, ConfigError
from terpd.daemon.node import VAULT, bucket_of
from terpd.daemon.server_keys import VARIABLE
from terpd.model.errors import Unavailable
from terpd.sealing.keyring import BadKey, KeyRing

_TYPICAL_BYTES = 200 * 10**6  # one paused sandbox that has worked a while
_FEW = 10
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), linux/fs.h; Linux 6.7
_CAP_SYS_PTRACE = 19
_VAULT_TIMEOUT_S = 10
_SECRETS = Path("/dev/shm")


async def examine_states(config: Config) -> list[Check]:
    checks = [
        check_vault(await asyncio.to_thread(_vault_says)),
        check_tmpfs(_file_system(_SECRETS, _mounts())),
        check_capture(scans=_scans_pagemap(), traces=_has_capability(_CAP_SYS_PTRACE)),
        _examine_key(config),
        check_room(config.data_dir, free_bytes(config.data_dir), config.disk_reserve_mib << 20),
    ]
    if config.s3_bucket is not None:
        checks.append(await asyncio.to_thread(_examine_bucket, config))
    return checks


# ---- verdicts ------------------------------------------------------------------------------------


def check_vault(trouble: str | None) -> Check:
    """*trouble* is why it does not run."""
    if trouble is not None:
        return Check("vault", Level.FAIL, trouble, "No machine can start without it; run `make setup`")
    return Check("vault", Level.OK, "terp-vault runs")


def check_tmpfs(file_system: str | None) -> Check:
    if file_system is None:
        return Check("secrets", Level.FAIL, f"no {_SECRETS}", f"Mount a tmpfs there: mount -t tmpfs tmpfs {_SECRETS}")
    if file_system != "tmpfs":
        advice = f"Secrets of disks would pass over a disk; mount a tmpfs there: mount -t tmpfs tmpfs {_SECRETS}"
        return Check("secrets", Level.WARN, f"{_SECRETS} is {file_system}", advice)
    return Check("secrets", Level.OK, f"{_SECRETS} is in memory")


def check_capture(*, scans: bool, traces: bool) -> Check:
    """Whether the kernel lists changed pages, and whether this process may read other processes' memory."""
    lacks = []
    if not scans:
        lacks.append("the kernel has no PAGEMAP_SCAN: upgrade it to Linux 6.7 or newer")
    if not traces:
        lacks.append("CAP_SYS_PTRACE is missing: run the server as root, or in a container with this capability")
    if lacks:
        found = "sandboxes cannot be paused, saved or forked"
        return Check("saving memory", Level.WARN, found, "; ".join(lacks).capitalize())
    return Check("saving memory", Level.OK, "changed pages can be found and read")


def check_key(place: str, mode: int | None, trouble: str | None) -> Check:
    """*mode* of the key's file, None where there is none; *trouble* is why its content is no key."""
    if trouble is not None:
        advice = "No server starts with it; restore it from its backup: a new one opens no saved state"
        return Check("server key", Level.FAIL, f"{place}: {trouble}", advice)
    if mode is None:
        return Check("server key", Level.OK, place)
    if mode & 0o077:
        advice = f"Others of this host can read what opens all saved states: chmod 600 {place}"
        return Check("server key", Level.WARN, f"{place}, mode {mode:04o}", advice)
    return Check("server key", Level.OK, f"{place}; is it backed up?")


def check_room(place: Path, free: int, reserve: int) -> Check:
    room = max(0, free - reserve) // _TYPICAL_BYTES
    found = f"{free / GIB:.1f} GiB free for {place}: room for about {room} paused sandboxes of 200 MB"
    if room < _FEW:
        advice = (
            f"Free some space, or lower disk_reserve_mib (now {reserve >> 20}): pauses are refused when it is used up"
        )
        return Check("room for states", Level.WARN, found, advice)
    return Check("room for states", Level.OK, found)


def check_bucket(url: str, trouble: str | None) -> Check:
    if trouble is not None:
        advice = "Until it can be reached, pauses and snapshots fail; see s3_bucket and its like in docs/settings.md"
        return Check("object store", Level.WARN, f"{url}: {trouble}", advice)
    return Check("object store", Level.OK, f"{url} can be reached")


# ---- looking at the host -------------------------------------------------------------------------


def free_bytes(path: Path) -> int:
    """Of the file system that *path* is on, or will be."""
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def _vault_says() -> str | None:
    """Why it does not run, if so: without arguments it says, as an event, that it was given none."""
    try:
        done = subprocess.run(
            [VAULT], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VAULT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{VAULT}: {error}"
    return None if b'"event"' in done.stdout else f"{VAULT}: ended with {done.returncode}"


def _mounts() -> str:
    return Path("/proc/mounts").read_text()


def _file_system(path: Path, mounts: str) -> str | None:
    if not path.is_dir():
        return None
    kinds = {fields[1]: fields[2] for line in mounts.splitlines() if len(fields := line.split()) > 2}
    return next(kinds[str(each)] for each in (path, *path.parents) if str(each) in kinds or each == Path("/"))


def _scans_pagemap() -> bool:
    request = bytearray(struct.pack("=12Q", 96, *[0] * 11))  # an empty range
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        try:
            fcntl.ioctl(pagemap, _PAGEMAP_SCAN, request)
        except OSError as error:
            return error.errno != errno.ENOTTY
    return True


def _has_capability(number: int) -> bool:
    found = re.search(r"^CapEff:\s+([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def _examine_key(config: Config) -> Check:
    """Does not make the key: that is the server's first start."""
    text = os.environ.get(VARIABLE)
    file = config.server_key_file
    place = VARIABLE if text is not None else str(file)
    try:
        if text is None and not file.exists():
            return Check("server key", Level.OK, f"{file} will be made at the first start")
        KeyRing.parse(file.read_text(encoding="ascii") if text is None else text)
        mode = stat.S_IMODE(file.stat().st_mode) if text is None else None
    except BadKey as error:
        return check_key(place, None, str(error))
    except (OSError, UnicodeDecodeError) as error:
        return check_key(place, None, f"cannot be read: {type(error).__name__}")
    return check_key(place, mode, None)


def _examine_bucket(config: Config) -> Check:
    url = f"s3://{config.s3_bucket}/{config.s3_prefix}"
    try:
        bucket_of(config).check()
    except (Unavailable, ConfigError) as error:
        return check_bucket(url, str(error))
    return check_bucket(url, None)
