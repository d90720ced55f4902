"""`terp webhook …`: what happens, told to an address of yours."""

from __future__ import annotations

from typing import Annotated

import typer

from terp import Delivery, TerpError, Webhook, WebhookInfo, WebhookNotFound
from terp.cli import options
from terp.cli.terminal import complain, tell, tell_ids, tell_json, tell_table, told

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.")]

webhooks = typer.Typer(
    no_args_is_help=True,
    help="""
Have what happens to sandboxes told to an address of yours.

Example: terp webhook create https://example.com/hook --event sandbox.terminated
""",
)


@webhooks.command("create")
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="http or https, on a public address.")],
    *,
    events: Annotated[
        list[str] | None,
        typer.Option("--event", help="Only those, e.g. sandbox.created. Repeatable.", show_default="all"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """
    Make a webhook; print its id and, this once, the secret that its deliveries are signed with.

    Example: terp webhook create https://example.com/hook --event sandbox.created --event sandbox.expired
    """
    webhook = Webhook.create(url, events or None)
    if as_json:
        tell_json(webhook.info)
    else:
        tell(f"{webhook.id}  {webhook.secret}")


@webhooks.command("ls")
def show(*, as_json: options.AsJson = False) -> None:
    """
    List webhooks.

    Example: terp webhook ls
    """
    found = [webhook.info for webhook in Webhook.list()]
    if as_json:
        tell_json(found)
    else:
        tell_table(("ID", "ACTIVE", "FAILURES", "URL", "EVENTS", "LAST ERROR"), [_row(info) for info in found])


@webhooks.command("enable")
def enable(webhook_id: WebhookId, *, as_json: options.AsJson = False) -> None:
    """
    Switch a webhook on again that failed too often.

    Example: terp webhook enable wh_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    webhook = _find(webhook_id)
    webhook.enable()
    if as_json:
        tell_json(webhook.info)
    else:
        tell(webhook.id)


@webhooks.command("rm")
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="WEBHOOK", show_default=False)], *, as_json: options.AsJson = False
) -> None:
    """
    Delete webhooks: nothing more is told to them.

    Example: terp webhook rm wh_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    gone = [webhook_id for webhook_id in ids if _deleted(webhook_id)]
    tell_ids(gone, as_json=as_json)
    if len(gone) < len(ids):
        raise typer.Exit(1)


@webhooks.command("deliveries")
def deliveries(webhook_id: WebhookId, *, as_json: options.AsJson = False) -> None:
    """
    List what a webhook was told last and how that went, newest first.

    Example: terp webhook deliveries wh_01J8ZQ4T9M5V3K7C2N6R1W0XYB
    """
    found = _find(webhook_id).deliveries()
    if as_json:
        tell_json(found)
    else:
        tell_table(("AT", "EVENT", "STATUS", "TRIES", "ANSWER", "DELIVERY"), [_delivery(each) for each in found])


def _find(webhook_id: str) -> Webhook:
    for webhook in Webhook.list():
        if webhook.id == webhook_id:
            return webhook
    raise WebhookNotFound(f"There is no webhook of that id: {webhook_id}")


def _deleted(webhook_id: str) -> bool:
    """A failure is told and no more: the others are still to go."""
    try:
        _find(webhook_id).delete()
    except TerpError as error:
        complain(f"{webhook_id}: {told(error)}")
        return False
    return True


def _row(info: WebhookInfo) -> tuple[str, ...]:
    events = "all" if info.event_types is None else ",".join(info.event_types)
    return (
        info.id,
        "yes" if info.active else "no",
        str(info.consecutive_failures),
        info.url,
        events,
        info.last_error or "-",
    )


def _delivery(delivery: Delivery) -> tuple[str, ...]:
    answer = str(delivery.response_status) if delivery.response_status else delivery.error or "-"
    at = f"{delivery.created_at:%Y-%m-%d %H:%M:%S} UTC"
    return at, delivery.type, delivery.status, str(delivery.tries), answer, delivery.id
