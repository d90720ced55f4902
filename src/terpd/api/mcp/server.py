"""The tools of one server, all together."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer

from terpd import __version__
from terpd.api.mcp import files, lifecycle, running
from terpd.control.services import Services

INSTRUCTIONS = """\
Terp gives you throw-away computers: real virtual machines with Linux, root, and a network only if you ask for one.

Create one with create_sandbox and use its id in the other tools. Work in /workspace. run_code keeps variables between \
calls and shows plots; run_shell is a shell. A sandbox ends by itself at expires_at: pause_sandbox keeps it, with its \
memory and processes, and resume_sandbox goes on where it was. fork_sandbox tries several things from one state. \
terminate_sandbox when you are done: nothing of it is left then.

network "off" reaches nothing, "restricted" reaches package registries, GitHub and the like over HTTPS, or the names \
in allow_domains; egress_log says what was blocked and why."""


def build_server(services: Services) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer(
        "terp", title="Terp sandboxes", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    lifecycle.register(server, services)
    running.register(server, services)
    files.register(server, services)
    return server
