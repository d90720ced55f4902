/** Replies about snapshots and deletion receipts. */

import type { DeletionReceipt, SnapshotInfo } from "../models/sandbox.js";
import { type Fields, type Json, readAs } from "../protocol/fields.js";

export function readSnapshot(body: Json): SnapshotInfo {
  return readAs("a snapshot", body, snapshot);
}

export function readSnapshots(body: Json): SnapshotInfo[] {
  return readAs("snapshots", body, (reply) => reply.list("snapshots", snapshot));
}

export function readReceipts(body: Json): DeletionReceipt[] {
  return readAs("deletion receipts", body, (reply) =>
    reply.list("receipts", (row) => ({
      subject: row.text("subject"),
      what: row.text("what"),
      at: row.time("at"),
      keyId: row.text("key_id"),
      serverKeyId: row.text("server_key_id"),
    })),
  );
}

function snapshot(row: Fields): SnapshotInfo {
  return {
    id: row.text("id"),
    status: row.text("status"),
    name: row.textOrNull("name"),
    sourceSandboxId: row.textOrNull("source_sandbox_id"),
    template: row.text("template"),
    cpu: row.number("cpu"),
    memoryMb: row.number("memory_mb"),
    network: row.text("network"),
    createdAt: row.time("created_at"),
    readyAt: row.timeOrNull("ready_at"),
    storedBytes: row.numberOrNull("stored_bytes"),
    stoppedMs: row.numberOrNull("stopped_ms"),
    error: row.textOrNull("error_message"),
  };
}
