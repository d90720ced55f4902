"""Secrets of one command and variables set later: who has them, and who does not, in a real guest and on the host."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator

import pytest
from support.server import Server
from support.wait import eventually
from terp import Sandbox, SecretsInUse

pytestmark = pytest.mark.vm

# Looks for a needle, given as base64 backwards so that this program is not what it finds, in all that the agent has
# mapped and in what all processes were started with.
SEARCH = r"""
needle() { rev /tmp/needle | base64 -d; }
for range in $(sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) rw.*/\1:\2/p' /proc/1/maps); do
    begin=$((16#${range%:*})) end=$((16#${range#*:}))
    dd if=/proc/1/mem bs=4096 skip=$((begin / 4096)) count=$(((end - begin) / 4096)) 2> /dev/null
done | grep -c -a -F -f <(needle) | sed 's/^/agent /'
grep -l -a -F -f <(needle) /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null | wc -l | sed 's/^/processes /'
"""


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    with server.create("debian-12", timeout=3600) as sandbox:
        yield sandbox


def _search(sandbox: Sandbox, needle: str) -> tuple[int, int]:
    """How often it is in the agent's memory, and how many processes have it in their environment."""
    sandbox.files.write("/tmp/needle", base64.b64encode(needle.encode()).decode()[::-1])
    found = dict(line.split() for line in sandbox.exec(["bash", "-c", SEARCH]).check().stdout.splitlines())
    return int(found["agent"]), int(found["processes"])


def _has(sandbox: Sandbox, value: str) -> bool:
    """Whether a command's TOKEN is *value*; told by a digest, for the agent remembers output for a while."""
    digest = sandbox.exec("printf %s $TOKEN | sha256sum").check().stdout.split()[0]
    return digest == hashlib.sha256(value.encode()).hexdigest()


def test_secrets_of_one_command(server: Server, sandbox: Sandbox) -> None:
    """The command has them, over its env; no other has, nor the agent once it runs, nor any file of the server."""
    token, kept = secrets.token_hex(16), secrets.token_hex(16)

    assert sandbox.exec("echo ${#A}-$B", env={"A": "env", "B": "env"}, secrets={"A": token}).stdout == "32-env\n"
    assert sandbox.exec("echo -$A").stdout == "-\n"
    command = sandbox.start("echo ${#TOKEN}; exec sleep 1000", secrets={"TOKEN": kept})
    eventually(lambda: command.logs().content == "32\n")
    agent, processes = _search(sandbox, kept)

    assert (agent, processes) == (0, 1)
    assert _search(sandbox, token) == (0, 0)
    for path in server.data_dir.parent.rglob("*"):
        if path.is_file() and path.stat().st_size < 64 << 20:
            assert kept.encode() not in path.read_bytes(), path
    command.kill()


def test_no_copy_while_they_are_in_use(sandbox: Sandbox) -> None:
    """A snapshot or fork then waits for the command's end, unless it is to have them; a pause is none of these."""
    command = sandbox.start("exec sleep 1000", secrets={"TOKEN": "t"})
    with pytest.raises(SecretsInUse):
        sandbox.snapshot()
    with pytest.raises(SecretsInUse):
        sandbox.fork(1)
    [child] = sandbox.fork(1, include_secrets=True)
    with child:
        pid = child.command(command.id).pid
        # Not at once: what was forked may have been on its way to becoming that program.
        eventually(lambda: child.exec(f"tr '\\0' '\\n' < /proc/{pid}/environ | grep TOKEN").stdout == "TOKEN=t\n")
    sandbox.pause()
    sandbox.resume()
    command.kill()
    sandbox.snapshot().delete()


def test_variables_set_later(server: Server, sandbox: Sandbox) -> None:
    """Commands to come have them, a copy only if asked to, and the source always, over pauses too."""
    value = secrets.token_hex(16)
    assert sandbox.env.set(TOKEN=value) == ("TOKEN",)
    assert _has(sandbox, value)
    assert sandbox.exec("echo $TOKEN", env={"TOKEN": "own"}).stdout == "own\n"

    plain, whole = sandbox.snapshot(), sandbox.snapshot(include_secrets=True)
    assert _has(sandbox, value)
    with Sandbox.create(snapshot=plain, client=server.client) as child:
        assert child.env.list() == ()
        assert child.exec("echo -$TOKEN").stdout == "-\n"
        assert _search(child, value) == (0, 0)
    with Sandbox.create(snapshot=whole, client=server.client) as child:
        assert _has(child, value)
    plain.delete()
    whole.delete()

    sandbox.pause()
    sandbox.resume()
    assert _has(sandbox, value)
    assert sandbox.env.unset("TOKEN") == ()
    assert sandbox.exec("echo -$TOKEN").stdout == "-\n"
    assert _search(sandbox, value) == (0, 0)
