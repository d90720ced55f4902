/** The examples of the README are programs that the compiler takes, against the types that are shipped. */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

test("the README's examples compile", { timeout: 300_000 }, () => {
  const readme = readFileSync(`${ROOT}README.md`, "utf8");
  const examples = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code ?? "");
  expect(examples.length).toBeGreaterThan(5);
  mkdirSync(`${ROOT}dist`, { recursive: true });
  const directory = mkdtempSync(`${ROOT}dist/readme-`); // inside of the package, whose own name it then knows
  try {
    for (const [index, code] of examples.entries()) writeFileSync(join(directory, `${index}.mts`), code);
    const options = [
      "--target",
      "es2022",
      "--module",
      "nodenext",
      "--lib",
      "es2022,dom,dom.asynciterable,dom.iterable",
    ];
    const files = examples.map((_, index) => `${index}.mts`);
    const tsc = `${ROOT}node_modules/.bin/tsc`;

    execFileSync(tsc, ["--noEmit", "--strict", "--types", "node", ...options, ...files], { cwd: directory });
  } catch (error) {
    throw new Error(String((error as { stdout?: unknown }).stdout ?? error));
  } finally {
    rmSync(directory, { recursive: true });
  }
});
