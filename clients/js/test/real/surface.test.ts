/** As real.test.ts: background commands, terminals, variables, directories, addresses, volumes, webhooks, code. */

import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as terp from "../../dist/index.js";

const { CodeFailed, InterpreterUnavailable, InvalidRequest, Sandbox, Terp, Volume, VolumeInUse, Webhook } = terp;
const TEMPLATE = process.env.TERP_TEST_TEMPLATE ?? "python-3.12-bare";
const patient = new Terp({ timeout: 300 });
let sbx: terp.Sandbox;
let volume: terp.Volume;

beforeAll(async () => {
  volume = await Volume.create("from-js", { sizeGb: 0.25, client: patient });
  sbx = await Sandbox.create({ template: TEMPLATE, volume, client: patient });
});

afterAll(async () => {
  await sbx?.terminate();
  await volume?.delete();
});

test("a background command: its log, its end, and the way back to it", async () => {
  const command = await sbx.start("echo $TOKEN >&2; echo grüße; sleep 2; echo end; exit 3", {
    secrets: { TOKEN: "t" },
  });
  let text = "";
  for await (const event of command.stream()) if (event.kind === "stdout") text += event.text;

  expect(text).toBe("t\ngrüße\nend\n");
  expect(await command.wait({ timeout: 60 })).toBe(3);
  const found = await sbx.command(command.id);
  expect(await found.logs({ offset: 2 })).toMatchObject({ content: "grüße\nend\n", size: 14, truncated: false });
  expect((await sbx.commands()).map((each) => each.id)).toContain(command.id);
});

test("a background command is killed", async () => {
  const command = await sbx.start(["sleep", "1000"]);
  expect(command.status).toBe("running");

  await command.kill();

  expect(await command.wait({ timeout: 60 })).toBeNull();
  expect(command.status).toBe("killed");
});

test("a terminal: typed into, resized, followed, and found again", async () => {
  const pty = await sbx.pty({ command: "sh", cols: 100, rows: 30, env: { PS1: "> " } });
  await pty.resize(120, 40);
  await pty.write("stty size; echo $((6 * 7))\n");
  const again = await sbx.attachPty(pty.id);
  await again.write("exit 5\n");

  let shown = "";
  for await (const data of pty.output()) shown += new TextDecoder().decode(data);

  expect(shown).toContain("40 120");
  expect(shown).toContain("42");
  expect(await pty.wait({ timeout: 60 })).toBe(5);
  expect((await sbx.ptys()).map((each) => each.id)).toContain(pty.id);
});

test("variables of what starts from now on", async () => {
  expect(await sbx.env.set({ LATER: "here", OTHER: "x" })).toEqual(["LATER", "OTHER"]);
  expect((await sbx.exec("echo $LATER")).stdout).toBe("here\n");
  expect(await sbx.env.unset("OTHER")).toEqual(["LATER"]);
  expect(await sbx.env.list()).toEqual(["LATER"]);
});

test("directories there and back", async () => {
  const here = await mkdtemp(join(tmpdir(), "terp-js-"));
  try {
    await mkdir(join(here, "up/sub"), { recursive: true });
    await writeFile(join(here, "up/sub/ü.txt"), "content");
    await writeFile(join(here, "up/run"), "#!/bin/sh\necho ran\n", { mode: 0o755 });

    const sent = await sbx.files.uploadDir(join(here, "up"), "/workspace/project");
    expect(sent).toMatchObject({ size: 26, skipped: [] });
    expect((await sbx.exec("./run && ln -s /etc/passwd out", { cwd: "/workspace/project" })).stdout).toBe("ran\n");
    const got = await sbx.files.downloadDir("/workspace/project", join(here, "down"));

    expect(got.skipped).toEqual(["out"]);
    expect(await readFile(join(here, "down/sub/ü.txt"), "utf8")).toBe("content");
  } finally {
    await rm(here, { recursive: true });
  }
});

test("changes are told", async () => {
  const kinds: string[] = [];
  for await (const change of sbx.files.watch("/workspace")) {
    kinds.push(change.kind);
    if (change.kind === "ready") await sbx.files.write("/workspace/seen", "x");
    if (change.path === "/workspace/seen") break;
  }

  expect(kinds[0]).toBe("ready");
});

test("addresses that need no key", async () => {
  const up = await sbx.files.presignUpload("/workspace/presigned");
  const put = await fetch(up.url, { method: up.method, body: "by anybody" });
  expect(put.ok).toBe(true);

  const down = await sbx.files.presignDownload("/workspace/presigned", { expiresIn: 60 });
  expect(await (await fetch(down.url)).text()).toBe("by anybody");
});

test("a volume is held by one, and outlives it", async () => {
  await sbx.files.write("/persist/kept", "still here");
  await volume.refresh();

  expect(volume.info).toMatchObject({ status: "attached", attachedSandboxId: sbx.id, sizeMb: 256 });
  await expect(Sandbox.create({ template: TEMPLATE, volume, client: patient })).rejects.toThrow(VolumeInUse);
  expect((await Volume.get("from-js")).id).toBe(volume.id);
});

test("a webhook is made, seen without its secret, and deleted", async () => {
  await expect(Webhook.create("ftp://127.0.0.1/hook")).rejects.toThrow(InvalidRequest);
  const made = await Webhook.create("http://127.0.0.1/hook");
  expect(made.secret).toMatch(/^whsec_/);
  const found = [];
  for await (const webhook of Webhook.list()) found.push(webhook);
  expect(found.map((webhook) => [webhook.id, webhook.secret])).toContainEqual([made.id, null]);
  await made.delete();
});

test("what it uses", async () => {
  const metrics = await sbx.metrics();

  expect(metrics).toMatchObject({ sandboxId: sbx.id, status: "running", cores: 1 });
  expect(metrics.memoryLimitBytes).toBeGreaterThan(2 ** 29);
  expect((await terp.usage()).cpuSeconds).toBeGreaterThanOrEqual(0);
});

test("code runs where there are kernels", async () => {
  await expect(sbx.runCode("1")).rejects.toThrow(InterpreterUnavailable);
  await using other = await Sandbox.create({ template: "code-interpreter", client: patient });
  const seen: string[] = [];

  const first = await other.runCode("x = 20\nprint('hi')\nx + 1", {
    timeout: 300,
    onStdout: (text) => seen.push(text),
  });
  expect(first).toMatchObject({ text: "21", stdout: "hi\n", error: null, contextId: "default" });
  expect(seen.join("")).toBe("hi\n");
  const failed = await other.runCode("x / 0", { timeout: 300 });
  expect(failed.error?.name).toBe("ZeroDivisionError");
  expect(() => failed.check()).toThrow(CodeFailed);

  const context = await other.createCodeContext();
  expect((await context.runCode("'x' in globals()", { timeout: 300 })).text).toBe("False");
  expect((await other.codeContexts()).map((each) => each.id)).toContain(context.id);
  await context.remove();
});
