/** What clients/vectors says holds for this client; its twin is clients/python/tests/test_vectors.py. */

import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as terp from "../src/index.js";
import { readVolume, readWebhook } from "../src/replies/account.js";
import { readContext } from "../src/replies/code.js";
import { readCommand, readPty } from "../src/replies/commands.js";
import { readSandbox } from "../src/replies/sandbox.js";
import { readSnapshot } from "../src/replies/saved.js";
import { OBJECTS, VECTORS } from "./objects.js";

type Json = Record<string, unknown>;
interface Case {
  readonly name: string;
  readonly on: string;
  readonly call: string;
  readonly args?: unknown[];
  readonly options?: Json;
  readonly settings?: Json;
  readonly value?: unknown;
  readonly error?: Json;
  readonly after?: Json;
}

const FILES = readdirSync(VECTORS).filter((name) => name.endsWith(".json") && name !== "objects.json");

let server: ChildProcess;
let port = 0;

beforeAll(async () => {
  server = spawn("python3", [`${VECTORS}server.py`], { stdio: ["pipe", "pipe", "inherit"] });
  if (!server.stdout) throw new Error("no output");
  for await (const line of createInterface(server.stdout)) {
    port = JSON.parse(line).port;
    break;
  }
});

afterAll(() => server.stdin?.end());

describe.each(FILES.map((name) => name.replace(".json", "")))("%s", (file) => {
  const cases: Case[] = JSON.parse(readFileSync(`${VECTORS}${file}.json`, "utf8"));
  test.concurrent.each(cases.map((each, index) => [each.name, each, index] as const))(
    "%s",
    async (_, vector, index) => {
      const baseUrl = `http://127.0.0.1:${port}/${file}/${index}/js`;
      const client = new terp.Terp({ apiKey: "k", baseUrl, timeout: 20, ...camelKeys(vector.settings ?? {}) });

      const outcome = await call(client, vector);
      const report = await (await fetch(`${baseUrl}/report`)).json();

      expect(report.faults).toEqual([]);
      if (vector.error) expect(outcome.error).toMatchObject(wanted(vector.error) as Json);
      else expect({ value: outcome.value, error: outcome.error }).toEqual({ value: wanted(vector.value) });
      if (vector.after) expect(outcome.after).toMatchObject(wanted(vector.after) as Json);
    },
  );
});

async function call(client: terp.Terp, vector: Case): Promise<{ value?: unknown; error?: unknown; after?: unknown }> {
  const object = objectOf(client, vector.on);
  const options = { ...(camelKeys(fromVector(vector.options ?? {}) as Json) as Json) };
  if (typeof object === "function" || vector.call === "usage") options.client = client;
  const method = (object as Record<string, (...args: unknown[]) => unknown>)[camel(vector.call)];
  if (!method) throw new Error(`no such method: ${vector.on}.${vector.call}`);
  const outcome: { value?: unknown; error?: unknown; after?: unknown } = {};
  try {
    const args = [
      ...(fromVector(vector.args ?? []) as unknown[]),
      ...(Object.keys(options).length > 0 ? [options] : []),
    ];
    const result = method.call(object, ...args);
    outcome.value = toVector(await (isStream(result) ? collected(result) : result));
  } catch (error) {
    if (!(error instanceof terp.TerpError)) throw error;
    outcome.error = describeError(error);
  }
  if (vector.after) outcome.after = toVector(object);
  return outcome;
}

function objectOf(client: terp.Terp, name: string): unknown {
  const sandbox = new terp.Sandbox(client, readSandbox(OBJECTS["sandbox reply"] ?? {}));
  const objects: Record<string, unknown> = {
    Sandbox: terp.Sandbox,
    Snapshot: terp.Snapshot,
    client,
    sandbox,
    files: sandbox.files,
    env: sandbox.env,
    Volume: terp.Volume,
    Webhook: terp.Webhook,
    terp,
    snapshot: new terp.Snapshot(client, readSnapshot(OBJECTS["snapshot reply"] ?? {})),
    command: new terp.Command(client, sandbox.id, readCommand(OBJECTS["command reply"] ?? {})),
    pty: new terp.Pty(client, sandbox.id, readPty(OBJECTS["command reply"] ?? {}), 0),
    attached: new terp.Pty(client, sandbox.id, readPty(OBJECTS["command reply"] ?? {}), undefined),
    context: new terp.CodeContext(client, sandbox.id, readContext(OBJECTS["context reply"] ?? {})),
    volume: new terp.Volume(client, readVolume(OBJECTS["volume reply"] ?? {})),
    webhook: new terp.Webhook(client, readWebhook(OBJECTS["webhook reply"] ?? {})),
  };
  return objects[name];
}

function isStream(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}

async function collected(stream: AsyncIterable<unknown>): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const each of stream) all.push(each);
  return all;
}

// ---- from what vectors write, and to it ----

function fromVector(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromVector);
  if (typeof value !== "object" || value === null) return value;
  if ("$base64" in value) return new Uint8Array(Buffer.from(String(value.$base64), "base64"));
  if ("$time" in value) return new Date(String(value.$time));
  if ("$day" in value) return value.$day;
  if ("$secret" in value) return value.$secret;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, fromVector(each)]));
}

function toVector(value: unknown): unknown {
  if (value === undefined || value === null) return null;
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Uint8Array) return { $base64: Buffer.from(value).toString("base64") };
  if (value instanceof Map) return toVector(Object.fromEntries(value));
  if (Array.isArray(value)) return value.map(toVector);
  if (typeof value !== "object") return value;
  if ("info" in value) return toVector(value.info);
  const entries = Object.getOwnPropertyNames(value).map((key) => [snake(key), toVector((value as Json)[key])]);
  return Object.fromEntries(entries);
}

/** What the vector wants, as `toVector` writes it. */
function wanted(value: unknown): unknown {
  if (typeof value === "string") return value.replace("$port", String(port));
  if (Array.isArray(value)) return value.map(wanted);
  if (typeof value !== "object" || value === null) return value ?? null;
  const { $like, ...members } = value as Json & { $like?: string };
  return {
    ...($like ? OBJECTS[$like] : {}),
    ...Object.fromEntries(Object.entries(members).map(([k, v]) => [k, wanted(v)])),
  };
}

function describeError(error: terp.TerpError): Json {
  const { code, detail, status, requestId, retryAfter, retryable, fields } = error;
  const failed = error instanceof terp.PartialWrite ? [...error.failed].map(([path, each]) => [path, each.name]) : [];
  return {
    type: error.name,
    code,
    detail,
    status: status ?? null,
    request_id: requestId ?? null,
    retry_after: retryAfter ?? null,
    retryable,
    fields,
    failed: Object.fromEntries(failed),
    ...(error instanceof terp.ExecKilled ? { signal: error.signal } : {}),
    ...(error instanceof terp.ExecKilled || error instanceof terp.ExecTimeout
      ? { stdout: error.stdout, stderr: error.stderr }
      : {}),
  };
}

function camelKeys(options: Json): Json {
  return Object.fromEntries(Object.entries(options).map(([key, value]) => [camel(key), value]));
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
