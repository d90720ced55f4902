/** Errors that the server names, by `code`. */

import { TerpError } from "./base.js";

/** A field or value is wrong; `detail` says which and what would do. */
export class InvalidRequest extends TerpError {
  static override readonly code: string = "invalid_request";
  override readonly name: string = "InvalidRequest";
}

/** The path or act is outside what the API may touch. */
export class NotPermitted extends InvalidRequest {
  static override readonly code: string = "not_permitted";
  override readonly name: string = "NotPermitted";
}

/** Understood, but this server does not offer it. */
export class NotOffered extends InvalidRequest {
  static override readonly code: string = "not_offered";
  override readonly name: string = "NotOffered";
}

/** No API key, or one that the server does not know. */
export class Unauthenticated extends TerpError {
  static override readonly code: string = "unauthenticated";
  override readonly name: string = "Unauthenticated";
}

/** The API key lacks a scope. */
export class Forbidden extends TerpError {
  static override readonly code: string = "forbidden";
  override readonly name: string = "Forbidden";
}

/** The sandbox's network policy forbids it, e.g. a preview of one whose network is `off`. */
export class NetworkBlocked extends Forbidden {
  static override readonly code: string = "network_policy_blocked";
  override readonly name: string = "NetworkBlocked";
}

/** It never existed, or belongs to another tenant. */
export class NotFound extends TerpError {
  static override readonly code: string = "not_found";
  override readonly name: string = "NotFound";
}

/** No such sandbox. */
export class SandboxNotFound extends NotFound {
  static override readonly code: string = "sandbox_not_found";
  override readonly name: string = "SandboxNotFound";
}

/** No such template is built on the server. */
export class TemplateNotFound extends NotFound {
  static override readonly code: string = "template_not_found";
  override readonly name: string = "TemplateNotFound";
}

/** No such file in the sandbox. */
export class FileNotFound extends NotFound {
  static override readonly code: string = "file_not_found";
  override readonly name: string = "FileNotFound";
}

/** No such command in the sandbox. */
export class ExecNotFound extends NotFound {
  static override readonly code: string = "command_not_found";
  override readonly name: string = "ExecNotFound";
}

/** No such snapshot, or it was deleted. */
export class SnapshotNotFound extends NotFound {
  static override readonly code: string = "snapshot_not_found";
  override readonly name: string = "SnapshotNotFound";
}

/** No such code context in the sandbox. */
export class ContextNotFound extends NotFound {
  static override readonly code: string = "context_not_found";
  override readonly name: string = "ContextNotFound";
}

/** No such volume, or it was deleted. */
export class VolumeNotFound extends NotFound {
  static override readonly code: string = "volume_not_found";
  override readonly name: string = "VolumeNotFound";
}

/** No such webhook, or it was deleted. */
export class WebhookNotFound extends NotFound {
  static override readonly code: string = "webhook_not_found";
  override readonly name: string = "WebhookNotFound";
}

/** That part of a log is not kept any more; `firstOffset` says from where it is. */
export class LogDropped extends NotFound {
  static override readonly code: string = "log_dropped";
  override readonly name: string = "LogDropped";

  /** Where what is kept begins; undefined when the server did not say. */
  get firstOffset(): number | undefined {
    return numberIn(this.fields, "first_offset");
  }
}

/** Not possible in the present state. */
export class Conflict extends TerpError {
  static override readonly code: string = "conflict";
  override readonly name: string = "Conflict";
}

/** The sandbox is in another state; `detail` says in which and what would do. */
export class StateConflict extends Conflict {
  static override readonly code: string = "state_conflict";
  override readonly name: string = "StateConflict";
}

/** Something of that name exists. */
export class AlreadyExists extends Conflict {
  static override readonly code: string = "already_exists";
  override readonly name: string = "AlreadyExists";
}

/** A sandbox holds the volume, running or paused. */
export class VolumeInUse extends Conflict {
  static override readonly code: string = "volume_in_use";
  override readonly name: string = "VolumeInUse";

  /** Which one; undefined when the server did not say. */
  get sandboxId(): string | undefined {
    const holder = this.fields.sandbox_id;
    return typeof holder === "string" ? holder : undefined;
  }
}

/**
 * A command that was given secrets runs, and a snapshot or fork would hold them. Wait for the command, or say
 * `includeSecrets: true`.
 */
export class SecretsInUse extends Conflict {
  static override readonly code: string = "secrets_in_use";
  override readonly name: string = "SecretsInUse";
}

/** The sandbox's template runs no code, or its kernels are gone. */
export class InterpreterUnavailable extends Conflict {
  static override readonly code: string = "interpreter_unavailable";
  override readonly name: string = "InterpreterUnavailable";
}

/** An idempotency key was used before, for another request. */
export class IdempotencyMismatch extends Conflict {
  static override readonly code: string = "idempotency_mismatch";
  override readonly name: string = "IdempotencyMismatch";
}

/** A limit is reached; `detail` says which, and how much is used. */
export class LimitExceeded extends TerpError {
  static override readonly code: string = "limit_exceeded";
  override readonly name: string = "LimitExceeded";
}

/** The tenant's quota is used up. */
export class PlanLimit extends LimitExceeded {
  static override readonly code: string = "plan_limit";
  override readonly name: string = "PlanLimit";
}

/** The tenant keeps as many paused sandboxes, or named snapshots, as it may; `detail` says which. */
export class SnapshotCap extends PlanLimit {
  static override readonly code: string = "snapshot_cap_reached";
  override readonly name: string = "SnapshotCap";
}

/** More bytes than may be moved in one piece. */
export class TooLarge extends LimitExceeded {
  static override readonly code: string = "too_large";
  override readonly name: string = "TooLarge";
}

/** The server is full. Nothing was created or changed. */
export class CapacityUnavailable extends TerpError {
  static override readonly code: string = "fleet_full_retry";
  override readonly name: string = "CapacityUnavailable";
  override readonly retryable: boolean = true;
}

/** A part of the service is away. */
export class Unavailable extends TerpError {
  static override readonly code: string = "unavailable";
  override readonly name: string = "Unavailable";
  override readonly retryable: boolean = true;
}

/** The server's disk has no room for it. Nothing was changed: what was to be saved runs on. */
export class StorageFull extends TerpError {
  static override readonly code: string = "storage_full";
  override readonly name: string = "StorageFull";
  override readonly retryable: boolean = true;
}

/** A paused sandbox or a snapshot cannot be used. It stays as it is. */
export class SavedStateFault extends TerpError {
  static override readonly code: string = "saved_state_fault";
  override readonly name: string = "SavedStateFault";
}

/** It was saved with another processor, machine monitor, kernel, template or server key; `detail` says which. */
export class StateMismatch extends SavedStateFault {
  static override readonly code: string = "state_mismatch";
  override readonly name: string = "StateMismatch";
}

/** A part of what was saved is missing or was changed; `detail` says which. */
export class StateDamaged extends SavedStateFault {
  static override readonly code: string = "state_damaged";
  override readonly name: string = "StateDamaged";
}

/** A step took longer than it may; `detail` says which. */
export class DeadlineExceeded extends TerpError {
  static override readonly code: string = "deadline_exceeded";
  override readonly name: string = "DeadlineExceeded";
}

/** The command ran into its timeout and was ended: SIGTERM, 2 s later SIGKILL. */
export class ExecTimeout extends DeadlineExceeded {
  static override readonly code: string = "exec_timeout";
  override readonly name: string = "ExecTimeout";
  /** What it had written until then; empty when it came from `execStream`. */
  stdout = "";
  stderr = "";
}

/** A log was followed for as long as asked, and its command runs on. `Command.stream` then asks again by itself. */
export class FollowTimeout extends DeadlineExceeded {
  static override readonly code: string = "timed_out";
  override readonly name: string = "FollowTimeout";
}

/** The command died by a signal that it did not get from its timeout. */
export class ExecKilled extends TerpError {
  static override readonly code: string = "exec_killed";
  override readonly name: string = "ExecKilled";
  /** What it had written until then; empty when it came from `execStream`. */
  stdout = "";
  stderr = "";

  /** Number of the signal, 9 also when the guest ran out of memory; undefined when the server did not say. */
  get signal(): number | undefined {
    return numberIn(this.fields, "signal");
  }
}

/** The guest is lost, silent or talks nonsense. Start another sandbox. */
export class GuestFault extends TerpError {
  static override readonly code: string = "guest_fault";
  override readonly name: string = "GuestFault";
}

/** A bug in the server; its log has more under `requestId`. */
export class Internal extends TerpError {
  static override readonly code: string = "internal";
  override readonly name: string = "Internal";
}

function numberIn(fields: Readonly<Record<string, unknown>>, name: string): number | undefined {
  const value = fields[name];
  return typeof value === "number" ? value : undefined;
}
