"""The one question after every fault: do the records, the processes and the files tell the same story?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from support.server import Server
from support.wait import eventually


@dataclass(frozen=True)
class Story:
    """What each witness says: the API of sandboxes, the directories of machines, the host of processes and cgroups."""

    statuses: Mapping[str, str]
    owners: Mapping[str, str]
    machines: Sequence[str]
    monitors: Sequence[str]
    cgroups: Sequence[str]

    @property
    def running(self) -> set[str]:
        return {sandbox_id for sandbox_id, status in self.statuses.items() if status == "running"}

    def agrees(self, warm: int) -> bool:
        """Whether nothing is half-way, and all of them name the same machines, *warm* of them without a sandbox."""
        return (
            set(self.statuses.values()) <= {"running", "paused", "terminated", "failed"}
            and set(self.owners) == self.running
            and set(self.owners.values()) <= set(self.machines)
            and sorted(self.machines) == sorted(self.monitors)
            and set(self.cgroups) <= set(self.machines)
            and len(self.machines) == len(self.running) + warm
        )


def assert_consistent(server: Server, *, warm: int = 0) -> set[str]:
    """
    Wait until what the API says runs is what runs, and return those sandboxes' ids.

    Each of them must answer, nothing else may run or lie about, nothing may be half-way, and the database is whole.

    Args:
        warm: Machines that wait in the pools besides.
    """
    story = look(server)

    def agree() -> bool:
        nonlocal story
        story = look(server)
        return story.agrees(warm)

    try:
        eventually(agree)
    except AssertionError:
        raise AssertionError(f"records, processes and files disagree: {story}") from None
    for sandbox_id in story.running:
        assert server.get(sandbox_id).exec("echo $((6 * 7))", timeout=60).stdout == "42\n"
    assert not server.host.mounts()
    server.host.check_database()
    return story.running


def look(server: Server) -> Story:
    host = server.host
    return Story(
        statuses={sandbox.id: sandbox.status for sandbox in server.list()},
        owners=host.owners(),
        machines=host.machines(),
        monitors=[monitor.machine_id for monitor in host.monitors()],
        cgroups=[path.name for path in host.cgroups()],
    )
