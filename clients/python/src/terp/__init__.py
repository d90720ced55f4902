"""
Sandboxes for AI agents: the client of a Terp server.

    from terp import Sandbox

    with Sandbox.create(template="python-3.12") as sbx:
        print(sbx.exec("uname -a").stdout)

`AsyncSandbox` and `AsyncTerp` are the same with `await`. All public names are here and nowhere else.
"""

from terp._async.client import AsyncTerp
from terp._async.files import AsyncFiles
from terp._async.sandbox import AsyncSandbox
from terp._sync.client import Terp
from terp._sync.files import Files
from terp._sync.sandbox import Sandbox
from terp.errors import (
    AlreadyExists,
    BadReply,
    CapacityUnavailable,
    CommandFailed,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    ExecKilled,
    ExecNotFound,
    ExecTimeout,
    FileNotFound,
    Forbidden,
    GuestFault,
    IdempotencyMismatch,
    Internal,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    NotOffered,
    NotPermitted,
    PartialWrite,
    PlanLimit,
    RequestTimeout,
    SandboxNotFound,
    StateConflict,
    TemplateNotFound,
    TerpError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from terp.models import (
    ExecEvent,
    ExecResult,
    Exited,
    FileInfo,
    Limits,
    SandboxInfo,
    SizeInfo,
    Started,
    Stderr,
    Stdout,
)

__all__ = [
    "AlreadyExists",
    "AsyncFiles",
    "AsyncSandbox",
    "AsyncTerp",
    "BadReply",
    "CapacityUnavailable",
    "CommandFailed",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ExecEvent",
    "ExecKilled",
    "ExecNotFound",
    "ExecResult",
    "ExecTimeout",
    "Exited",
    "FileInfo",
    "FileNotFound",
    "Files",
    "Forbidden",
    "GuestFault",
    "IdempotencyMismatch",
    "Internal",
    "InvalidRequest",
    "LimitExceeded",
    "Limits",
    "NotFound",
    "NotOffered",
    "NotPermitted",
    "PartialWrite",
    "PlanLimit",
    "RequestTimeout",
    "Sandbox",
    "SandboxInfo",
    "SandboxNotFound",
    "SizeInfo",
    "Started",
    "StateConflict",
    "Stderr",
    "Stdout",
    "TemplateNotFound",
    "Terp",
    "TerpError",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
]
