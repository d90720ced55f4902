/** Requests about snapshots and deletion receipts. */

import { ask, given, type Request, sandboxPath, segment, withQuery } from "../protocol/request.js";

export function takeSnapshot(sandboxId: string, name?: string, includeSecrets?: boolean): Request {
  const body = given({ name, include_secrets: includeSecrets || undefined });
  return { method: "POST", target: sandboxPath(sandboxId, "snapshots"), body, repeat: "if-unsent" };
}

export function listSnapshots(): Request {
  return ask("/v1/sandboxes/snapshots");
}

export function getSnapshot(snapshotId: string): Request {
  return ask(path(snapshotId));
}

export function deleteSnapshot(snapshotId: string): Request {
  return { method: "DELETE", target: path(snapshotId), repeat: "if-lost" };
}

export function deletionReceipts(subject: string | undefined, limit: number): Request {
  return ask(withQuery("/v1/deletion-receipts", { subject, limit }));
}

function path(snapshotId: string): string {
  return `/v1/sandboxes/snapshots/${segment(snapshotId, "snapshot", "snap")}`;
}
