"""`terp egress`, `terp network set`, `terp url`: what a sandbox reaches, and who reaches it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import typer

from terp import Connection, Sandbox
from terp.cli import options
from terp.cli.terminal import complain, tell, tell_json, tell_json_line

SandboxId = Annotated[str, typer.Argument(metavar="ID")]

POLL_S = 2.0
OVERLAP = 20  # connections that end at the same moment may be recorded in another order
ENDED = ("terminated", "failed")

policies = typer.Typer(
    no_args_is_help=True,
    help="""
Change what a sandbox may reach, while it runs.

Example: terp network set sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --allow example.com
""",
)


def egress(
    sandbox_id: SandboxId,
    *,
    blocked: Annotated[bool, typer.Option("--blocked", help="Only what was refused.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most; the latest ones.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones as they end, until the sandbox does.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON; with --follow one object a line.")] = False,
) -> None:
    """
    List a sandbox's connections, the latest last: when they began, what was decided and why, bytes out and in, host.

    They appear when they are over. Those of ended sandboxes stay readable. decision is allowed, blocked, failed
    (allowed, but not reached) or reported (let through because of --report-only).

    Example: terp egress sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --blocked --follow
    """
    sandbox = Sandbox.get(sandbox_id)
    decision = "blocked" if blocked else None
    if follow:
        _follow(sandbox, decision, limit=limit, as_json=as_json)
        return
    found = list(itertools.islice(sandbox.egress(decision=decision), limit))[::-1]
    if as_json:
        tell_json(found)
        return
    for connection in found:
        tell(_line(connection))
    traffic = sandbox.traffic()
    complain(
        f"since its start: {traffic.connections} let through, {traffic.blocked} blocked,"
        f" {traffic.bytes_out} bytes out, {traffic.bytes_in} in"
    )


@policies.command("set")
def change(
    sandbox_id: SandboxId,
    *,
    network: Annotated[
        str | None, typer.Option(help="restricted or open. From and to off nothing can be changed.")
    ] = None,
    allow: options.Allow = None,
    allow_default: Annotated[bool, typer.Option("--allow-default", help="The server's default list again.")] = False,
    allow_nothing: Annotated[bool, typer.Option("--allow-nothing", help="An empty list.")] = False,
    report_only: Annotated[
        bool | None,
        typer.Option("--report-only/--enforce", help="Let through, or block, what its name forbids; both on record."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Change what a sandbox may reach; what is not given stays.

    The new list replaces the old one. It holds at once, also for connections under way.

    Example: terp network set sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --allow example.com --allow api.example.org
    """
    if sum((bool(allow), allow_default, allow_nothing)) > 1:
        raise typer.BadParameter("give only one of --allow, --allow-default and --allow-nothing", param_hint="--allow")
    domains: Sequence[str] | Literal["default"] | None = allow or None
    if allow_default:
        domains = "default"
    elif allow_nothing:
        domains = []
    if network is None and domains is None and report_only is None:
        raise typer.BadParameter("say what to change, e.g. --allow example.com", param_hint="--allow")
    sandbox = Sandbox.get(sandbox_id)
    sandbox.set_network(network, allow_domains=domains, report_only=report_only)
    if as_json:
        tell_json(sandbox.info)
    else:
        complain(_policy(sandbox))
        tell(sandbox.id)


def url(
    sandbox_id: SandboxId,
    port: Annotated[int, typer.Argument(min=1, max=65535, metavar="PORT", help="That a program in it listens on.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    Print the address at which a port of a sandbox is reached, with HTTP or WebSockets.

    It holds a token, unless the sandbox was created with --public-previews: who has the address, can use it. It works
    as long as the sandbox runs; with --auto-resume it wakes it.

    Example: terp url sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB 8000
    """
    address = Sandbox.get(sandbox_id).preview_url(port)
    if as_json:
        tell_json({"url": address})
    else:
        tell(address)


def _follow(sandbox: Sandbox, decision: str | None, *, limit: int, as_json: bool) -> None:
    found = list(itertools.islice(sandbox.egress(decision=decision), max(limit, OVERLAP + 1)))
    fresh = found[:limit]
    horizon = ""  # what has this id, or a smaller one, was told of or left out
    while True:
        for connection in reversed(fresh):
            if as_json:
                tell_json_line(connection)
            else:
                tell(_line(connection))
        if sandbox.status in ENDED:
            return
        time.sleep(POLL_S)
        sandbox.refresh()
        horizon = found[OVERLAP].id if len(found) > OVERLAP else horizon
        known = {connection.id for connection in found}
        found = _ended_after(horizon, sandbox.egress(decision=decision))
        fresh = [connection for connection in found if connection.id not in known]


def _ended_after(horizon: str, connections: Iterable[Connection]) -> list[Connection]:
    return list(itertools.takewhile(lambda connection: connection.id > horizon, connections))


def _line(connection: Connection) -> str:
    host = connection.name or connection.address or "-"
    secret = f"  secret: {connection.credential}" if connection.credential else ""
    return (
        f"{connection.at:%Y-%m-%dT%H:%M:%SZ}  {connection.decision:8}  {connection.reason:20}"
        f"  {connection.protocol:7}  {connection.bytes_out:>10}  {connection.bytes_in:>10}"
        f"  {host}:{connection.port}{secret}"
    )


def _policy(sandbox: Sandbox) -> str:
    info = sandbox.info
    if info.network == "open":
        reach = "all public addresses"
    elif info.allow_domains is None:
        reach = "the server's default list"
    else:
        reach = ", ".join(info.allow_domains) or "nothing"
    return f"{info.network}: {reach}" + ("; the rest is let through and reported" if info.report_only else "")
