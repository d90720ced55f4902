"""`terp pause`, `terp resume`, `terp fork`, `terp snapshot …`."""

from __future__ import annotations

from typing import Annotated

import typer

from terp import Sandbox, Snapshot, TerpError
from terp.cli import options
from terp.cli.interrupts import interrupts
from terp.cli.terminal import complain, megabytes, progress, tell, tell_ids, tell_json, tell_table, told

SandboxId = Annotated[str, typer.Argument(metavar="ID")]

snapshots = typer.Typer(
    no_args_is_help=True,
    help="""
Keep a running sandbox as it is, to start any number of others from.

Example: terp create --snapshot $(terp snapshot create sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB)
""",
)


def pause(sandbox_id: SandboxId, *, as_json: options.AsJson = False) -> None:
    """
    Save a sandbox and free what it uses; terp resume lets it go on.

    Memory, processes and files are kept, encrypted. Commands under way stop where they are: terp attach follows them
    after the resume.

    Example: terp pause sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    sandbox = Sandbox.get(sandbox_id)
    progress(f"saving {sandbox.id}")
    paused = sandbox.pause()
    if as_json:
        tell_json(paused)
    else:
        complain(
            f"saved {megabytes(paused.stored_bytes)}; {megabytes(paused.dirty_bytes)} of its memory had changed;"
            f" it was stopped for {paused.stopped_ms:.0f} ms until all was read"
        )
        tell(sandbox.id)


def resume(sandbox_id: SandboxId, *, as_json: options.AsJson = False) -> None:
    """
    Let a paused sandbox go on where it was; a lease as long as the one before begins.

    Example: terp resume sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    sandbox = Sandbox.get(sandbox_id)
    progress(f"resuming {sandbox.id}")
    sandbox.resume()
    if as_json:
        tell_json(sandbox.info)
    else:
        tell(sandbox.id)


def fork(
    sandbox_id: SandboxId,
    *,
    count: Annotated[int, typer.Option("--count", "-n", help="How many.")] = 1,
    timeout: options.Lease = 600,
    on_timeout: options.OnTimeout = "kill",
    auto_resume: options.AutoResume = False,
    env: options.Env = None,
    metadata: options.Metadata = None,
    include_secrets: Annotated[
        bool, typer.Option("--include-secrets", help="Hand on what terp env has set, and secrets of commands.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """
    Start others from a running sandbox, and print their ids.

    Each has its memory, processes and files of this moment, and names and random numbers of its own. It runs on.
    Either all of them start, or none.

    Example: terp fork sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --count 3
    """
    sandbox = Sandbox.get(sandbox_id)
    progress(f"forking {sandbox.id}")
    with interrupts.held(why="the sandboxes are just being started, and will be listed"):
        children = sandbox.fork(
            count,
            timeout=timeout,
            on_timeout=on_timeout,
            auto_resume=auto_resume,
            env=options.read_env(env),
            metadata=options.read_metadata(metadata),
            include_secrets=include_secrets,
        )
        if as_json:
            tell_json([child.info for child in children])
        else:
            for child in children:
                tell(child.id)


@snapshots.command("create")
def take(
    sandbox_id: SandboxId,
    *,
    name: Annotated[str | None, typer.Option(help="For people; several may have the same.")] = None,
    include_secrets: Annotated[
        bool, typer.Option("--include-secrets", help="Keep what terp env has set, and secrets of commands.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """
    Keep a running sandbox as it is now, and print the snapshot's id. The sandbox runs on.

    Example: terp snapshot create sbx_01J8ZQ4T9M5V3K7C2N6R1W0XYB --name "after setup"
    """
    sandbox = Sandbox.get(sandbox_id)
    progress(f"taking a snapshot of {sandbox.id}")
    snapshot = sandbox.snapshot(name, include_secrets=include_secrets)
    if as_json:
        tell_json(snapshot.info)
    else:
        complain(
            f"saved {megabytes(snapshot.info.stored_bytes)}; {sandbox.id} stood still for"
            f" {snapshot.info.stopped_ms or 0:.0f} ms"
        )
        tell(snapshot.id)


@snapshots.command("ls")
def show(*, as_json: options.AsJson = False) -> None:
    """
    List snapshots, newest first.

    Example: terp snapshot ls --json
    """
    found = [snapshot.info for snapshot in Snapshot.list()]
    if as_json:
        tell_json(found)
    else:
        tell_table(
            ("ID", "STATUS", "TEMPLATE", "STORED", "CREATED", "NAME"),
            [
                (
                    info.id,
                    info.status,
                    info.template,
                    megabytes(info.stored_bytes),
                    f"{info.created_at:%Y-%m-%d %H:%M} UTC",
                    info.name or "-",
                )
                for info in found
            ],
        )


@snapshots.command("rm")
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID", show_default=False)], *, as_json: options.AsJson = False
) -> None:
    """
    Delete snapshots for good: their keys are destroyed. Sandboxes that were created from them run on.

    Example: terp snapshot rm snap_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    gone = [snapshot_id for snapshot_id in ids if _deleted(snapshot_id)]
    tell_ids(gone, as_json=as_json)
    if len(gone) < len(ids):
        raise typer.Exit(1)


def _deleted(snapshot_id: str) -> bool:
    """A failure is told and no more: the others are still to go."""
    try:
        Snapshot.get(snapshot_id).delete()
    except TerpError as error:
        complain(f"{snapshot_id}: {told(error)}")
        return False
    return True
