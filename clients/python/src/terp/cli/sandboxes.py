"""`terp create`, `terp ls`, `terp rm`."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Annotated

import typer

from terp import Sandbox, SandboxInfo, TerpError
from terp.cli import options
from terp.cli.terminal import complain, tell, tell_json, tell_table, told

LIVE = ("starting", "running", "pausing", "paused", "resuming")


def create(
    *,
    template: options.NewTemplate = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Id of a snapshot to start from instead; see: terp snapshot --help")
    ] = None,
    size: options.NewSize = None,
    network: options.Network = None,
    allow: options.Allow = None,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Let through what would be blocked for its name; see: terp egress --help"),
    ] = False,
    public_previews: Annotated[
        bool,
        typer.Option("--public-previews", help="Whoever knows a preview's host sees it, without a token."),
    ] = False,
    timeout: options.Lease = 600,
    on_timeout: options.OnTimeout = "kill",
    auto_resume: options.AutoResume = False,
    volume: options.Volume = None,
    env: options.Env = None,
    metadata: options.Metadata = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Start a sandbox and print its id.

    With --snapshot it has the memory, processes and files of the snapshot, and its template, size and network.

    By default it reaches nothing. --allow names hosts that it may reach over HTTPS; all else is refused, and all is
    on record: terp egress shows it, terp network set changes it.

    Example: terp create --template python-3.12 --allow example.com --allow api.example.org --timeout 3600
    """
    sandbox = Sandbox.create(
        template,
        snapshot=snapshot,
        size=size,
        network=network,
        allow_domains=allow or None,
        report_only=report_only or None,
        preview_auth=not public_previews,
        timeout=timeout,
        on_timeout=on_timeout,
        auto_resume=auto_resume,
        env=options.read_env(env),
        volume=volume,
        metadata=options.read_metadata(metadata),
    )
    if as_json:
        tell_json(sandbox.info)
    else:
        tell(sandbox.id)


def show(
    *,
    status: Annotated[
        str | None,
        typer.Option(help="Only those: starting, running, pausing, paused, resuming, terminated or failed."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Those that have ended, too.")] = False,
    metadata: options.Metadata = None,
    as_json: options.AsJson = False,
) -> None:
    """
    List sandboxes that live, running or paused, newest first.

    Example: terp ls --metadata user=42 --json
    """
    wanted: tuple[str | None, ...] = (status,) if status or everything else LIVE
    labels = options.read_metadata(metadata)
    found = [sandbox.info for each in wanted for sandbox in Sandbox.list(status=each, metadata=labels)]
    found.sort(key=lambda info: info.created_at, reverse=True)
    if as_json:
        tell_json(found)
    else:
        now = dt.datetime.now(dt.timezone.utc)
        tell_table(("ID", "STATUS", "TEMPLATE", "SIZE", "ENDS IN"), [_row(info, now) for info in found])


def remove(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", show_default=False)] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All sandboxes of this key's tenant.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """
    Terminate sandboxes, running or paused, with all they hold.

    Example: terp rm sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    if bool(ids) == everything:
        raise typer.BadParameter("give ids, or --all", param_hint="ID")
    if everything:
        pages = (Sandbox.list(status=status) for status in LIVE)
        ids = [sandbox.id for sandbox in itertools.chain.from_iterable(pages)]
    ids = ids or []
    gone = [sandbox_id for sandbox_id in ids if _terminated(sandbox_id, as_json=as_json)]
    if as_json:
        tell_json(gone)
    if len(gone) < len(ids):
        raise typer.Exit(1)


def _terminated(sandbox_id: str, *, as_json: bool) -> bool:
    """A failure is told and no more: the others are still to go."""
    try:
        Sandbox.get(sandbox_id).terminate()
    except TerpError as error:
        complain(f"{sandbox_id}: {told(error)}")
        return False
    if not as_json:
        tell(sandbox_id)  # at once: many take their time
    return True


def _row(info: SandboxInfo, now: dt.datetime) -> tuple[str, ...]:
    ends_at = info.paused_expires_at if info.status == "paused" else info.expires_at
    left_s = 0 if ends_at is None else int((ends_at - now).total_seconds())
    ends_in = f"{left_s // 60} min {left_s % 60} s" if info.status in LIVE and left_s > 0 else "-"
    return info.id, info.status, info.template, info.size or "-", ends_in
