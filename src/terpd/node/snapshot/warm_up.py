"""What runs in a template's machine before its snapshot is taken: its services, which stay, and warm commands."""

from __future__ import annotations

from terpd.model.guest import ExecExited, ExecOutput, ExecRequest
from terpd.model.ids import new_exec_id
from terpd.node.guest.client import GuestClient
from terpd.node.guest.faults import quote

_TIMEOUT_S = 900.0  # of one; some 30 s under emulation for the slowest, and many times that on a busy host
_KEPT_BYTES = 2048  # of what a failing one says

# In a session of its own it outlives the command that starts it. Its socket appears when it is ready.
_START = """mkdir -p /run/terp; log=/run/terp/{name}.log
setsid {command} </dev/null >$log 2>&1 & service=$!
until [ -S /run/terp/{name}.sock ]; do
    kill -0 $service 2>/dev/null || {{ tail -c 1000 $log; exit 1; }}
    sleep 0.1
done"""


class PreparationFailed(Exception):
    """The template did not boot or warm up; the text says at which step."""


async def start_service(guest: GuestClient, name: str, command: str) -> None:
    """Start a program that goes on in every clone; return when it listens on `/run/terp/NAME.sock`. Raises as `run`."""
    await run(guest, _START.format(name=name, command=command), called=command)


async def run(guest: GuestClient, command: str, *, called: str | None = None) -> None:
    """
    Run a command to its end.

    Args:
        called: What to call it in the error.

    Raises:
        PreparationFailed: It failed, or took too long.
    """
    said = b""
    request = ExecRequest(exec_id=new_exec_id(), command=command, timeout_s=_TIMEOUT_S)
    async for event in guest.exec(request):
        if isinstance(event, ExecOutput):
            said = (said + event.data)[-_KEPT_BYTES:]
        elif isinstance(event, ExecExited) and event.exit_code != 0:
            raise PreparationFailed(
                f"`{called or command}` ended with {event.exit_code}"
                + (f": {quote(said.decode(errors='replace')[-200:])}" if said else "")
            )
