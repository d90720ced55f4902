/** Requests about what a sandbox reaches, and who reaches it. */

import { InvalidRequest } from "../errors/index.js";
import { ask, given, type Request, sandboxPath, withQuery } from "../protocol/request.js";
import { names, PAGE_SIZE } from "./sandbox.js";

const DEFAULT_DOMAINS = "default";
const PREVIEW_TOKEN = "terp_preview_token";

/** What is not given stays. */
export interface NetworkChange {
  /** `restricted` or `open`. One that was created with `off` has no network device, and gets none. */
  readonly mode?: "restricted" | "open" | (string & {});
  /** The new list of `restricted`; `[]` for nothing at all, `"default"` for the server's list. */
  readonly allowDomains?: readonly string[] | "default";
  /** Whether what would be blocked for its name is let through and reported. */
  readonly reportOnly?: boolean;
}

/** Which connections. */
export interface EgressFilter {
  /** `allowed`, `reported`, `blocked` or `failed`. */
  readonly decision?: string;
  /** Only those to exactly this host name. */
  readonly name?: string;
  /** Only those that began then or later. */
  readonly since?: Date;
}

/** @throws InvalidRequest - Nothing is to be changed, or the names are no list. */
export function setNetwork(sandboxId: string, change: NetworkChange): Request {
  const domains = change.allowDomains;
  const body = given({
    network: change.mode,
    allow_domains: domains === DEFAULT_DOMAINS ? null : domains && names(domains as readonly string[]),
    report_only: change.reportOnly,
  });
  if (Object.keys(body).length === 0) {
    throw new InvalidRequest("Nothing to change: give a mode, allowDomains or reportOnly");
  }
  return { method: "PATCH", target: sandboxPath(sandboxId, "network"), body, repeat: "if-lost" };
}

export function egress(
  sandboxId: string,
  filter: EgressFilter = {},
  cursor: string | null = null,
  limit = PAGE_SIZE,
): Request {
  const { decision, name, since } = filter;
  const query = { limit, decision, name, since: since?.toISOString(), cursor };
  return ask(withQuery(sandboxPath(sandboxId, "egress"), query));
}

export function host(sandboxId: string, port: number): Request {
  return ask(withQuery(sandboxPath(sandboxId, "host"), { port }));
}

/** Previews are served where the API is, under other host names. */
export function previewUrl(baseUrl: string, host: string, token: string | null): string {
  const server = new URL(baseUrl);
  const port = server.port === "" ? "" : `:${server.port}`;
  return withQuery(`${server.protocol}//${host}${port}/`, { [PREVIEW_TOKEN]: token });
}
