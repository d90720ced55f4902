/** Replies about volumes, webhooks and figures. */

import type { Delivery, Metrics, Usage, VolumeInfo, WebhookInfo } from "../models/account.js";
import { type Fields, type Json, readAs } from "../protocol/fields.js";

export function readVolume(body: Json): VolumeInfo {
  return readAs("a volume", body, volume);
}

export function readVolumes(body: Json): VolumeInfo[] {
  return readAs("volumes", body, (reply) => reply.list("volumes", volume));
}

export function readWebhook(body: Json): WebhookInfo {
  return readAs("a webhook", body, webhook);
}

export function readWebhooks(body: Json): WebhookInfo[] {
  return readAs("webhooks", body, (reply) => reply.list("webhooks", webhook));
}

export function readDeliveries(body: Json): Delivery[] {
  return readAs("deliveries", body, (reply) =>
    reply.list("deliveries", (row) => ({
      id: row.text("id"),
      type: row.text("type"),
      status: row.text("status"),
      tries: row.numberOrNull("tries") ?? 0,
      createdAt: row.time("created_at"),
      nextTryAt: row.timeOrNull("next_try_at"),
      responseStatus: row.numberOrNull("response_status"),
      error: row.textOrNull("error"),
      finishedAt: row.timeOrNull("finished_at"),
    })),
  );
}

export function readMetrics(body: Json): Metrics {
  return readAs("metrics", body, (reply) => {
    const [cpu, memory, lifetime] = [reply.object("cpu"), reply.object("memory"), reply.object("lifetime")];
    return {
      sandboxId: reply.text("sandbox_id"),
      status: reply.text("sandbox_status"),
      asOf: reply.time("as_of"),
      cores: cpu.number("cores"),
      coresUsed: cpu.numberOrNull("usage_cores"),
      cpuPercent: cpu.numberOrNull("usage_percent"),
      memoryLimitBytes: memory.number("limit_bytes"),
      memoryBytes: memory.numberOrNull("usage_bytes"),
      memoryPercent: memory.numberOrNull("usage_percent"),
      cpuSeconds: lifetime.number("cpu_seconds"),
      gbSeconds: lifetime.number("gb_seconds"),
      samples: reply.has("samples") ? reply.list("samples", sample) : [],
    };
  });
}

export function readUsage(body: Json): Usage {
  return readAs("usage", body, (reply) => {
    const total = reply.object("total");
    return {
      days: reply.list("days", (row) => ({
        day: row.text("day"),
        cpuSeconds: row.number("cpu_seconds"),
        gbSeconds: row.number("gb_seconds"),
      })),
      cpuSeconds: total.number("cpu_seconds"),
      gbSeconds: total.number("gb_seconds"),
    };
  });
}

function volume(row: Fields): VolumeInfo {
  return {
    id: row.text("id"),
    name: row.text("name"),
    sizeMb: row.number("size_mb"),
    status: row.text("status"),
    region: row.textOrNull("region"),
    nodeId: row.textOrNull("node_id"),
    attachedSandboxId: row.textOrNull("attached_sandbox_id"),
    maxLifetimeDays: row.numberOrNull("max_lifetime_days"),
    maxLifetimeHours: row.numberOrNull("max_lifetime_hours"),
    expiresAt: row.timeOrNull("expires_at"),
    createdAt: row.timeOrNull("created_at"),
  };
}

function webhook(row: Fields): WebhookInfo {
  const info: WebhookInfo = {
    id: row.text("id"),
    url: row.text("url"),
    eventTypes: row.textsOrNull("event_types"),
    active: row.flag("active", true),
    consecutiveFailures: row.numberOrNull("consecutive_failures") ?? 0,
    lastDeliveryAt: row.timeOrNull("last_delivery_at"),
    lastError: row.textOrNull("last_error"),
    createdAt: row.timeOrNull("created_at"),
    secret: row.textOrNull("secret"),
  };
  return Object.defineProperty(info, "secret", { enumerable: false });
}

function sample(row: Fields): Metrics["samples"][number] {
  return { at: row.time("t"), cpuPercent: row.number("cpu_percent"), memoryBytes: row.number("mem_bytes") };
}
