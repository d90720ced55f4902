"""What forks of a sandbox share, and what they must not: random numbers, names, clocks, later changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest
from support.resident import Resident
from support.server import Server
from support.wait import eventually
from terp import Sandbox

pytestmark = pytest.mark.vm


DRAWING = """
import os, random, ssl, threading, uuid
random.seed(1)
try:
    import numpy
    numpy.random.seed(1)
except ImportError:
    numpy = None
ssl.RAND_bytes(1)
uuid.uuid1()

def draw():
    words = [random.random(), random.gauss(0, 1), random.getrandbits(64), ssl.RAND_bytes(16).hex(), uuid.uuid1().node]
    words += [uuid.uuid4()] if numpy is None else [numpy.random.random(), uuid.uuid4()]
    return " ".join(map(str, words))
"""

ANSWERING = (
    DRAWING
    + """
def answer(question):
    return draw()
"""
)

# Draws without end, in the main thread or in another while that one waits.
WRITING = (
    DRAWING
    + """
import sys, time
def write():
    with open(f"/tmp/{sys.argv[1]}.drawn", "a", buffering=1) as out:
        while True:
            print(draw(), file=out)
            time.sleep(0.02)

def answer(question):
    return ""
"""
)
IN_MAIN = WRITING + "write()\n"
IN_THREAD = WRITING + "threading.Thread(target=write).start()\n"


@pytest.fixture(scope="module")
def family(server: Server) -> Iterator[list[Sandbox]]:
    """A source and two forks of it, with programs that draw random numbers; the first is the source."""
    with server.create("python-3.12-bare", timeout=3600, env={"OLD": "source", "BOTH": "source"}) as source:
        source.exec("python3 -m venv --without-pip /opt/venv").check()
        Resident.start(source, "plain", ANSWERING)
        Resident.start(source, "venv", ANSWERING, python="/opt/venv/bin/python")
        for name, program in (("main", IN_MAIN), ("thread", IN_THREAD)):
            source.files.write(f"/tmp/{name}.py", program)
            source.exec(f"setsid python3 /tmp/{name}.py {name} >/tmp/{name}.log 2>&1 </dev/null &").check()
            source.exec(f"until [ -s /tmp/{name}.drawn ]; do sleep 0.1; done").check()
        source.files.write("/workspace/shared", "source")
        children = source.fork(2, env={"NEW": "fork", "BOTH": "fork"})
        yield [source, *children]
        for child in children:
            child.terminate()


def answers(family: Sequence[Sandbox], command: str) -> list[str]:
    return [sandbox.exec(command).check().stdout.strip() for sandbox in family]


@pytest.mark.parametrize(
    "command",
    [
        "head -c 32 /dev/urandom | base64",
        "head -c 32 /dev/random | base64",
        "cat /proc/sys/kernel/random/uuid",
        "cat /etc/machine-id",
        "hostname",
        "python3 -c 'import uuid; print(uuid.uuid4())'",
        "python3 -c 'import os; print(os.getrandom(32).hex())'",
    ],
)
def test_forks_draw_their_own(family: list[Sandbox], command: str) -> None:
    """The kernel's numbers and the names are others in each fork, and than the source's."""
    assert len(set(answers(family, command))) == len(family)


@pytest.mark.parametrize("name", ["plain", "venv"])
def test_running_interpreters_draw_their_own(family: list[Sandbox], name: str) -> None:
    """An interpreter that waited in the source draws differently in each fork, whatever it draws with."""
    drawn = [Resident(sandbox, name).ask().split() for sandbox in family]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(family), column


@pytest.mark.parametrize("name", ["main", "thread"])
def test_interpreters_at_work_draw_their_own(family: list[Sandbox], name: str) -> None:
    """One that was drawing when it was forked goes on with numbers of its own in each fork."""

    def lines(sandbox: Sandbox) -> list[str]:
        return sandbox.exec(f"cat /tmp/{name}.drawn").check().stdout.splitlines()

    began = [len(lines(sandbox)) for sandbox in family]
    for sandbox, size in zip(family, began, strict=True):
        while len(lines(sandbox)) <= size + 20:
            assert sandbox.exec(f"pgrep -f /tmp/{name}.py").exit_code == 0
    # The last line but one: the last may be half written.
    tails = [[line.split() for line in lines(sandbox)[size:-1]] for sandbox, size in zip(family, began, strict=True)]
    for column in range(5):
        values = [{line[column] for line in tail} for tail in tails]
        assert not values[0] & values[1]
        assert not values[0] & values[2]
        assert not values[1] & values[2]


def test_names_agree_with_themselves(family: list[Sandbox]) -> None:
    """The new name is in all the places where programs look for it."""
    for sandbox in family:
        name = sandbox.exec("hostname").check().stdout
        assert sandbox.files.read("/etc/hostname") == name
        assert sandbox.exec("getent hosts $(hostname)").exit_code == 0


def test_the_environment_is_the_source_s_with_the_new_one_over_it(family: list[Sandbox]) -> None:
    """What a fork was given counts there and nowhere else."""
    source, *children = answers(family, "echo $OLD $BOTH $NEW")
    assert source == "source source"
    assert children == ["source fork fork"] * 2


def test_clocks_are_right(family: list[Sandbox]) -> None:
    """The forks' wall clocks are the host's."""
    for sandbox in family:
        before = time.time()
        wall = float(sandbox.exec("date +%s.%N").stdout)
        assert before - 1 < wall < time.time() + 1


def test_forks_do_not_see_each_other(family: list[Sandbox]) -> None:
    """Files and memory of that moment are everywhere; what changes later stays where it was changed."""
    assert answers(family, "cat /workspace/shared") == ["source"] * 3
    for number, sandbox in enumerate(family):
        sandbox.files.write("/workspace/shared", str(number))
        sandbox.exec(f"echo {number} > /dev/shm/own").check()
    assert answers(family, "sync; paste /workspace/shared /dev/shm/own") == ["0\t0", "1\t1", "2\t2"]


CATCHING = """
import signal
told = 0

def hear(*_):
    global told
    told += 1

signal.signal(63, hear)

def answer(question):
    return told
"""


def test_a_program_of_the_user_s_is_told(server: Server) -> None:
    """Whoever catches the signal gets it in a fork and from a snapshot, and not in the source or behind a pause."""
    with server.create("python-3.12-bare") as source:
        resident = Resident.start(source, "catching", CATCHING)
        snapshot = source.snapshot()
        (child,) = source.fork()
        with child, Sandbox.create(snapshot=snapshot, client=server.client) as other:
            source.pause()
            source.resume()
            assert [resident.of(sandbox).ask() for sandbox in (source, child, other)] == ["0", "1", "1"]
            (grandchild,) = child.fork()
            with grandchild:
                assert resident.of(grandchild).ask() == "2"
        snapshot.delete()


def test_others_are_not_harmed(server: Server) -> None:
    """A fork ends no program: neither one that knows nothing of it, nor one that is about to start another."""
    spawning = """
import subprocess, itertools
failed = 0
def answer(question):
    return failed
for number in itertools.count():
    failed += subprocess.run(["true"]).returncode != 0
    if failed:
        open("/tmp/failed", "w")
"""
    with server.create("python-3.12-bare") as source:
        source.files.write("/tmp/spawning.py", spawning)
        commands = ["sleep 1000", "python3 /tmp/spawning.py"]
        for command in commands:
            source.exec(f"setsid {command} </dev/null >/dev/null 2>&1 &").check()
        seen = "ps -e -o args= | grep -e '^sleep' -e '^python3'"
        eventually(lambda: source.exec(seen).stdout.splitlines() == commands, what="both run")
        for _ in range(3):
            (child,) = source.fork()
            with child:
                assert child.exec(seen).stdout.splitlines() == commands
                assert child.exec("test -e /tmp/failed").exit_code == 1


def test_a_root_that_cannot_be_written_is_no_fork(server: Server) -> None:
    """Two guests never go by one name: where the new one cannot be given, there is no fork, and the source runs on."""
    from terp import GuestFault

    with server.create("debian-12") as source:
        source.exec("mount -o remount,ro /").check()
        with pytest.raises(GuestFault, match="machine-id"):
            source.fork()
        source.exec("mount -o remount,rw /").check()
        (child,) = source.fork()
        child.terminate()
