/**
 * Everything that can go wrong, under one root.
 *
 *     TerpError
 *     ├── InvalidRequest            a field or value is wrong; says which and what would do
 *     │   ├── NotPermitted          the path or act is outside what the API may touch
 *     │   └── NotOffered            understood, but this server does not offer it
 *     ├── Unauthenticated           no key, or one the server does not know
 *     ├── Forbidden                 the key lacks a scope
 *     │   └── NetworkBlocked        the sandbox's network policy forbids it
 *     ├── NotFound                  never existed, or another tenant's
 *     │   ├── SandboxNotFound  TemplateNotFound  FileNotFound  ExecNotFound  SnapshotNotFound
 *     │   ├── ContextNotFound  VolumeNotFound  WebhookNotFound
 *     │   └── LogDropped            that part of a log is not kept any more; says from where it is
 *     ├── Conflict
 *     │   ├── StateConflict         says the current state and what would do
 *     │   ├── AlreadyExists
 *     │   ├── VolumeInUse           says by which sandbox
 *     │   ├── SecretsInUse          a command that was given secrets runs, and a snapshot would hold them
 *     │   ├── InterpreterUnavailable  the template has no kernels, or they are gone
 *     │   └── IdempotencyMismatch
 *     ├── LimitExceeded             says limit and use
 *     │   ├── PlanLimit             the tenant's quota
 *     │   │   └── SnapshotCap       of paused sandboxes or of named snapshots
 *     │   └── TooLarge
 *     ├── CapacityUnavailable       nothing was created or changed; try again
 *     ├── Unavailable               a part of the service is away; try again
 *     ├── StorageFull               the server's disk has no room for it; nothing was changed
 *     ├── SavedStateFault           a saved machine cannot be used; nothing was changed
 *     │   ├── StateMismatch         it was made with another processor, monitor, kernel or template; says which
 *     │   └── StateDamaged          a part of it is missing or is not what was saved; says which
 *     ├── DeadlineExceeded          says which step, waited how long
 *     │   ├── ExecTimeout           the command ran into its timeout; holds its output so far
 *     │   └── FollowTimeout         a log was followed for as long as asked; its command runs on
 *     ├── ExecKilled                the command died by a signal; holds its output so far
 *     ├── CommandFailed             `ExecResult.check()`: the exit code is not 0
 *     ├── CodeFailed                `Execution.check()`: the code raised, or ran into its timeout
 *     ├── PartialWrite              `files.writeMany`: some files were not written, says which
 *     ├── GuestFault                the guest is lost, silent or talks nonsense
 *     ├── Internal                  a bug in the server
 *     ├── ConnectionFailed          the server was not reached, or the connection broke
 *     ├── RequestTimeout            the server was silent for too long
 *     └── BadReply                  what answered does not speak the Terp API
 *
 * The names down to Internal are the server's own, apart from CommandFailed, CodeFailed and PartialWrite; a reply is classified by its
 * `code` and, without a known one, by its HTTP status. What an AbortSignal of the caller's says passes through.
 */

export { type Circumstances, TerpError } from "./base.js";
export * from "./local.js";
export * from "./server.js";
