"""
Everything that can go wrong, under one root.

    TerpError
    ├── InvalidRequest            a field or value is wrong; says which and what would do
    │   ├── NotPermitted          the path or act is outside what the API may touch
    │   └── NotOffered            understood, but this server does not offer it
    ├── Unauthenticated           no key, or one the server does not know
    ├── Forbidden                 the key lacks a scope
    │   └── NetworkBlocked        the sandbox's network policy forbids it
    ├── NotFound                  never existed, or another tenant's
    │   ├── SandboxNotFound  TemplateNotFound  FileNotFound  ExecNotFound  SnapshotNotFound
    │   ├── ContextNotFound  VolumeNotFound  WebhookNotFound
    │   └── LogDropped            that part of a log is not kept any more; says from where it is
    ├── Conflict
    │   ├── StateConflict         says the current state and what would do
    │   ├── AlreadyExists
    │   ├── VolumeInUse           says by which sandbox
    │   ├── SecretsInUse          a command that was given secrets runs, and a snapshot would hold them
    │   ├── InterpreterUnavailable  the template has no kernels, or they are gone
    │   └── IdempotencyMismatch
    ├── LimitExceeded             says limit and use
    │   ├── PlanLimit             the tenant's quota
    │   │   └── SnapshotCap       of paused sandboxes or of named snapshots
    │   └── TooLarge
    ├── CapacityUnavailable       nothing was created or changed; try again
    ├── Unavailable               a part of the service is away; try again
    ├── StorageFull               the server's disk has no room for it; nothing was changed
    ├── SavedStateFault           a saved machine cannot be used; nothing was changed
    │   ├── StateMismatch         it was made with another processor, monitor, kernel or template; says which
    │   └── StateDamaged          a part of it is missing or is not what was saved; says which
    ├── DeadlineExceeded          says which step, waited how long
    │   ├── ExecTimeout           the command ran into its timeout; holds its output so far
    │   └── FollowTimeout         a log was followed for as long as asked; its command runs on
    ├── ExecKilled                the command died by a signal; holds its output so far
    ├── CommandFailed             `ExecResult.check()`: the exit code is not 0
    ├── CodeFailed                `Execution.check()`: the code raised, or ran into its timeout
    ├── PartialWrite              `files.write_many`: some files were not written, says which
    ├── GuestFault                the guest is lost, silent or talks nonsense
    ├── Internal                  a bug in the server
    ├── ConnectionFailed          the server was not reached, or the connection broke
    ├── RequestTimeout            the server was silent for too long
    └── BadReply                  what answered does not speak the Terp API

The names down to Internal are the server's own; a reply is classified by its `code` and, without a known one, by
its HTTP status. No other library's exception leaves this package; cancellation passes through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from terp.models import ExecResult, Execution


class TerpError(Exception):
    """
    Root of all errors of this package.

    Attributes:
        code: Stable and for machines, e.g. `sandbox_not_found`.
        detail: What happened, and what to do about it.
        status: HTTP status of the reply; None when there was no reply.
        request_id: What the server's log knows the request by; None when there was no reply.
        retry_after: Seconds after which another attempt makes sense; None when the server did not say.
        retryable: Whether the same call can succeed later without a change.
        fields: Further machine-readable members of the error body, e.g. `limit`.
    """

    code: str = "error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.fields = dict(fields or {})


class InvalidRequest(TerpError):
    """A field or value is wrong; `detail` says which and what would do."""

    code = "invalid_request"


class NotPermitted(InvalidRequest):
    """The path or act is outside what the API may touch."""

    code = "not_permitted"


class NotOffered(InvalidRequest):
    """Understood, but this server does not offer it."""

    code = "not_offered"


class Unauthenticated(TerpError):
    """No API key, or one that the server does not know."""

    code = "unauthenticated"


class Forbidden(TerpError):
    """The API key lacks a scope."""

    code = "forbidden"


class NetworkBlocked(Forbidden):
    """The sandbox's network policy forbids it, e.g. a preview of one whose network is `off`."""

    code = "network_policy_blocked"


class NotFound(TerpError):
    """It never existed, or belongs to another tenant."""

    code = "not_found"


class SandboxNotFound(NotFound):
    """No such sandbox."""

    code = "sandbox_not_found"


class TemplateNotFound(NotFound):
    """No such template is built on the server."""

    code = "template_not_found"


class FileNotFound(NotFound):
    """No such file in the sandbox."""

    code = "file_not_found"


class ExecNotFound(NotFound):
    """No such command in the sandbox."""

    code = "command_not_found"


class SnapshotNotFound(NotFound):
    """No such snapshot, or it was deleted."""

    code = "snapshot_not_found"


class ContextNotFound(NotFound):
    """No such code context in the sandbox."""

    code = "context_not_found"


class VolumeNotFound(NotFound):
    """No such volume, or it was deleted."""

    code = "volume_not_found"


class WebhookNotFound(NotFound):
    """No such webhook."""

    code = "webhook_not_found"


class LogDropped(NotFound):
    """
    That part of a command's log is not kept any more.

    Attributes:
        first_offset: Where what is kept begins; None when the server did not say.
    """

    code = "log_dropped"

    @property
    def first_offset(self) -> int | None:
        offset = self.fields.get("first_offset")
        return offset if isinstance(offset, int) else None


class Conflict(TerpError):
    """Not possible in the present state."""

    code = "conflict"


class StateConflict(Conflict):
    """The sandbox is in another state; `detail` says in which and what would do."""

    code = "state_conflict"


class AlreadyExists(Conflict):
    """Something of that name exists."""

    code = "already_exists"


class VolumeInUse(Conflict):
    """
    A sandbox holds the volume, running or paused.

    Attributes:
        sandbox_id: Which one; None when the server did not say.
    """

    code = "volume_in_use"

    @property
    def sandbox_id(self) -> str | None:
        holder = self.fields.get("sandbox_id")
        return holder if isinstance(holder, str) else None


class SecretsInUse(Conflict):
    """
    A command that was given secrets runs, and a snapshot or fork would hold them.

    Wait for the command, or say `include_secrets=True`.
    """

    code = "secrets_in_use"


class InterpreterUnavailable(Conflict):
    """The sandbox's template has no kernels to run code in, or they are gone."""

    code = "interpreter_unavailable"


class IdempotencyMismatch(Conflict):
    """An idempotency key was used before, for another request."""

    code = "idempotency_mismatch"


class LimitExceeded(TerpError):
    """A limit is reached; `detail` says which, and how much is used."""

    code = "limit_exceeded"


class PlanLimit(LimitExceeded):
    """The tenant's quota is used up."""

    code = "plan_limit"


class SnapshotCap(PlanLimit):
    """The tenant keeps as many paused sandboxes, or named snapshots, as it may; `detail` says which."""

    code = "snapshot_cap_reached"


class TooLarge(LimitExceeded):
    """More bytes than may be moved in one piece."""

    code = "too_large"


class CapacityUnavailable(TerpError):
    """The server is full. Nothing was created or changed."""

    code = "fleet_full_retry"
    retryable = True


class Unavailable(TerpError):
    """A part of the service is away."""

    code = "unavailable"
    retryable = True


class StorageFull(TerpError):
    """The server's disk has no room for it. Nothing was changed: what was to be saved runs on."""

    code = "storage_full"
    retryable = True


class SavedStateFault(TerpError):
    """A paused sandbox or a snapshot cannot be used. It stays as it is."""

    code = "saved_state_fault"


class StateMismatch(SavedStateFault):
    """It was saved with another processor, machine monitor, kernel, template or server key; `detail` says which."""

    code = "state_mismatch"


class StateDamaged(SavedStateFault):
    """A part of what was saved is missing or was changed; `detail` says which."""

    code = "state_damaged"


class DeadlineExceeded(TerpError):
    """A step took longer than it may; `detail` says which."""

    code = "deadline_exceeded"


class ExecTimeout(DeadlineExceeded):
    """
    The command ran into its timeout and was ended: SIGTERM, 2 s later SIGKILL.

    Attributes:
        stdout, stderr: What it had written until then; empty when it came from `exec_stream`.
    """

    code = "exec_timeout"
    stdout: str = ""
    stderr: str = ""


class FollowTimeout(DeadlineExceeded):
    """A log was followed for as long as asked, and its command runs on. `Command.stream` then asks again by itself."""

    code = "timed_out"


class ExecKilled(TerpError):
    """
    The command died by a signal that it did not get from its timeout.

    Attributes:
        signal: Number of the signal, 9 also when the guest ran out of memory; None when the server did not say.
        stdout, stderr: What it had written until then; empty when it came from `exec_stream`.
    """

    code = "exec_killed"
    stdout: str = ""
    stderr: str = ""

    @property
    def signal(self) -> int | None:
        signal = self.fields.get("signal")
        return signal if isinstance(signal, int) else None


class CommandFailed(TerpError):
    """
    Raised by `ExecResult.check()` alone: the command ended with an exit code other than 0.

    Attributes:
        result: The whole result.
    """

    code = "command_failed"

    def __init__(self, result: ExecResult) -> None:
        last_words = result.stderr.strip().splitlines()[-1:]
        super().__init__(": ".join([f"The command ended with exit code {result.exit_code}", *last_words]))
        self.result = result

    def __reduce__(self) -> tuple[type[CommandFailed], tuple[ExecResult]]:
        return type(self), (self.result,)  # the default passes the message, and breaks a process pool


class CodeFailed(TerpError):
    """
    Raised by `Execution.check()` alone: the code raised something, or ran into its timeout.

    Attributes:
        execution: All that came of it.
    """

    code = "code_failed"

    def __init__(self, execution: Execution) -> None:
        error = execution.error
        super().__init__(f"{error.name}: {error.value}" if error else "The code ran into its timeout")
        self.execution = execution

    def __reduce__(self) -> tuple[type[CodeFailed], tuple[Execution]]:
        return type(self), (self.execution,)


class PartialWrite(TerpError):
    """
    Some files of `files.write_many` were not written; all others were.

    Attributes:
        failed: What went wrong, by path.
    """

    code = "partial_write"

    def __init__(self, failed: Mapping[str, TerpError]) -> None:
        path, first = next(iter(failed.items()))
        super().__init__(f"Files not written: {len(failed)}. The first, {path}: {first.detail}")
        self.failed = dict(failed)

    def __reduce__(self) -> tuple[type[PartialWrite], tuple[dict[str, TerpError]]]:
        return type(self), (self.failed,)


class GuestFault(TerpError):
    """The guest is lost, silent or talks nonsense. Start another sandbox."""

    code = "guest_fault"


class Internal(TerpError):
    """A bug in the server; its log has more under `request_id`."""

    code = "internal"


class ConnectionFailed(TerpError):
    """
    The server was not reached, or the connection broke.

    Attributes:
        sent: False when nothing was sent, so that the server cannot have done anything.
    """

    code = "connection_failed"
    retryable = True
    sent: bool = True


class RequestTimeout(TerpError):
    """The server was silent for longer than the client's timeout. It may have done what was asked."""

    code = "request_timeout"
    retryable = True


class BadReply(TerpError):
    """What answered does not speak the Terp API. Check the base URL."""

    code = "bad_reply"
