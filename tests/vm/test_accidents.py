"""What programs do to their own guest by accident: the sandbox stays reachable, and the next command runs."""

from __future__ import annotations

import pytest
from terp import ExecKilled, ExecTimeout, Sandbox, Stdout

pytestmark = pytest.mark.vm

OWN_CGROUP = "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"


def _works(sandbox: Sandbox) -> None:
    """Two commands at once, so that a second cgroup is needed too, and a file in each root."""
    events = sandbox.exec_stream("while [ ! -e /tmp/go ]; do sleep 0.05; done; echo first")
    next(events)
    assert sandbox.exec("touch /tmp/go; echo second").stdout == "second\n"
    assert [event.text for event in events if isinstance(event, Stdout)] == ["first\n"]
    sandbox.files.write("/workspace/deep/file", "x")
    sandbox.files.write("/tmp/deep/file", "x")


@pytest.mark.parametrize(
    "accident",
    [
        "cd /; rm -rf /workspace",
        "mv /workspace /elsewhere; mv /tmp /elsewhere-too",
        "chmod 000 / /tmp /workspace",
        "rm -f /dev/null /dev/urandom",
        "rm -f /dev/null; mkfifo /dev/null",
        "chmod -x /bin/bash",
        "umount -l /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup",
        f"C={OWN_CGROUP}; mkdir $C/in; echo $$ > $C/in/cgroup.procs; echo +memory > $C/cgroup.subtree_control",
        "kill -9 -1",
    ],
)
def test_sandbox_goes_on(sandbox: Sandbox, accident: str) -> None:
    """Commands run and files are written afterwards, in the usual places."""
    sandbox.exec(accident)

    _works(sandbox)


def test_cgroup_frozen_by_a_command(sandbox: Sandbox) -> None:
    """Whoever freezes all commands, and so itself, loses those; it keeps no later one from running."""
    with pytest.raises(ExecTimeout):
        sandbox.exec("echo 1 > /sys/fs/cgroup/user/cgroup.freeze", timeout=5)
    with pytest.raises(ExecKilled):
        sandbox.exec("true", timeout=60)

    _works(sandbox)
