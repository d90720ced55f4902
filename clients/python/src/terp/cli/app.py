"""The commands put together, and what their failures look like."""

from __future__ import annotations

import os
import sys

import typer

from terp import TerpError
from terp.cli import (
    background,
    code,
    commands,
    environment,
    figures,
    links,
    network,
    sandboxes,
    saved,
    shell,
    transfer,
    volumes,
    webhooks,
)
from terp.cli import login as logins
from terp.cli import mcp as tools
from terp.cli.interrupts import interrupts
from terp.cli.terminal import complain, told

app = typer.Typer(
    name="terp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
PASSED_ON = {"allow_interspersed_args": False, "ignore_unknown_options": True}  # what follows belongs to the program

app.command("run", context_settings=PASSED_ON)(commands.run)
app.command("exec", context_settings=PASSED_ON)(commands.execute)
app.command("attach")(commands.attach)
app.command("shell")(shell.shell)
app.command("start", context_settings=PASSED_ON)(background.start)
app.command("ps")(background.show)
app.command("logs")(background.logs)
app.command("kill")(background.kill)
app.command("code")(code.code)
app.command("create")(sandboxes.create)
app.command("ls")(sandboxes.show)
app.command("rm")(sandboxes.remove)
app.command("pause")(saved.pause)
app.command("resume")(saved.resume)
app.command("fork")(saved.fork)
app.add_typer(saved.snapshots, name="snapshot")
app.command("egress")(network.egress)
app.add_typer(network.policies, name="network")
app.command("url")(network.url)
app.command("cp")(transfer.copy)
app.command("presign")(links.presign)
app.command("mcp")(tools.mcp)
app.command("watch")(links.watch)
app.add_typer(environment.variables, name="env")
app.add_typer(volumes.volumes, name="volume")
app.add_typer(webhooks.webhooks, name="webhook")
app.command("top")(figures.top)
app.command("usage")(figures.consumed)
app.command("login")(logins.login)


@app.callback()
def terp() -> None:
    """
    Sandboxes for AI agents: a real virtual machine from one command.

    The server and the key come from TERP_BASE_URL (http://127.0.0.1:7070 if unset) and TERP_API_KEY, else from what
    terp login has kept.

    Example: terp run --template python-3.12 script.py
    """


def run() -> None:
    interrupts.install()
    logins.use_kept(os.environ)
    try:
        app()
    except TerpError as error:
        complain(told(error))
        sys.exit(1)
    except OSError as error:  # of a local file; the SDK raises none
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(1)
