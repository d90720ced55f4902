"""Machines restored from one snapshot: each must be its own, in the present, and cut off from the network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server
from terp import Sandbox

pytestmark = pytest.mark.vm

_AUTHORITIES = Path("/usr/local/share/ca-certificates")


@pytest.fixture(scope="module")
def twins(server: Server) -> Iterator[list[Sandbox]]:
    """Two sandboxes of one template."""
    with server.create("python-3.12-bare") as one, server.create("python-3.12-bare") as other:
        yield [one, other]


@pytest.mark.parametrize(
    "command",
    [
        "head -c 32 /dev/urandom | base64",
        "head -c 32 /dev/random | base64",
        "cat /proc/sys/kernel/random/uuid",
        "cat /etc/machine-id",
        "hostname",
        "python -c 'import random; print(random.random())'",
        "python -c 'import uuid; print(uuid.uuid4(), uuid.uuid1())'",
        "python -c 'import os; print(os.getrandom(32).hex())'",
        "python -c 'print(hash(\"salted\"))'",
    ],
)
def test_twins_differ(twins: list[Sandbox], command: str) -> None:
    """Whatever should be unique is: the first answers of two clones are different."""
    answers = [sandbox.exec(command).check().stdout for sandbox in twins]

    assert all(answer.strip() for answer in answers)
    assert answers[0] != answers[1]


def test_names_agree_with_themselves(twins: list[Sandbox]) -> None:
    """The host name is the kernel's and the file's, resolves, and the machine id has its form."""
    for sandbox in twins:
        name = sandbox.exec("hostname").stdout.strip()
        assert sandbox.files.read("/proc/sys/kernel/hostname").strip() == name
        assert sandbox.files.read("/etc/hostname").strip() == name
        assert sandbox.exec("getent hosts $(hostname)").exit_code == 0
        machine_id = sandbox.files.read("/etc/machine-id").strip()
        assert len(machine_id) == 32
        assert int(machine_id, 16)


def test_clock_is_right_and_moves(shared: Sandbox) -> None:
    """The guest's wall clock is the host's within seconds, and both its clocks move forward."""
    before = time.time()
    guest = float(shared.exec("date +%s.%N").stdout)
    after = time.time()

    assert before - 5 < guest < after + 5
    moved = shared.exec("a=$(date +%s%N); sleep 1; echo $(( $(date +%s%N) - a ))")
    assert int(moved.stdout) >= 10**9
    up = shared.exec("cut -d' ' -f1 /proc/uptime; sleep 1; cut -d' ' -f1 /proc/uptime").stdout.split()
    assert float(up[1]) > float(up[0])


def test_host_authorities_are_trusted(shared: Sandbox) -> None:
    """Each certificate of the host's own authorities is in the bundle that guest programs trust."""
    bundle = shared.files.read("/etc/ssl/certs/ca-certificates.crt")
    certificates = [path.read_text() for path in _AUTHORITIES.rglob("*.crt")]

    for text in certificates:
        body = text.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
        assert "".join(body.split()) in "".join(bundle.split())


def test_network_off_means_no_interface(shared: Sandbox) -> None:
    """There is no network interface but loopback, no route, and a connection fails at once."""
    assert shared.exec("ls /sys/class/net").stdout.split() == ["lo"]
    assert shared.exec("tail -n +2 /proc/net/route").stdout == ""
    assert shared.exec("bash -c 'exec 3<>/dev/tcp/192.0.2.1/80'", timeout=20).exit_code != 0


def test_loopback_works(twins: list[Sandbox]) -> None:
    """Programs in the sandbox reach each other over loopback."""
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname());"
        "a, _ = s.accept(); c.sendall(b'hello'); print(a.recv(5).decode())"
    )
    assert twins[0].exec(["python", "-c", program]).check().stdout == "hello\n"


def test_size_is_what_was_asked_for(shared: Sandbox) -> None:
    """Small is one processor and one GiB, seen from inside."""
    assert shared.exec("nproc").stdout == "1\n"
    total_kib = int(shared.exec("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout)
    assert 0.85 * (1 << 20) < total_kib <= 1 << 20
