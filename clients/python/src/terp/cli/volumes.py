"""`terp volume …`: disks that outlive sandboxes."""

from __future__ import annotations

from typing import Annotated

import typer

from terp import TerpError, Volume, VolumeInfo
from terp.cli import options
from terp.cli.terminal import complain, tell, tell_ids, tell_json, tell_table, told

VolumeArgument = Annotated[str, typer.Argument(metavar="VOLUME", help="Its name or id.")]
Days = Annotated[
    int | None, typer.Option("--days", min=1, max=3650, help="Days after its creation that it is deleted.")
]
Hours = Annotated[int | None, typer.Option("--hours", min=1, max=24, help="The same, in hours.")]

volumes = typer.Typer(
    no_args_is_help=True,
    help="""
Disks that outlive sandboxes, at /persist of the one that holds them.

Example: terp volume create models --size-gb 20 && terp create --volume models
""",
)


@volumes.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Unique among your volumes.")],
    *,
    size_gb: Annotated[float, typer.Option("--size-gb", min=0.25, help="A ceiling, taken as it is written.")] = 10,
    days: Days = None,
    hours: Hours = None,
    region: Annotated[str | None, typer.Option(help="Where it is.", show_default="the server's own")] = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Make a volume and print its id.

    Example: terp volume create models --size-gb 20 --days 30
    """
    _one_of(days, hours)
    volume = Volume.create(name, size_gb, max_lifetime_days=days, max_lifetime_hours=hours, region=region)
    _tell(volume, as_json=as_json)


@volumes.command("ls")
def show(*, as_json: options.AsJson = False) -> None:
    """
    List volumes.

    Example: terp volume ls --json
    """
    found = [volume.info for volume in Volume.list()]
    if as_json:
        tell_json(found)
    else:
        tell_table(("ID", "NAME", "SIZE", "STATUS", "SANDBOX", "EXPIRES"), [_row(info) for info in found])


@volumes.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="VOLUME", show_default=False)],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    Delete volumes for good: their keys are destroyed.

    Example: terp volume rm models
    """
    gone = [volume_id for name in names if (volume_id := _deleted(name))]
    tell_ids(gone, as_json=as_json)
    if len(gone) < len(names):
        raise typer.Exit(1)


@volumes.command("update")
def update(
    name: VolumeArgument,
    *,
    days: Days = None,
    hours: Hours = None,
    forever: Annotated[bool, typer.Option("--forever", help="It stays until terp volume rm.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """
    Change when a volume is deleted by itself, counted from its creation.

    Example: terp volume update models --forever
    """
    if _one_of(days, hours, forever or None) == 0:
        raise typer.BadParameter("give one of --days, --hours and --forever", param_hint="--days")
    volume = Volume.get(name)
    if hours is not None:
        volume.update(max_lifetime_hours=hours)
    else:
        volume.update(max_lifetime_days=days)
    _tell(volume, as_json=as_json)


@volumes.command("move")
def move(
    name: VolumeArgument,
    region: Annotated[str, typer.Argument(metavar="REGION")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """
    Move a volume that no sandbox holds to another region.

    Example: terp volume move models eu-1
    """
    volume = Volume.get(name)
    volume.move(region)
    _tell(volume, as_json=as_json)


def _one_of(*given: object) -> int:
    number = sum(value is not None for value in given)
    if number > 1:
        raise typer.BadParameter("give only one of them", param_hint="--days / --hours")
    return number


def _deleted(name: str) -> str | None:
    """Return its id. A failure is told and no more: the others are still to go."""
    try:
        volume = Volume.get(name)
        volume.delete()
    except TerpError as error:
        complain(f"{name}: {told(error)}")
        return None
    return volume.id


def _tell(volume: Volume, *, as_json: bool) -> None:
    if as_json:
        tell_json(volume.info)
    else:
        tell(volume.id)


def _row(info: VolumeInfo) -> tuple[str, ...]:
    expires = "-" if info.expires_at is None else f"{info.expires_at:%Y-%m-%d %H:%M} UTC"
    return info.id, info.name, f"{info.size_mb} MiB", info.status, info.attached_sandbox_id or "-", expires
