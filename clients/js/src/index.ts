/**
 * Sandboxes for AI agents: the client of a Terp server.
 *
 *     import { Sandbox } from "terp";
 *
 *     await using sbx = await Sandbox.create({ template: "python-3.12" });
 *     console.log((await sbx.exec("uname -a")).stdout);
 */

export { type CallOptions, Terp, type TerpOptions, type UsageOptions } from "./client.js";
export { type CodeCallbacks, CodeContext, type CodeStreamOptions } from "./code.js";
export { Command, type OffsetOptions } from "./command.js";
export { Environment } from "./env.js";
export * from "./errors/index.js";
export { Files, type PresignOptions, type WriteOptions } from "./files.js";
export type { WaitOptions } from "./following.js";
export type {
  DayUsage,
  Delivery,
  Metrics,
  MetricsSample,
  Usage,
  VolumeInfo,
  WebhookInfo,
} from "./models/account.js";
export {
  type CodeContextInfo,
  type CodeDone,
  type CodeError,
  type CodeEvent,
  type CodeText,
  Execution,
  type Language,
  Result,
  type ResultForms,
} from "./models/code.js";
export {
  type CommandInfo,
  type ExecEvent,
  ExecResult,
  type Exited,
  type LogPage,
  type PtyInfo,
  type Started,
  type Written,
} from "./models/exec.js";
export type { FileEvent, FileInfo, Presigned, Transfer } from "./models/files.js";
export type { Connection, Secret, Traffic } from "./models/network.js";
export type {
  DeletionReceipt,
  Limits,
  NetworkMode,
  OnTimeout,
  Paused,
  SandboxInfo,
  SandboxStatus,
  SizeInfo,
  SnapshotInfo,
} from "./models/sandbox.js";
export type { ByteSource } from "./protocol/sources.js";
export { Pty } from "./pty.js";
export type { Lifetime, Moment, NewVolume } from "./requests/account.js";
export type { PtyOptions } from "./requests/commands.js";
export type { Run, TimedRun } from "./requests/exec.js";
export type { EgressFilter, NetworkChange } from "./requests/network.js";
export type { Life, Reach } from "./requests/sandbox.js";
export type { RunCodeOptions, RunCodeStreamOptions } from "./sandbox/code.js";
export type { ExecOptions, ExecStreamOptions, OnText } from "./sandbox/commands.js";
export { type CreateOptions, type ForkOptions, Sandbox, type SnapshotOptions } from "./sandbox/index.js";
export { Snapshot, type WithClient } from "./snapshot.js";
export { usage } from "./usage.js";
export { Volume } from "./volume.js";
export { verifyWebhook, Webhook } from "./webhook.js";
