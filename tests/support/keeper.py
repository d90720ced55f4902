"""
A program for guests that notices if anything of it is lost, and how a test reads what it noticed.

It keeps random bytes in memory and a counter, and ten times a second writes down the digest of the bytes as they are
then, and the next number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from terp import Sandbox

from support.wait import eventually

_PLACE = "/tmp/keeper.json"
_PROGRAM = """
import hashlib, json, os, time
held = bytearray(os.urandom({size}))
count = 0
while True:
    count += 1
    with open("/tmp/.keeper", "w") as file:
        json.dump({{"pid": os.getpid(), "count": count, "digest": hashlib.sha256(held).hexdigest()}}, file)
    os.rename("/tmp/.keeper", "{place}")
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Kept:
    """What the program wrote down last."""

    pid: int
    count: int
    digest: str


def start_keeper(sandbox: Sandbox, *, size: int = 256 * 1024) -> Kept:
    """Start it in a sandbox with Python, holding *size* random bytes."""
    sandbox.files.write("/tmp/keeper.py", _PROGRAM.format(size=size, place=_PLACE))
    sandbox.exec("setsid python3 /tmp/keeper.py > /tmp/keeper.log 2>&1 < /dev/null &").check()
    eventually(lambda: sandbox.files.exists(_PLACE))
    return look(sandbox)


def look(sandbox: Sandbox) -> Kept:
    return Kept(**json.loads(sandbox.files.read(_PLACE)))


def assert_kept(sandbox: Sandbox, before: Kept) -> Kept:
    """The same process still counts from where it was, over the same bytes. Returns what it says now."""
    now = look(sandbox)
    assert (now.pid, now.digest) == (before.pid, before.digest)
    assert now.count >= before.count
    eventually(lambda: look(sandbox).count > now.count, what="the counter goes on")
    return look(sandbox)
