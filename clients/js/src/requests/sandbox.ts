/** Requests about sandboxes and their life. */

import { uniqueHex } from "../crypto.js";
import { InvalidRequest } from "../errors/index.js";
import type { Secret } from "../models/network.js";
import type { NetworkMode, OnTimeout } from "../models/sandbox.js";
import type { Json } from "../protocol/fields.js";
import { ask, given, type Request, sandboxPath, withQuery } from "../protocol/request.js";

export const PAGE_SIZE = 200; // the server's cap for sandboxes
const DEFAULT_TEMPLATE = "python-3.12";

/** How long a new sandbox lives and what it is told: the same for one that is created and one that is forked. */
export interface Life {
  /** Seconds from now until it ends by itself, 600 if not given; `setTimeout` gives it more. */
  readonly timeout?: number;
  /** What happens when the time is over; `kill` if not given. */
  readonly onTimeout?: OnTimeout;
  /** While it is paused, a command or a file call resumes it. */
  readonly autoResume?: boolean;
  /** Environment of every command. It stays in the guest's memory and is recorded nowhere. */
  readonly env?: Readonly<Record<string, string>>;
  /** Labels of yours, to find it again with `list`. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** What a new sandbox may reach, and who may reach it. What is not given is left to the server, or to the snapshot. */
export interface Reach {
  /**
   * `off`: it has no network device. `restricted`: HTTPS to the hosts of a list. `open`: all public addresses. Every
   * connection is on record, see `egress`. If not given, `restricted` with allowDomains or secrets, else `off`.
   */
  readonly network?: NetworkMode | undefined;
  /**
   * The list of `restricted`, names below these included, instead of the server's default
   * (`limits().defaultEgressDomains`).
   */
  readonly allowDomains?: readonly string[] | undefined;
  /** Let what would be blocked for its name through, and report it: to find out what a program needs. */
  readonly reportOnly?: boolean | undefined;
  /** Credentials that it uses without holding them. */
  readonly secrets?: readonly Secret[];
  /**
   * Whether previews ask for a token, which `previewUrl` adds; true if not given. Without, whoever knows a preview's
   * host sees it.
   */
  readonly previewAuth?: boolean;
}

export interface Origin {
  readonly template: string | undefined;
  readonly snapshot: string | undefined;
  readonly size: string | undefined;
  readonly volume: string | undefined;
  readonly region: string | undefined;
}

/**
 * Build it once per wish: the Idempotency-Key made here is what keeps a repeated create from making two.
 *
 * @throws InvalidRequest - A snapshot is given, and with it what it brings along.
 */
export function create(origin: Origin, life: Life, reach: Reach): Request {
  const body = { ...lifeBody(life), ...originBody(origin, reach) };
  const headers = { "Idempotency-Key": uniqueHex() };
  return { method: "POST", target: "/v1/sandboxes", body, headers, repeat: "if-lost-or-silent" };
}

function originBody({ template, snapshot, size, volume, region }: Origin, reach: Reach): Json {
  if (snapshot === undefined) {
    const hasReach = reach.allowDomains !== undefined || (reach.secrets ?? []).length > 0;
    const network = reach.network ?? (hasReach ? "restricted" : "off");
    const { preview_auth: previewAuth, ...body } = reachBody(reach);
    return given({
      ...body,
      preview_auth: network === "off" ? undefined : previewAuth, // it has no previews
      template: template || DEFAULT_TEMPLATE,
      size: size || "small",
      network,
      volume,
      region,
    });
  }
  if (template !== undefined || size !== undefined || reach.network !== undefined) {
    throw new InvalidRequest("template, size and network come from the snapshot; give them or the snapshot");
  }
  return given({ ...reachBody(reach), snapshot, volume, region });
}

function lifeBody(life: Life): Json {
  return {
    timeout_seconds: life.timeout ?? 600,
    on_timeout: life.onTimeout ?? "kill",
    auto_resume: life.autoResume ?? false,
    env: { ...life.env },
    metadata: { ...life.metadata },
  };
}

function reachBody(reach: Reach): Json {
  const secrets = (reach.secrets ?? []).map(secretBody);
  return given({
    preview_auth: reach.previewAuth ?? true,
    allow_domains: reach.allowDomains && names(reach.allowDomains),
    report_only: reach.reportOnly,
    secrets: secrets.length > 0 ? secrets : undefined,
  });
}

function secretBody(secret: Secret): Json {
  const hosts = typeof secret.hosts === "string" ? [secret.hosts] : [...secret.hosts];
  const { name, value, header = "authorization", placeholder, env } = secret;
  return given({ name, hosts, value, header, placeholder, env });
}

/** @throws InvalidRequest - It is one name, for a caller without types. */
export function names(domains: readonly string[]): string[] {
  if (typeof domains === "string") throw new InvalidRequest(`allowDomains is a list of names, like ["${domains}"]`);
  return [...domains];
}

export function get(sandboxId: string): Request {
  return ask(sandboxPath(sandboxId));
}

export function listPage(
  status: string | undefined,
  metadata: Readonly<Record<string, string>>,
  cursor: string | null,
): Request {
  const labels = Object.entries(metadata).map(([key, value]) => [`metadata[${key}]`, value]);
  return ask(withQuery("/v1/sandboxes", { limit: PAGE_SIZE, status, ...Object.fromEntries(labels), cursor }));
}

export function limits(): Request {
  return ask("/v1/sandboxes/limits");
}

export function terminate(sandboxId: string): Request {
  return { method: "DELETE", target: sandboxPath(sandboxId), repeat: "if-lost" };
}

export function setTimeout(sandboxId: string, seconds: number): Request {
  const body = { timeout_seconds: seconds };
  return { method: "POST", target: sandboxPath(sandboxId, "timeout"), body, repeat: "if-lost" };
}

export function pause(sandboxId: string): Request {
  return { method: "POST", target: sandboxPath(sandboxId, "pause"), repeat: "if-unsent" };
}

export function resume(sandboxId: string): Request {
  return { method: "POST", target: sandboxPath(sandboxId, "resume"), repeat: "if-unsent" };
}

export function fork(sandboxId: string, count: number, life: Life, includeSecrets: boolean | undefined): Request {
  const body = given({ count, ...lifeBody(life), include_secrets: includeSecrets || undefined });
  return { method: "POST", target: sandboxPath(sandboxId, "fork"), body, repeat: "if-unsent" };
}
