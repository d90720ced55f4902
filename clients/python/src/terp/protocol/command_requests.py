"""Requests about commands and terminals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from terp.errors import InvalidRequest
from terp.protocol.request import EVENTS, Repeat, Request, sandbox_path, segment, with_query

FOLLOW_S = 300  # that one request follows a log; then it is asked again


def exec_stream(
    sandbox_id: str,
    command: str | Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    timeout: int,
    stdin: str | bytes | None,
    secrets: Mapping[str, str],
) -> Request:
    """A sequence of arguments is quoted for the shell, so that each arrives as it is."""
    body: dict[str, object] = {
        "command": _line(command),
        "cwd": cwd,
        "env": dict(env),
        "timeout_seconds": timeout,
        "stream": True,
    }
    if stdin is not None:
        body["stdin"] = stdin if isinstance(stdin, str) else _text(stdin)
    if secrets:
        body["secrets"] = dict(secrets)
    return Request("POST", sandbox_path(sandbox_id, "exec"), body, EVENTS)


def attach(sandbox_id: str, command_id: str, *, offset: int) -> Request:
    path = sandbox_path(sandbox_id, f"exec/{segment(command_id, 'command', 'cmd')}")
    return Request("GET", with_query(path, {"offset": str(offset)}), headers=EVENTS, repeat=Repeat.IF_LOST)


# ---- in the background ---------------------------------------------------------------------------


def start(
    sandbox_id: str, command: str | Sequence[str], *, cwd: str, env: Mapping[str, str], secrets: Mapping[str, str]
) -> Request:
    body: dict[str, object] = {"command": _line(command), "cwd": cwd, "env": dict(env)}
    if secrets:
        body["secrets"] = dict(secrets)
    return Request("POST", sandbox_path(sandbox_id, "commands"), body)


def list_commands(sandbox_id: str) -> Request:
    return Request("GET", sandbox_path(sandbox_id, "commands"), repeat=Repeat.IF_LOST)


def get_command(sandbox_id: str, command_id: str) -> Request:
    return Request("GET", _command(sandbox_id, command_id), repeat=Repeat.IF_LOST)


def kill_command(sandbox_id: str, command_id: str) -> Request:
    return Request("DELETE", _command(sandbox_id, command_id), repeat=Repeat.IF_LOST)


def read_log(sandbox_id: str, command_id: str, *, offset: int) -> Request:
    target = with_query(_command(sandbox_id, command_id, "logs"), {"offset": str(offset)})
    return Request("GET", target, repeat=Repeat.IF_LOST)


def follow_log(sandbox_id: str, command_id: str, *, offset: int) -> Request:
    query = {"follow": "true", "offset": str(offset), "timeout_seconds": str(FOLLOW_S)}
    target = with_query(_command(sandbox_id, command_id, "logs"), query)
    return Request("GET", target, headers=EVENTS, repeat=Repeat.IF_LOST)


# ---- terminals -----------------------------------------------------------------------------------


def open_pty(
    sandbox_id: str, *, command: str | Sequence[str] | None, cols: int, rows: int, cwd: str, env: Mapping[str, str]
) -> Request:
    """Without a command a login shell."""
    body: dict[str, object] = {"cols": cols, "rows": rows, "cwd": cwd, "env": dict(env)}
    if command is not None:
        body["command"] = _line(command)
    return Request("POST", sandbox_path(sandbox_id, "pty"), body)


def list_ptys(sandbox_id: str) -> Request:
    return Request("GET", sandbox_path(sandbox_id, "pty"), repeat=Repeat.IF_LOST)


def get_pty(sandbox_id: str, pty_id: str) -> Request:
    return Request("GET", _pty(sandbox_id, pty_id), repeat=Repeat.IF_LOST)


def pty_output(sandbox_id: str, pty_id: str, *, offset: int) -> Request:
    target = with_query(_pty(sandbox_id, pty_id, "output"), {"offset": str(offset)})
    return Request("GET", target, headers=EVENTS, repeat=Repeat.IF_LOST)


def pty_input(sandbox_id: str, pty_id: str, *, offset: int | None) -> Request:
    """The body is what is typed. With an *offset* it may be repeated; who does so has to know that it was."""
    target = _pty(sandbox_id, pty_id, "input")
    if offset is not None:
        target = with_query(target, {"offset": str(offset)})
    return Request("POST", target, headers={"Content-Type": "application/octet-stream"})


def resize_pty(sandbox_id: str, pty_id: str, *, cols: int, rows: int) -> Request:
    body = {"cols": cols, "rows": rows}
    return Request("POST", _pty(sandbox_id, pty_id, "resize"), body, repeat=Repeat.IF_LOST)


def close_pty(sandbox_id: str, pty_id: str) -> Request:
    return Request("DELETE", _pty(sandbox_id, pty_id), repeat=Repeat.IF_LOST)


# ---- environment ---------------------------------------------------------------------------------


def list_env(sandbox_id: str) -> Request:
    return Request("GET", sandbox_path(sandbox_id, "env"), repeat=Repeat.IF_LOST)


def change_env(sandbox_id: str, *, to_set: Mapping[str, str], to_unset: Sequence[str]) -> Request:
    body = {"set": dict(to_set), "unset": list(to_unset)}
    return Request("PATCH", sandbox_path(sandbox_id, "env"), body, repeat=Repeat.IF_LOST)


def _command(sandbox_id: str, command_id: str, rest: str = "") -> str:
    path = sandbox_path(sandbox_id, f"commands/{segment(command_id, 'command', 'cmd')}")
    return f"{path}/{rest}" if rest else path


def _pty(sandbox_id: str, pty_id: str, rest: str = "") -> str:
    path = sandbox_path(sandbox_id, f"pty/{segment(pty_id, 'terminal', 'cmd')}")
    return f"{path}/{rest}" if rest else path


def _line(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _text(stdin: bytes) -> str:
    try:
        return stdin.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "stdin must be UTF-8. For other bytes write a file, and redirect it: command < /tmp/input"
        ) from error
