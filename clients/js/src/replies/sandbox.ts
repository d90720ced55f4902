/** Replies about sandboxes. */

import type { Limits, Paused, SandboxInfo } from "../models/sandbox.js";
import { type Fields, type Json, readAs } from "../protocol/fields.js";

export function readSandbox(body: Json): SandboxInfo {
  return readAs("a sandbox", body, sandbox);
}

export function readSandboxes(body: Json): SandboxInfo[] {
  return readAs("several sandboxes", body, (page) => page.list("sandboxes", sandbox));
}

/** A page's rows, and the cursor of the next; null when it is the last. */
export interface Page<T> {
  readonly rows: readonly T[];
  readonly cursor: string | null;
}

export function readPage(body: Json): Page<SandboxInfo> {
  return { rows: readSandboxes(body), cursor: nextCursor(body) };
}

export function nextCursor(body: Json): string | null {
  return typeof body.next_cursor === "string" && body.next_cursor !== "" ? body.next_cursor : null;
}

/** Return *info* with *changes*. The token stays where it was: a spread leaves it out. */
export function changed(info: SandboxInfo, changes: Partial<SandboxInfo>): SandboxInfo {
  return hidden({ ...info, previewAuthToken: info.previewAuthToken, ...changes });
}

export function readPaused(body: Json): Paused {
  return readAs("a pause", body, (pause) => ({
    storedBytes: pause.number("stored_bytes"),
    dirtyBytes: pause.number("dirty_bytes"),
    stoppedMs: pause.number("stopped_ms"),
  }));
}

export function readExpiry(body: Json): Date {
  return readAs("a lease", body, (lease) => lease.time("expires_at"));
}

export function readLimits(body: Json): Limits {
  return readAs("limits", body, (limits) => ({
    plan: limits.text("plan"),
    maxConcurrent: limits.number("max_concurrent"),
    sizes: limits.has("sizes")
      ? limits.list("sizes", (size) => ({
          name: size.text("size"),
          cpu: size.number("cpu"),
          memoryMb: size.number("memory_mb"),
          allowed: size.flag("allowed"),
        }))
      : [],
    maxTimeoutSeconds: limits.numberOrNull("max_timeout_seconds"),
    maxSnapshots: limits.numberOrNull("max_snapshots"),
    maxNamedSnapshots: limits.numberOrNull("max_named_snapshots"),
    maxFork: limits.numberOrNull("max_fork"),
    defaultEgressDomains: limits.textsOrNull("default_egress_domains") ?? [],
  }));
}

function sandbox(row: Fields): SandboxInfo {
  return hidden({
    id: row.text("id"),
    status: row.text("status"),
    template: row.text("template"),
    size: row.textOrNull("size"),
    network: row.text("network"),
    cpu: row.number("cpu"),
    memoryMb: row.number("memory_mb"),
    region: row.textOrNull("region") ?? "",
    createdAt: row.time("created_at"),
    expiresAt: row.time("expires_at"),
    onTimeout: row.textOrNull("on_timeout") ?? "kill",
    endReason: row.textOrNull("end_reason"),
    metadata: row.labels("metadata"),
    autoResume: row.flag("auto_resume", false),
    snapshot: row.textOrNull("snapshot"),
    pausedExpiresAt: row.timeOrNull("paused_expires_at"),
    storedBytes: row.numberOrNull("stored_bytes"),
    allowDomains: row.textsOrNull("allow_domains"),
    reportOnly: row.flag("report_only", false),
    secrets: row.textsOrNull("secrets") ?? [],
    previewAuth: row.flag("preview_auth", false),
    previewAuthToken: row.textOrNull("preview_auth_token"),
    volume: row.textOrNull("volume"),
  });
}

/** Who has the token may see the previews, so it is not printed along. */
function hidden(info: SandboxInfo): SandboxInfo {
  return Object.defineProperty(info, "previewAuthToken", { enumerable: false });
}
