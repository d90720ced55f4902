/**
 * Sandboxes for AI agents: the client of a Terp server.
 *
 *     import { Sandbox } from "terp";
 *
 *     await using sbx = await Sandbox.create({ template: "python-3.12" });
 *     console.log((await sbx.exec("uname -a")).stdout);
 */

export { type CallOptions, Terp, type TerpOptions } from "./client.js";
export * from "./errors/index.js";
export { Files, type WriteOptions } from "./files.js";
export { type ExecEvent, ExecResult, type Exited, type Started, type Written } from "./models/exec.js";
export type { FileInfo } from "./models/files.js";
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
export type { Run, TimedRun } from "./requests/exec.js";
export type { EgressFilter, NetworkChange } from "./requests/network.js";
export type { Life, Reach } from "./requests/sandbox.js";
export type { ExecOptions, ExecStreamOptions, OnText } from "./sandbox/commands.js";
export { type CreateOptions, type ForkOptions, Sandbox } from "./sandbox/index.js";
export { Snapshot, type WithClient } from "./snapshot.js";
