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
from terp._async.snapshot import AsyncSnapshot
from terp._sync.client import Terp
from terp._sync.files import Files
from terp._sync.sandbox import Sandbox
from terp._sync.snapshot import Snapshot
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
    SavedStateFault,
    SnapshotCap,
    SnapshotNotFound,
    StateConflict,
    StateDamaged,
    StateMismatch,
    StorageFull,
    TemplateNotFound,
    TerpError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from terp.models import (
    DeletionReceipt,
    ExecEvent,
    ExecResult,
    Exited,
    FileInfo,
    Limits,
    Paused,
    SandboxInfo,
    SizeInfo,
    SnapshotInfo,
    Started,
    Stderr,
    Stdout,
)

__all__ = [
    "AlreadyExists",
    "AsyncFiles",
    "AsyncSandbox",
    "AsyncSnapshot",
    "AsyncTerp",
    "BadReply",
    "CapacityUnavailable",
    "CommandFailed",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DeletionReceipt",
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
    "Paused",
    "PlanLimit",
    "RequestTimeout",
    "Sandbox",
    "SandboxInfo",
    "SandboxNotFound",
    "SavedStateFault",
    "SizeInfo",
    "Snapshot",
    "SnapshotCap",
    "SnapshotInfo",
    "SnapshotNotFound",
    "Started",
    "StateConflict",
    "StateDamaged",
    "StateMismatch",
    "Stderr",
    "Stdout",
    "StorageFull",
    "TemplateNotFound",
    "Terp",
    "TerpError",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
]
