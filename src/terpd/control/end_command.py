"""End a command: a signal to its process group, and SIGKILL to what is left 2 s later."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence

from terpd.control.shielded import Shielded
from terpd.model.errors import ExecNotFound, GuestFault, TerpError
from terpd.model.guest import CommandInfo
from terpd.model.ids import ExecId, SandboxId
from terpd.model.ports import Node

GRACE_S = 2.0  # as at the timeout of a command
_DEATH_S = 15.0  # from SIGKILL to the guest's word that it has ended, under emulation on a busy host
_LOOKS_S = (0.02, 0.05, 0.1, 0.2)  # between looks; the last repeats


async def find_command(node: Node, sandbox_id: SandboxId, exec_id: ExecId, *, pty: bool) -> CommandInfo:
    """Raises ExecNotFound, also for a terminal where none is wanted, and the other way round."""
    return _only(await node.list_commands(sandbox_id), exec_id, pty=pty)


async def end_command(
    node: Node, shielded: Shielded, sandbox_id: SandboxId, exec_id: ExecId, first: signal.Signals, *, pty: bool
) -> None:
    """
    Return when it has ended; one that has ended before is left alone. Whoever asks may leave: it ends all the same.

    Args:
        first: What its process group gets before SIGKILL.

    Raises:
        ExecNotFound.
        GuestFault: The guest does not end it.
    """
    await shielded.run(_end(node, shielded, sandbox_id, exec_id, first, pty=pty))


def leave_to_die(node: Node, shielded: Shielded, sandbox_id: SandboxId, exec_id: ExecId) -> None:
    """Have a command that nobody waits for any more ended: SIGTERM now, SIGKILL 2 s later. Returns at once."""
    shielded.leave(_terminate(node, sandbox_id, exec_id))


async def _terminate(node: Node, sandbox_id: SandboxId, exec_id: ExecId) -> None:
    with contextlib.suppress(TerpError):  # as below
        await node.signal(sandbox_id, exec_id, signal.SIGTERM)
    await _kill_rest(node, sandbox_id, exec_id)


async def _end(
    node: Node, shielded: Shielded, sandbox_id: SandboxId, exec_id: ExecId, first: signal.Signals, *, pty: bool
) -> None:
    if (await find_command(node, sandbox_id, exec_id, pty=pty)).exited is not None:
        return
    await node.signal(sandbox_id, exec_id, first)
    if await _ended(node, sandbox_id, exec_id, GRACE_S, pty=pty):
        shielded.leave(_kill_rest(node, sandbox_id, exec_id))
        return
    await node.signal(sandbox_id, exec_id, signal.SIGKILL)
    if not await _ended(node, sandbox_id, exec_id, _DEATH_S, pty=pty):
        raise GuestFault(f"The guest has not ended command {exec_id} after SIGKILL; try again")


async def _kill_rest(node: Node, sandbox_id: SandboxId, exec_id: ExecId) -> None:
    """What the command has left in its group has as long as it would have had."""
    await asyncio.sleep(GRACE_S)
    with contextlib.suppress(TerpError):  # it was paused or has ended meanwhile
        await node.signal(sandbox_id, exec_id, signal.SIGKILL)


async def _ended(node: Node, sandbox_id: SandboxId, exec_id: ExecId, within_s: float, *, pty: bool) -> bool:
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    look = 0
    while (await find_command(node, sandbox_id, exec_id, pty=pty)).exited is None:
        if loop.time() >= until:
            return False
        await asyncio.sleep(_LOOKS_S[min(look, len(_LOOKS_S) - 1)])
        look += 1
    return True


def _only(commands: Sequence[CommandInfo], exec_id: ExecId, *, pty: bool) -> CommandInfo:
    for command in commands:
        if command.exec_id == exec_id and command.pty is pty:
            return command
    what = "terminal" if pty else "background command"
    raise ExecNotFound(f"There is no such {what} in this sandbox, or it has been forgotten: {exec_id}")
