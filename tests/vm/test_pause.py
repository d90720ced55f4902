"""What a sandbox finds again behind a pause: its processes, memory, files, connections, streams and clocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from shlex import quote

import pytest
from support.resident import Resident
from support.server import Server, StartServer
from support.wait import eventually
from terp import ExecEvent, Exited, Sandbox, Started, StateConflict, Stderr, Stdout

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def box(server: Server) -> Iterator[Sandbox]:
    """One with Python, for tests that pause it and do not disturb each other."""
    with server.create("python-3.12-bare", timeout=3600) as sandbox:
        yield sandbox


def cycle(sandbox: Sandbox) -> None:
    sandbox.pause()
    sandbox.resume()


STATE = """
import mmap, socket, threading, zlib, os

server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()

def echo():
    while data := far.recv(100):
        far.sendall(data)

threading.Thread(target=echo, daemon=True).start()
gone = open("/workspace/gone", "w+")
gone.write("deleted and open")
gone.flush()
os.remove("/workspace/gone")
count = 0

def answer(question):
    global count
    count += 1
    near.sendall(question.encode())
    gone.seek(0)
    return f"{count} {near.recv(100).decode()} {gone.read()} {os.environ['KEPT']}"
"""


def test_everything_goes_on(server: Server) -> None:
    """Processes, an open deleted file, a connection, tmpfs, unsynced writes, names and environment are as before."""
    with server.create("python-3.12-bare", env={"KEPT": "yes"}) as sandbox:
        resident = Resident.start(sandbox, "state", STATE)
        names = "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; echo $KEPT"
        before = sandbox.exec(names).check().stdout
        assert resident.ask("one") == "1 one deleted and open yes"
        sandbox.exec("echo tmpfs > /dev/shm/file; echo unsynced > /workspace/file; mkdir /workspace/dir").check()
        start = "setsid sh -c 'while :; do echo >> /tmp/ticks; sleep 0.05; done' >/dev/null 2>&1 </dev/null &"
        sandbox.exec(start).check()

        for number in (2, 3):
            cycle(sandbox)

            assert resident.ask("again") == f"{number} again deleted and open yes"
            assert sandbox.exec(names).check().stdout == before
            assert sandbox.exec("cat /dev/shm/file /workspace/file; ls -d /workspace/dir").stdout == (
                "tmpfs\nunsynced\n/workspace/dir\n"
            )
            ticking = "n=$(wc -l < /tmp/ticks); until [ $(wc -l < /tmp/ticks) -gt $n ]; do sleep 0.1; done"
            sandbox.exec(ticking).check()


def test_clocks_behind_a_pause(box: Sandbox) -> None:
    """The wall clock is the host's again; the monotonic one did not run meanwhile."""

    def clocks() -> tuple[float, float, float, float]:
        before = time.time()
        wall, up = box.exec("date +%s.%N; cut -d' ' -f1 /proc/uptime").check().stdout.split()
        return before, float(wall), float(up), time.time()

    first = clocks()
    box.pause()
    time.sleep(3)
    box.resume()
    before, wall, up, after = clocks()

    assert before - 1 < wall < after + 1
    assert up > first[2]
    assert up - first[2] < after - first[0] - 3 + 0.1


def test_a_command_s_time_stands_still_in_a_pause(box: Sandbox) -> None:
    """A command is not at the end of its time because its sandbox was paused for longer."""
    events = box.exec_stream("sleep 3; echo over", timeout=10)
    started = next(events)
    assert isinstance(started, Started)
    box.pause()
    time.sleep(11)
    box.resume()
    with pytest.raises(StateConflict, match="paused"):
        list(events)

    following = list(box.attach(started.command_id))
    assert "".join(event.text for event in following if isinstance(event, Stdout)) == "over\n"
    assert isinstance(following[-1], Exited)
    assert following[-1].exit_code == 0


class Reader(threading.Thread):
    """Reads a command's stream until its end, or until the call is ended."""

    def __init__(self, events: Iterator[ExecEvent], output: bytearray) -> None:
        super().__init__(daemon=True)
        self.output = output
        self.command_id = ""
        self.error: Exception | None = None
        self.exited: Exited | None = None
        self._events = events
        self.start()

    def run(self) -> None:
        try:
            for event in self._events:
                if isinstance(event, Started):
                    self.command_id = event.command_id
                elif isinstance(event, Exited):
                    self.exited = event
                else:
                    assert isinstance(event, Stdout | Stderr)
                    assert event.offset == len(self.output)
                    self.output += event.data
        except Exception as error:  # noqa: BLE001  for the test to judge
            self.error = error

    def wait_for(self, size: int) -> None:
        eventually(lambda: len(self.output) >= size or self.error or self.exited, what=f"{size} bytes of output")
        assert self.error is None


COUNT = "seq 1000000 1600000"
COUNTED = b"".join(b"%d\n" % number for number in range(1_000_000, 1_600_001))


def test_a_stream_is_told_of_a_pause_and_goes_on_by_offset(box: Sandbox) -> None:
    """A caller that is attached hears what happened; with its offset it misses nothing and gets nothing twice."""
    output = bytearray()
    reader = Reader(box.exec_stream(COUNT, timeout=300), output)
    for _ in range(3):
        reader.wait_for(len(output) + 400_000)
        box.pause()
        reader.join()
        assert isinstance(reader.error, StateConflict)
        assert "attach" in str(reader.error)
        box.resume()
        reader = Reader(box.attach(reader.command_id, offset=len(output)), output)
    reader.join()

    assert reader.exited is not None
    assert output == COUNTED


def test_streams_go_on_through_snapshots(box: Sandbox) -> None:
    """A caller that is attached, and one whose input is under way, notice nothing of a snapshot."""
    data = b"0123456789abcde\n" * 400_000
    readers = [
        Reader(box.exec_stream(COUNT, timeout=300), bytearray()),
        Reader(box.exec_stream("cat", stdin=data, timeout=300), bytearray()),
    ]
    for target in (300_000, 1_500_000, 3_000_000):
        for reader in readers:
            reader.wait_for(target)
        box.snapshot().delete()
    for reader in readers:
        reader.join()

    assert [reader.error for reader in readers] == [None, None]
    assert readers[0].output == COUNTED
    assert readers[1].output == data


MEMORY = """
import os, zlib
pages = bytearray(os.urandom(16 << 20))
expected = zlib.crc32(pages)

def answer(question):
    global expected
    whole = zlib.crc32(pages) == expected
    for at in range(int(question), len(pages), 1 << 20):
        pages[at : at + 4096] = os.urandom(4096)
    expected = zlib.crc32(pages)
    return "whole" if whole else "damaged"
"""


def test_memory_is_whole_after_many_pauses(box: Sandbox) -> None:
    """Ten pauses in a row, some memory changed between them, and every byte is what it was."""
    resident = Resident.start(box, "memory", MEMORY)
    box.exec("head -c 8000000 /dev/urandom > /workspace/blob; md5sum /workspace/blob > /tmp/sum").check()
    for number in range(10):
        cycle(box)
        assert resident.ask(str(number * 8192)) == "whole"
    assert box.exec("md5sum -c /tmp/sum").exit_code == 0


FUSE = """
import ctypes, os, struct, subprocess, sys, threading
subprocess.run(["modprobe", "fuse"], check=True)
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"fuse", sys.argv[2].encode() if sys.argv[2:] else b"/workspace", b"fuse", 0, options) == 0
unanswered = 0

def serve():
    global unanswered
    while True:
        request = os.read(device, 1 << 20)
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode == 26:  # FUSE_INIT: version 7.31 and no features
            body = struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 0, 0, 65536, 1, 0, 0, 0) + bytes(28)
            os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
        else:
            unanswered += 1

threading.Thread(target=serve, daemon=True).start()

def answer(question):
    return unanswered
"""


def test_a_file_system_in_user_space_that_never_answers(server: Server) -> None:
    """A pause waits neither for a mount on a write root whose server is stopped, nor for who waits for its answer."""
    with server.create("python-3.12-bare") as sandbox:
        resident = Resident.start(sandbox, "fuse", FUSE)
        next(sandbox.exec_stream("cat /workspace/file", cwd="/run", timeout=600))
        eventually(lambda: int(resident.ask()) > 0, what="somebody waits for an answer")
        # Its directory is there, so this one does not even begin.
        beginning = Reader(sandbox.exec_stream("true", cwd="/workspace", timeout=600), bytearray())

        for _ in range(2):
            cycle(sandbox)
            assert int(resident.ask()) > 0
            assert "D" in resident.exec("ps -o state= -C cat").stdout
        assert isinstance(beginning.error, StateConflict)
        sandbox.snapshot().delete()
        assert resident.exec("pkill -9 python3; until umount /workspace; do sleep 0.1; done").exit_code == 0
        assert sandbox.exec("pwd").stdout == "/workspace\n"


def test_many_processes(box: Sandbox) -> None:
    """Hundreds of them stop and go on, half of them in the middle of their work."""
    start = "for i in $(seq 300); do sleep 1000 & done; for i in $(seq 5); do sh -c 'while :; do :; done' & done"
    box.exec(f"setsid bash -c {quote(start + '; wait')} >/dev/null 2>&1 </dev/null &").check()
    count = "pgrep -c -x sleep; pgrep -c -f '[w]hile :'"
    eventually(lambda: box.exec(count).stdout == "300\n6\n", what="they run", patience_s=200)
    cycle(box)
    assert box.exec(count).stdout == "300\n6\n"
    box.exec("pkill -x sleep; pkill -f '[w]hile :'")


def test_paused_and_running_survive_the_server(start_server: StartServer) -> None:
    """Another server process resumes what is paused, memory and all; a snapshot outlives its source there too."""
    server = start_server("pausing", dev=False)
    with server.create("python-3.12-bare", env={"KEPT": "yes"}) as sandbox:
        resident = Resident.start(sandbox, "state", STATE)
        assert resident.ask("one") == "1 one deleted and open yes"
        snapshot = sandbox.snapshot("kept")
        assert resident.ask("two") == "2 two deleted and open yes"
        sandbox.pause()
        server.stop()
        server.start()
        sandbox.resume()
        assert resident.ask("three") == "3 three deleted and open yes"
    server.kill()
    server.start()
    with Sandbox.create(snapshot=snapshot, client=server.client) as later:
        assert resident.of(later).ask("other") == "2 other deleted and open yes"
    snapshot.delete()
