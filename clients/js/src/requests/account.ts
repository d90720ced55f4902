/** Requests about volumes, webhooks and figures. */

import { InvalidRequest } from "../errors/index.js";
import { ask, given, type Request, sandboxPath, segment, withQuery } from "../protocol/request.js";

/** When a volume is deleted by itself, counted from its creation: 1 to 3650 days or 1 to 24 hours, not both. */
export interface Lifetime {
  readonly maxLifetimeDays?: number | null;
  readonly maxLifetimeHours?: number | null;
}

export interface NewVolume {
  /** At least 0.25; 10 if not given. A ceiling: what is not written takes no room. */
  readonly sizeGb?: number;
  readonly maxLifetimeDays?: number;
  readonly maxLifetimeHours?: number;
  /** Where it is; where its first sandbox runs, if not given. */
  readonly region?: string;
}

/** A `Date`, or a whole day of UTC like `2026-01-31`. */
export type Moment = Date | string;

export function createVolume(name: string, volume: NewVolume): Request {
  const body = given({
    name,
    size_gb: volume.sizeGb ?? 10,
    region: volume.region,
    max_lifetime_days: volume.maxLifetimeDays,
    max_lifetime_hours: volume.maxLifetimeHours,
  });
  return { method: "POST", target: "/v1/sandboxes/volumes", body, repeat: "if-unsent" };
}

export function listVolumes(): Request {
  return ask("/v1/sandboxes/volumes");
}

export function getVolume(volumeId: string): Request {
  return ask(volumePath(volumeId));
}

/** @throws InvalidRequest - Not exactly one is given. */
export function updateVolume(volumeId: string, lifetime: Lifetime): Request {
  const body = given({ max_lifetime_days: lifetime.maxLifetimeDays, max_lifetime_hours: lifetime.maxLifetimeHours });
  if (Object.keys(body).length !== 1) {
    throw new InvalidRequest("Give one of maxLifetimeDays and maxLifetimeHours; null for no end");
  }
  return { method: "PATCH", target: volumePath(volumeId), body, repeat: "if-lost" };
}

export function moveVolume(volumeId: string, region: string): Request {
  return { method: "POST", target: volumePath(volumeId, "/move"), body: { region }, repeat: "if-unsent" };
}

export function deleteVolume(volumeId: string): Request {
  return { method: "DELETE", target: volumePath(volumeId), repeat: "if-lost" };
}

function volumePath(volumeId: string, rest = ""): string {
  return `/v1/sandboxes/volumes/${segment(volumeId, "volume", "vol")}${rest}`;
}

// ---- webhooks ----

/** @throws InvalidRequest - The types are no list, for a caller without types. */
export function createWebhook(url: string, eventTypes: readonly string[] | undefined): Request {
  if (typeof eventTypes === "string") {
    throw new InvalidRequest(`eventTypes is a list of names, like ["${eventTypes}"]`);
  }
  const body = given({ url, event_types: eventTypes && [...eventTypes] });
  return { method: "POST", target: "/v1/sandboxes/webhooks", body, repeat: "if-unsent" };
}

export function listWebhooks(): Request {
  return ask("/v1/sandboxes/webhooks");
}

export function enableWebhook(webhookId: string): Request {
  return { method: "POST", target: webhookPath(webhookId, "/enable"), repeat: "if-lost" };
}

export function deleteWebhook(webhookId: string): Request {
  return { method: "DELETE", target: webhookPath(webhookId), repeat: "if-lost" };
}

export function listDeliveries(webhookId: string): Request {
  return ask(webhookPath(webhookId, "/deliveries"));
}

function webhookPath(webhookId: string, rest = ""): string {
  return `/v1/sandboxes/webhooks/${segment(webhookId, "webhook", "whk")}${rest}`;
}

// ---- figures ----

export function metrics(sandboxId: string, since: Date | undefined): Request {
  return ask(withQuery(sandboxPath(sandboxId, "metrics"), { since: since && Math.trunc(since.getTime() / 1000) }));
}

export function usage(since: Moment | undefined, until: Moment | undefined): Request {
  return ask(withQuery("/v1/usage", { since: moment(since), until: moment(until) }));
}

function moment(value: Moment | undefined): string | undefined {
  return value instanceof Date ? value.toISOString() : value;
}
