/** Replies about what a sandbox reaches, and who reaches it. */

import type { Connection, Traffic } from "../models/network.js";
import type { SandboxInfo } from "../models/sandbox.js";
import { type Json, readAs } from "../protocol/fields.js";
import { changed, nextCursor, type Page } from "./sandbox.js";

/** Return *info* with the policy that a change of it was answered with. */
export function readNetwork(body: Json, info: SandboxInfo): SandboxInfo {
  return readAs("a network", body, (network) =>
    changed(info, {
      network: network.text("network"),
      allowDomains: network.textsOrNull("allow_domains"),
      reportOnly: network.flag("report_only"),
    }),
  );
}

export function readEgress(body: Json): Page<Connection> {
  const rows = readAs("connections", body, (page) =>
    page.list("connections", (row) => ({
      id: row.text("id"),
      at: row.time("at"),
      protocol: row.text("protocol"),
      name: row.textOrNull("name"),
      address: row.textOrNull("address"),
      port: row.number("port"),
      decision: row.text("decision"),
      reason: row.text("reason"),
      bytesOut: row.number("bytes_out"),
      bytesIn: row.number("bytes_in"),
      durationMs: row.number("duration_ms"),
      credential: row.textOrNull("credential"),
    })),
  );
  return { rows, cursor: nextCursor(body) };
}

export function readTraffic(body: Json): Traffic {
  return readAs("traffic", body, (reply) => {
    const traffic = reply.object("traffic");
    return {
      bytesOut: traffic.number("bytes_out"),
      bytesIn: traffic.number("bytes_in"),
      connections: traffic.number("connections"),
      blocked: traffic.number("blocked"),
    };
  });
}

export function readHost(body: Json): string {
  return readAs("a preview's host", body, (reply) => reply.text("host"));
}
