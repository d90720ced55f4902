/** Directories as tar streams: what Python and this make of them, and what a hostile guest may not. */

import { execFileSync } from "node:child_process";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { pack } from "../src/directories/pack.js";
import { writeHeader } from "../src/directories/tar.js";
import { unpack } from "../src/directories/unpack.js";
import { BadReply, TooLarge } from "../src/index.js";
import { concat } from "../src/protocol/bytes.js";

const NO_LIMIT = 2 ** 30;
let here: string;
let target: string;

beforeEach(async () => {
  here = await mkdtemp(join(tmpdir(), "terp-js-"));
  target = join(here, "target");
});
afterEach(() => rm(here, { recursive: true }));

async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function packed(root: string): Promise<{ archive: Uint8Array; skipped: string[] }> {
  const [chunks, skipped]: [Uint8Array[], string[]] = [[], []];
  for await (const chunk of pack(root, skipped)) chunks.push(chunk);
  return { archive: concat(chunks), skipped };
}

interface Member {
  name: string;
  kind: "file" | "directory" | "symlink" | "link";
  target?: string;
  content?: string;
}

function archiveOf(...members: Member[]): Uint8Array {
  const parts = members.flatMap(({ name, kind, target = "", content = "" }) => {
    const data = new Uint8Array(Math.ceil(content.length / 512) * 512);
    data.set(new TextEncoder().encode(content));
    return [writeHeader({ name, kind, target, mode: 0o666, mtime: 5, size: content.length }), data];
  });
  return concat([...parts, new Uint8Array(1024)]);
}

test("what is packed is unpacked the same, in pieces of any size", async () => {
  const source = join(here, "source");
  const long = `${"d".repeat(90)}/${"ü".repeat(60)}`;
  await mkdir(join(source, "d".repeat(90)), { recursive: true });
  await mkdir(join(source, "empty"));
  await writeFile(join(source, long), "long");
  await writeFile(join(source, "a"), "x".repeat(1000), { mode: 0o755 });
  await symlink("a", join(source, "link"));
  execFileSync("mkfifo", [join(source, "pipe")]);

  const { archive, skipped } = await packed(source);
  expect(skipped).toEqual(["pipe"]);
  for (const size of [1, 511, 512, 100_000]) {
    const made = await unpack(inPieces(archive, size), target, NO_LIMIT);

    expect(made).toEqual({ files: 5, size: 1004, skipped: [] });
    expect(await readFile(join(target, long), "utf8")).toBe("long");
    expect((await lstat(join(target, "a"))).mode & 0o777).toBe(0o755);
    expect(await readlink(join(target, "link"))).toBe("a");
  }
});

test("Python reads what is packed here, and the other way round", async () => {
  const source = join(here, "source");
  await mkdir(source);
  await writeFile(join(source, "ü".repeat(80)), "content");
  await writeFile(join(here, "js.tar"), (await packed(source)).archive);
  const python = (program: string) => execFileSync("python3", ["-c", `import tarfile\n${program}`], { cwd: here });

  python("archive = tarfile.open('js.tar'); archive.extractall('by-python', filter='data')");
  expect(await readdir(join(here, "by-python"))).toEqual(["ü".repeat(80)]);

  for (const format of ["PAX_FORMAT", "GNU_FORMAT"]) {
    python(
      `archive = tarfile.open('py.tar', 'w', format=tarfile.${format}); archive.add('source', 'sub'); archive.close()`,
    );
    const made = await unpack(inPieces(await readFile(join(here, "py.tar")), 700), join(here, format), NO_LIMIT);
    expect(made.skipped).toEqual([]);
    expect(await readFile(join(here, format, "sub", "ü".repeat(80)), "utf8")).toBe("content");
  }
});

test("nothing is written outside, and links that lead out are left out", async () => {
  await mkdir(target);
  await writeFile(join(here, "outside"), "untouched");
  await symlink("..", join(target, "up"));
  const hostile: Member[] = [
    { name: "../outside", kind: "file", content: "x" },
    { name: join(here, "outside"), kind: "file", content: "x" },
    { name: "a/../../outside", kind: "file", content: "x" },
    { name: "up/outside", kind: "file", content: "x" },
    { name: "up/made", kind: "directory" },
    { name: "out", kind: "symlink", target: "../outside" },
    { name: "absolute", kind: "symlink", target: "/etc/passwd" },
    { name: "d/home", kind: "symlink", target: "../" },
    { name: "d/chained", kind: "symlink", target: "home/../.." },
    { name: "hard", kind: "link", target: "../outside" },
    { name: "hard2", kind: "link", target: "up/outside" },
    { name: "fine", kind: "file", content: "ok" },
    { name: "fine2", kind: "link", target: "fine" },
  ];

  const made = await unpack(inPieces(archiveOf(...hostile), 300), target, NO_LIMIT);

  const left = hostile.map(({ name }) => name).filter((name) => !["fine", "fine2", "d/home"].includes(name));
  expect([...made.skipped].sort()).toEqual(left.sort());
  expect(await readFile(join(here, "outside"), "utf8")).toBe("untouched");
  expect((await readdir(here)).sort()).toEqual(["outside", "target"]);
  expect((await readdir(target)).sort()).toEqual(["d", "fine", "fine2", "up"]);
});

test("an existing link is replaced, not written through", async () => {
  await mkdir(target);
  await writeFile(join(here, "outside"), "untouched");
  await symlink("../outside", join(target, "a"));

  await unpack(inPieces(archiveOf({ name: "a", kind: "file", content: "new" }), 512), target, NO_LIMIT);

  expect(await readFile(join(target, "a"), "utf8")).toBe("new");
  expect(await readFile(join(here, "outside"), "utf8")).toBe("untouched");
});

test("what is too large, cut off or no archive ends with an error", async () => {
  const archive = archiveOf({ name: "a", kind: "file", content: "x".repeat(2000) });

  await expect(unpack(inPieces(archive, 512), target, 1500)).rejects.toThrow(TooLarge);
  await expect(unpack(inPieces(archive.subarray(0, 1000), 512), target, NO_LIMIT)).rejects.toThrow(BadReply);
  await expect(unpack(inPieces(new Uint8Array(1024).fill(65), 512), target, NO_LIMIT)).rejects.toThrow(BadReply);
});
