/**
 * The built package against a real server with real machines: tests/vm/test_js_sdk.py starts one, and then this, with
 * TERP_BASE_URL and TERP_API_KEY in the environment, as a user has them.
 */

import { createRequire } from "node:module";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as terp from "../../dist/index.js";

const { ExecKilled, ExecTimeout, FileNotFound, Sandbox, SandboxNotFound, StateConflict, Terp, Unauthenticated } = terp;
const TEMPLATE = process.env.TERP_TEST_TEMPLATE ?? "python-3.12-bare";
const patient = new Terp({ timeout: 300 });
let sbx: terp.Sandbox;

beforeAll(async () => {
  sbx = await Sandbox.create({ template: TEMPLATE, metadata: { test: "js" }, env: { SHARED: "yes" }, client: patient });
});

afterAll(async () => {
  await sbx?.terminate();
});

test("a command's result, with both streams, its exit code and its callbacks", async () => {
  const seen: string[] = [];

  const result = await sbx.exec("echo $SHARED; echo grüße >&2; exit 3", { onStdout: (text) => seen.push(text) });

  expect(result).toMatchObject({ stdout: "yes\n", stderr: "grüße\n", exitCode: 3, truncated: false });
  expect(seen.join("")).toBe("yes\n");
  expect(() => result.check()).toThrow("grüße");
});

test("arguments and input arrive as they are", async () => {
  const args = ["a b", "$HOME", "'", '"', "*", "new\nline", "ü", ""];

  expect((await sbx.exec(["printf", "%s|", ...args])).stdout).toBe(args.map((each) => `${each}|`).join(""));
  expect((await sbx.exec("cat", { stdin: "漢字\0\r\n".repeat(1000) })).stdout).toBe("漢字\0\r\n".repeat(1000));
});

test("a stream of events keeps the bytes, and is attached to again", async () => {
  const events: terp.ExecEvent[] = [];
  for await (const event of sbx.execStream("printf 'a\\377'; sleep 1; printf b")) events.push(event);

  expect(events.map((event) => event.kind)).toEqual(["started", "stdout", "stdout", "exited"]);
  const [started, first] = events as [terp.Started, terp.Written];
  expect([...first.data]).toEqual([97, 255]);

  const again: terp.ExecEvent[] = [];
  const stream = sbx.attach(started.commandId, { offset: first.offset + first.data.length });
  for await (const event of stream) again.push(event);
  expect(again.flatMap((event) => (event.kind === "stdout" ? [event.text] : []))).toEqual(["b"]);
});

test("leaving a stream early closes its connection, and the command runs on", async () => {
  for await (const event of sbx.execStream("echo begun; sleep 2; touch /tmp/ran-on")) {
    if (event.kind === "stdout") break;
  }

  await expect.poll(() => sbx.files.exists("/tmp/ran-on"), { timeout: 60_000, interval: 500 }).toBe(true);
});

test("an AbortSignal ends the wait with its own reason", async () => {
  const controller = new AbortController();
  const reason = new Error("enough");

  const call = sbx.exec("echo begun; sleep 60", {
    timeout: 70,
    signal: controller.signal,
    onStdout: () => controller.abort(reason),
  });

  await expect(call).rejects.toBe(reason);
});

test("what ends a command is an error with the output so far", async () => {
  const timeout = await sbx.exec("echo before; sleep 60", { timeout: 1 }).catch((error) => error);
  expect(timeout).toBeInstanceOf(ExecTimeout);
  expect(timeout).toMatchObject({ code: "exec_timeout", stdout: "before\n" });

  const killed = await sbx.exec("kill -KILL $$").catch((error) => error);
  expect(killed).toBeInstanceOf(ExecKilled);
  expect(killed.signal).toBe(9);
});

test("files of all kinds", async () => {
  const bytes = crypto.getRandomValues(new Uint8Array(60_000));
  await sbx.files.write("/workspace/ü/a b.bin", bytes, { mode: 0o600 });
  await sbx.files.writeMany({ "/tmp/one": "1", "/tmp/two": new Uint8Array([50, 255]) });

  expect(await sbx.files.readBytes("/workspace/ü/a b.bin")).toEqual(bytes);
  expect(await sbx.files.stat("/workspace/ü/a b.bin")).toMatchObject({ size: 60_000, mode: 0o600, isDir: false });
  expect((await sbx.files.list("/workspace/ü")).map((file) => file.path)).toEqual(["/workspace/ü/a b.bin"]);
  expect(await sbx.files.read("/tmp/one")).toBe("1");
  await expect(sbx.files.read("/tmp/two")).rejects.toThrow(terp.InvalidRequest);
  await sbx.files.move("/tmp/one", "/tmp/three");
  await sbx.files.remove("/tmp/three");
  await expect(sbx.files.stat("/tmp/three")).rejects.toThrow(FileNotFound);
});

test("a large file is streamed in and out", async () => {
  async function* chunks() {
    for (let at = 0; at < 64; at++) yield new Uint8Array(256 * 1024).fill(at);
  }
  await sbx.files.write("/tmp/large", chunks());

  let [size, sum] = [0, 0];
  for await (const chunk of sbx.files.readStream("/tmp/large")) {
    size += chunk.length;
    for (const byte of chunk) sum += byte;
  }
  expect([size, sum]).toEqual([16 * 1024 * 1024, 256 * 1024 * ((63 * 64) / 2)]);
});

test("what the source of an upload throws comes out, and nothing is written", async () => {
  const failure = new Error("my own");
  async function* broken() {
    yield new Uint8Array(1000);
    throw failure;
  }

  await expect(sbx.files.write("/tmp/broken", broken())).rejects.toBe(failure);
  expect(await sbx.files.exists("/tmp/broken")).toBe(false);
});

test("fork: the child has the files, and a life of its own", async () => {
  await sbx.files.write("/workspace/mark", "parent");
  const [child] = await sbx.fork({ metadata: { of: sbx.id } });
  if (!child) throw new Error("no child");
  await using _ = child;

  await child.files.write("/workspace/mark", "child");

  expect(await sbx.files.read("/workspace/mark")).toBe("parent");
  expect(child.metadata).toEqual({ of: sbx.id });
});

test("pause and resume: what ran goes on", async () => {
  await sbx.exec("setsid sh -c 'echo $$ > /tmp/pid; exec sleep 1000' > /dev/null 2>&1 < /dev/null &");
  await expect.poll(() => sbx.files.exists("/tmp/pid"), { timeout: 60_000, interval: 200 }).toBe(true);
  const before = await sbx.files.read("/tmp/pid");

  const paused = await sbx.pause();
  expect(paused.storedBytes).toBeGreaterThan(0);
  await expect(sbx.exec("true")).rejects.toThrow(StateConflict);
  await sbx.resume();

  expect(sbx.status).toBe("running");
  expect((await sbx.exec(`kill -0 ${before.trim()}`)).exitCode).toBe(0);
});

test("snapshot, and a sandbox from it", async () => {
  await sbx.files.write("/workspace/kept", "in the snapshot");
  const snapshot = await sbx.snapshot({ name: "from js" });

  await using other = await Sandbox.create({ snapshot, client: patient });

  expect(await other.files.read("/workspace/kept")).toBe("in the snapshot");
  await snapshot.delete();
});

test("await using terminates, and the receipt says that the key is gone", async () => {
  let id = "";
  {
    await using short = await Sandbox.create({ template: TEMPLATE, client: patient });
    id = short.id;
    expect((await short.exec("echo hi")).stdout).toBe("hi\n");
  }

  const ended = await Sandbox.get(id, { client: patient });
  expect(ended.status).toBe("terminated");
  expect((await ended.deletionReceipts()).map((receipt) => receipt.subject)).toContain(id);
});

test("listed by labels, with limits, lease and errors", async () => {
  const found: string[] = [];
  for await (const each of Sandbox.list({ status: "running", metadata: { test: "js" } })) found.push(each.id);
  expect(found).toEqual([sbx.id]);
  expect((await Sandbox.limits()).maxConcurrent).toBeGreaterThan(0);

  await sbx.setTimeout(1800);
  expect(sbx.expiresAt.getTime()).toBeGreaterThan(Date.now() + 1_700_000);
  const missing = await Sandbox.get("sbx_01JG0000000000000000000000").catch((error) => error);
  expect(missing).toBeInstanceOf(SandboxNotFound);
  expect(missing.requestId).toBeTruthy();
  await expect(Sandbox.limits({ client: new Terp({ apiKey: "terp_wrong" }) })).rejects.toThrow(Unauthenticated);
});

test("CommonJS has the same names, and works", async () => {
  const common: typeof terp = createRequire(import.meta.url)("../../dist/index.cjs");

  expect(Object.keys(common).sort()).toEqual(Object.keys(terp).sort());
  const same = await common.Sandbox.get(sbx.id);
  expect((await same.exec("echo from cjs")).stdout).toBe("from cjs\n");
});
