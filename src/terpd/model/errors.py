"""
Everything that can go wrong, in the words of the user.

    TerpError
    ├── InvalidRequest            a field or value is wrong; says which and what would do
    │   ├── NotPermitted          the path or act is outside what this API may touch
    │   └── NotOffered            understood, but this server does not offer it
    ├── Unauthenticated
    ├── Forbidden                 the key lacks a scope
    │   └── NetworkBlocked        the sandbox's network does not allow it
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
    │   ├── ExecTimeout
    │   └── FollowTimeout         a log was followed for as long as asked; its command runs on
    ├── ExecKilled                the command died by a signal
    ├── GuestFault                the guest is lost, silent or talks nonsense
    └── Internal                  a bug

`code` is stable and for machines; `detail` is for the user and says what to do; `context` is for the log only.
Names and codes that an orkestr client acts on: `fleet_full_retry`, `plan_limit`, `snapshot_cap_reached`,
`exec_timeout`, `timed_out`, `exec_killed`, `network_policy_blocked`, `interpreter_unavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class TerpError(Exception):
    """
    Root of all errors a caller may see.

    Args:
        detail: For the user: what happened, and what to do about it.
        context: For the operator's log only. Never secrets, code or output of guests.
        fields: Extra machine-readable members of the error body, e.g. `limit` or `signal`.
    """

    code: ClassVar[str] = "internal"
    retry_after_s: float | None = None

    def __init__(
        self,
        detail: str,
        *,
        context: Mapping[str, object] | None = None,
        fields: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.context = dict(context or {})
        self.fields = dict(fields or {})
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class InvalidRequest(TerpError):
    code = "invalid_request"


class NotPermitted(InvalidRequest):
    code = "not_permitted"


class NotOffered(InvalidRequest):
    code = "not_offered"


class Unauthenticated(TerpError):
    code = "unauthenticated"


class Forbidden(TerpError):
    code = "forbidden"


class NetworkBlocked(Forbidden):
    code = "network_policy_blocked"


class NotFound(TerpError):
    code = "not_found"


class SandboxNotFound(NotFound):
    code = "sandbox_not_found"


class TemplateNotFound(NotFound):
    code = "template_not_found"


class FileNotFound(NotFound):
    code = "file_not_found"


class ExecNotFound(NotFound):
    code = "command_not_found"


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"


class ContextNotFound(NotFound):
    code = "context_not_found"


class VolumeNotFound(NotFound):
    code = "volume_not_found"


class WebhookNotFound(NotFound):
    code = "webhook_not_found"


class LogDropped(NotFound):
    """`fields["first_offset"]` is where what is kept begins."""

    code = "log_dropped"


class Conflict(TerpError):
    code = "conflict"


class StateConflict(Conflict):
    code = "state_conflict"


class AlreadyExists(Conflict):
    code = "already_exists"


class VolumeInUse(Conflict):
    """`fields["sandbox_id"]` is who holds it."""

    code = "volume_in_use"


class SecretsInUse(Conflict):
    code = "secrets_in_use"


class InterpreterUnavailable(Conflict):
    code = "interpreter_unavailable"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class LimitExceeded(TerpError):
    code = "limit_exceeded"


class PlanLimit(LimitExceeded):
    code = "plan_limit"


class SnapshotCap(PlanLimit):
    code = "snapshot_cap_reached"


class TooLarge(LimitExceeded):
    code = "too_large"


class CapacityUnavailable(TerpError):
    code = "fleet_full_retry"
    retry_after_s = 2.0


class Unavailable(TerpError):
    code = "unavailable"
    retry_after_s = 2.0


class StorageFull(TerpError):
    code = "storage_full"
    retry_after_s = 30.0


class SavedStateFault(TerpError):
    code = "saved_state_fault"


class StateMismatch(SavedStateFault):
    code = "state_mismatch"


class StateDamaged(SavedStateFault):
    code = "state_damaged"


class DeadlineExceeded(TerpError):
    code = "deadline_exceeded"


class ExecTimeout(DeadlineExceeded):
    code = "exec_timeout"


class FollowTimeout(DeadlineExceeded):
    """`fields["offset"]` is where to go on."""

    code = "timed_out"


class ExecKilled(TerpError):
    """The command died by a signal; `fields["signal"]` is its number."""

    code = "exec_killed"


class GuestFault(TerpError):
    code = "guest_fault"


class Internal(TerpError):
    code = "internal"
