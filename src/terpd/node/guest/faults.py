"""What a guest's words become: statuses as errors of the model, its text quoted, escaped and bounded."""

from __future__ import annotations

from collections.abc import Mapping

from terpd.model.errors import (
    AlreadyExists,
    Conflict,
    ExecNotFound,
    FileNotFound,
    GuestFault,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    NotPermitted,
    SecretsInUse,
    TerpError,
    Unavailable,
)
from terpd.node.guest.agent_pb2 import Status

MAX_QUOTE = 200

_ERRORS: Mapping[int, tuple[type[TerpError], str]] = {
    Status.INVALID: (InvalidRequest, "The guest cannot do this"),
    Status.EXISTS: (AlreadyExists, "It exists already"),
    Status.NOT_PERMITTED: (NotPermitted, "Not permitted in the sandbox; write below /workspace, /tmp or /persist"),
    Status.IS_DIRECTORY: (InvalidRequest, "It is a directory"),
    Status.NOT_DIRECTORY: (InvalidRequest, "A part of the path is not a directory"),
    Status.NOT_EMPTY: (Conflict, "The directory is not empty"),
    Status.NO_SPACE: (LimitExceeded, "The sandbox has no disk space left for this; remove files and try again"),
    Status.EXHAUSTED: (LimitExceeded, "The sandbox has no memory, processes or descriptors left for this"),
    Status.BUSY: (Conflict, "Something that runs in the sandbox stands in the way"),
    Status.UNAVAILABLE: (Unavailable, "The guest is not awake yet; try again"),
}
_NOT_FOUND: Mapping[str, tuple[type[TerpError], str]] = {
    "exec_start": (InvalidRequest, "The working directory or program does not exist"),
    "exec_attach": (ExecNotFound, "No such command, or it ended too long ago"),
    "exec_signal": (ExecNotFound, "No such command, or it ended too long ago"),
    "exec_input": (ExecNotFound, "No such command, or it ended too long ago"),
    "exec_resize": (ExecNotFound, "No such command, or it ended too long ago"),
    "exec_log": (ExecNotFound, "No such command, or it ended too long ago"),
    "file_read": (FileNotFound, "No such file"),
    "file_write": (FileNotFound, "No such file or directory"),
    "file_list": (FileNotFound, "No such directory"),
    "file_stat": (FileNotFound, "No such file or directory"),
    "file_mkdir": (FileNotFound, "The parent directory does not exist"),
    "file_move": (FileNotFound, "No such file or directory"),
    "file_remove": (FileNotFound, "No such file or directory"),
    "file_watch": (FileNotFound, "No such file or directory"),
    "file_archive": (FileNotFound, "No such file or directory"),
    "file_extract": (FileNotFound, "No such file or directory"),
    "connect": (NotFound, "No program of the sandbox listens for this service"),
}
# Of calls for which a status means something of its own.
_OF_CALLS: Mapping[tuple[str, int], tuple[type[TerpError], str]] = {
    ("exec_input", Status.EXHAUSTED): (LimitExceeded, "The program does not read what is typed; try again"),
    ("env_change", Status.EXHAUSTED): (LimitExceeded, "The sandbox has too many variables, or they are too long"),
    ("freeze", Status.BUSY): (
        SecretsInUse,
        "A command that was given secrets runs and would be in the copy; wait for its end, or set include_secrets",
    ),
}
_FAILED = (GuestFault, "The guest failed")


def quote(text: str) -> str:
    """Return *text* as printable ASCII in quotes, at most a few hundred characters of it."""
    cut = text[:MAX_QUOTE]
    escaped = cut.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"' + ("…" if len(text) > len(cut) else "")


def error_of(call: str, status: Status, subject: str = "") -> TerpError:
    """
    Return the error that *status*, which is not OK, means for *call*. *subject* is the path or id the caller named.
    """
    if status.code == Status.NOT_FOUND:
        kind, sentence = _NOT_FOUND.get(call, _FAILED)
    elif (call, status.code) in _OF_CALLS:
        kind, sentence = _OF_CALLS[call, status.code]
    else:
        kind, sentence = _ERRORS.get(status.code, _FAILED)
    detail = f"{sentence}: {quote(subject)}" if subject else sentence
    if status.message:
        detail += f" (guest: {quote(status.message)})"
    return kind(detail, context={"call": call, "status": int(status.code)})


def bad_reply(call: str, what: str) -> GuestFault:
    """Return the fault for a reply of the right kind whose content cannot be true."""
    return GuestFault("The guest gave an answer that cannot be true", context={"call": call, "reply": what})
