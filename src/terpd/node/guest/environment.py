"""Variables that are set while a guest runs: in its agent's memory only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import ANSWER_S, ask
from terpd.node.guest.channel import Channel
from terpd.node.guest.execs import check_env
from terpd.node.guest.faults import bad_reply

MAX_VARIABLES = 256
MAX_TOTAL_BYTES = 64 * 1024  # names and values


async def change(channel: Channel, to_set: Mapping[str, str], to_unset: Collection[str]) -> None:
    """As `Node.change_env`."""
    check_env(to_set)
    check_env(dict.fromkeys(to_unset, ""))
    await ask(channel, wire.Request(env_change=wire.EnvChange(set=to_set, unset=sorted(to_unset))), timeout_s=ANSWER_S)


async def names(channel: Channel) -> Sequence[str]:
    """As `Node.env_names`."""
    reply = await ask(channel, wire.Request(env_list=wire.EnvList()), timeout_s=ANSWER_S)
    found = list(reply.env_names.names)
    check_variables("env_list", dict.fromkeys(found, ""))
    if found != sorted(set(found)):
        raise bad_reply("env_list", "names that are not in order")
    return found


def check_variables(call: str, env: Mapping[str, str]) -> None:
    """
    Raises:
        GuestFault: The guest gives more than it may have been given.
    """
    total = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
    if len(env) > MAX_VARIABLES or total > MAX_TOTAL_BYTES:
        raise bad_reply(call, f"{len(env)} variables of {total} bytes")
