"""What a template takes from its host: repositories, authorities, an interpreter; and what it tells of its clients."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

import pytest

from terpd.node.template import apt, clients, cpython, packages, rootfs, trust
from terpd.node.template.command import BuildFailed, run

LISTED = """\
https://mirror.test/debian/\tbookworm\tmain
https://mirror.test/debian/\tbookworm\tcontrib
https://mirror.test/debian/\tbookworm\tmain
https://mirror.test/debian/\tbookworm-backports\tmain
https://tools.test/apt/\tstable\tmain
https://user:secret@security.test/debian-security/\tbookworm-security\tmain
"""


def test_repositories_are_those_of_the_release() -> None:
    """The release and its fixes are taken, backports and other vendors are not, and passwords stay on the host."""
    lines = [repository.line() for repository in apt.parse(LISTED, "bookworm")]

    assert lines == [
        "deb https://mirror.test/debian bookworm main contrib",
        "deb https://security.test/debian-security bookworm-security main",
    ]


def test_hosts_are_distinct_and_sorted() -> None:
    """Ports, paths and user names are no part of a host name."""
    found = clients.hosts(["https://b.test:8443/simple/", "http://user@a.test/x", "https://b.test/files"])

    assert found == ["a.test", "b.test"]


def test_an_answer_without_a_host_is_an_error() -> None:
    """A client that answers something else must not shorten the list unnoticed."""
    with pytest.raises(BuildFailed, match="undefined"):
        clients.hosts(["undefined"])


def test_the_authorities_are_those_that_debian_would_take(tmp_path: Path) -> None:
    """Files ending in .crt count; a change of one changes the fingerprint; no folder is no authority."""
    (tmp_path / "a.crt").write_text("one")
    (tmp_path / "note.txt").write_text("x")
    before = trust.fingerprint(tmp_path)
    (tmp_path / "a.crt").write_text("two")

    assert [path.name for path in trust.authorities(tmp_path)] == ["a.crt"]
    assert trust.fingerprint(tmp_path) != before
    assert trust.authorities(tmp_path / "absent") == []


def test_this_interpreter_is_found() -> None:
    """A CPython of the running series is found, unless a distribution has spread it over /usr."""
    series = f"{sys.version_info.major}.{sys.version_info.minor}"

    found = cpython.find_interpreter(series)

    assert found is not None or sys.base_prefix == "/usr"
    assert found is None or (found.series == series and found.executable.is_file())


def test_no_interpreter_of_an_unknown_series() -> None:
    """What is not on the host is not found."""
    assert cpython.find_interpreter("3.99") is None


def test_scripts_start_the_interpreter_of_the_guest(tmp_path: Path) -> None:
    """Only the first line of scripts for the host's interpreter changes."""
    interpreter = cpython.Interpreter(Path("/opt/py"), "3.12", "3.12.1", "x")
    (tmp_path / "tool").write_text("#!/opt/py/bin/python3.12\nprint('#!/opt/py/bin/python3.12')\n")
    (tmp_path / "shell").write_text("#!/bin/sh\n")

    packages.fix_scripts(tmp_path, interpreter)

    assert (tmp_path / "tool").read_text() == "#!/usr/local/bin/python3.12\nprint('#!/opt/py/bin/python3.12')\n"
    assert (tmp_path / "shell").read_text() == "#!/bin/sh\n"


def test_the_environment_is_written_as_it_stands(tmp_path: Path) -> None:
    """One NAME=value a line, without quotes, sorted."""
    rootfs.write_environment(tmp_path, {"B": "two words", "A": "$HOME"})

    assert (tmp_path / "etc/terp/env").read_text() == "A=$HOME\nB=two words\n"


def test_a_failed_program_is_quoted() -> None:
    """Its last words and its exit code are in the message."""
    with pytest.raises(BuildFailed, match=r"(?s)exit code 3.*no space left"):
        run(["sh", "-c", "echo no space left >&2; exit 3"], timeout_s=60)


def test_a_missing_program_is_named() -> None:
    """The message says what to do."""
    with pytest.raises(BuildFailed, match=r"terp-no-such-program.*make setup"):
        run(["terp-no-such-program"], timeout_s=60)


def test_a_program_out_of_time_dies_with_its_children(tmp_path: Path) -> None:
    """At the time limit the whole group is killed: the pipe that a grandchild holds open loses its reader."""
    held = tmp_path / "held"
    os.mkfifo(held)

    with pytest.raises(BuildFailed, match="stopped after"):
        run(["sh", "-c", f"(exec 3<>{held}; sleep 600) & wait"], timeout_s=0.5)

    while _has_reader(held):
        time.sleep(0.01)


def _has_reader(fifo: Path) -> bool:
    """Opening to write without waiting fails with ENXIO when no process has the pipe open to read."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno != errno.ENXIO
    return True
