"""Which cgroup hierarchies are used, and what is written there: over the files' text, without a cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.node.jail.cgroup import Cgroup, CgroupTree, Hierarchy, Limits, Usage, find_hierarchies

_LIMITS = Limits(cpu_cores=1.5, memory_bytes=1 << 30, pids=128)

_V1 = """\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 29 0:28 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
33 29 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
34 29 0:30 / /proc rw - proc proc rw
"""


def _v2(tmp_path: Path, *, root: bool) -> list[Hierarchy]:
    """A unified hierarchy under *tmp_path*, with a user's delegated slice."""
    for directory in (tmp_path, tmp_path / "user.slice/app.slice"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    mountinfo = f"30 29 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    return find_hierarchies(mountinfo, "0::/user.slice/app.slice/session.scope\n", root=root)


def test_v1_with_v2_beside_it() -> None:
    """Co-mounted controllers are one hierarchy; others are left alone; v2 without controllers is kept to kill by."""
    found = {str(each.base): (each.version, set(each.controllers)) for each in find_hierarchies(_V1, "", root=True)}

    assert found == {
        "/sys/fs/cgroup/cpu,cpuacct": (1, {"cpu", "cpuacct"}),
        "/sys/fs/cgroup/memory": (1, {"memory"}),
        "/sys/fs/cgroup/unified": (2, set()),
    }


def test_v1_is_roots_alone() -> None:
    """A user cannot make cgroups in v1."""
    assert [each.version for each in find_hierarchies(_V1, "", root=False)] == [2]


@pytest.mark.parametrize(("user", "below"), [("root", "."), ("ann", "user.slice/app.slice")])
def test_v2_base(tmp_path: Path, user: str, below: str) -> None:
    """Root places machines at the top, a user beside the daemon: never below it, where its service manager kills."""
    (found,) = _v2(tmp_path, root=user == "root")

    assert found.base == tmp_path / below
    assert found.controllers == {"cpu", "memory", "pids"}


def test_v2_limits(tmp_path: Path) -> None:
    """Limits are written where the kernel offers the file, swap is denied, and what is enforced is told."""
    (hierarchy,) = _v2(tmp_path, root=True)
    top = tmp_path / "terp-x"
    machine = top / "m_1"
    machine.mkdir(parents=True)
    for name in ("cpu.max", "memory.max", "memory.swap.max", "pids.max"):
        (machine / name).touch()
    tree = CgroupTree("x", [hierarchy])
    (top / "cgroup.subtree_control").write_text("cpu memory pids\n")  # as the kernel would show it

    cgroup = tree.create("m_1", _LIMITS)

    assert {path.name: path.read_text() for path in machine.iterdir()} == {
        "cpu.max": "150000 100000",
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "pids.max": "128",
    }
    assert (tree.mode, tree.enforced()) == ("v2", {"cpu", "memory", "pids"})
    assert cgroup.directories == [machine]
    assert tree.list() == ["m_1"]
    assert tree.find("m_2") is None


def test_no_cgroups() -> None:
    """Without any hierarchy a machine's cgroup is empty, and all acts on it do nothing."""
    tree = CgroupTree("x", [])

    cgroup = tree.create("m_1", _LIMITS)
    cgroup.join(1)
    cgroup.kill()
    cgroup.remove()

    assert (tree.mode, tree.enforced(), tree.list()) == ("none", frozenset(), [])
    assert cgroup.usage() == Usage(None, None)


def test_read_only_hierarchy_is_left_out(tmp_path: Path) -> None:
    """Where no directory can be made, as in a container, the rest still works."""
    tree = CgroupTree("x", [Hierarchy(2, tmp_path / "absent", frozenset({"cpu"}))])

    assert tree.mode == "none"


@pytest.mark.parametrize(
    "files",
    [
        {
            "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
            "memory.current": "12288\n",
            "memory.stat": "anon 4096\ninactive_file 8192\n",
        },
        {
            "cpuacct.usage": "1500000\n",
            "memory.usage_in_bytes": "12288\n",
            "memory.stat": "inactive_file 4096\ntotal_inactive_file 8192\n",
            "cpu.stat": "nr_periods 0\n",
        },
        {"cpu.stat": "usage_usec 1500\n", "memory.current": "4096\n"},
    ],
    ids=["v2", "v1", "without details"],
)
def test_usage(tmp_path: Path, files: dict[str, str]) -> None:
    """Both versions give microseconds and bytes; files that were not used lately do not count."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    assert Cgroup([tmp_path]).usage() == Usage(cpu_usage_us=1500, memory_bytes=4096)
