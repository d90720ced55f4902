/** A directory of this machine as a tar stream. */

import { fileSystem } from "./node.js";
import { type Entry, padding, writeHeader } from "./tar.js";

const CHUNK_BYTES = 256 * 1024;
const MAX_SKIPPED = 1000;

/** Yield a tar stream of what *root* holds. What is no file, directory or link goes to *skipped* by its name. */
export async function* pack(root: string, skipped: string[]): AsyncGenerator<Uint8Array, void, void> {
  const { fs, path } = await fileSystem();
  const waiting = [""];
  for (let directory = waiting.pop(); directory !== undefined; directory = waiting.pop()) {
    for (const child of (await fs.readdir(path.join(root, directory))).sort()) {
      const name = directory ? `${directory}/${child}` : child; // directories before what they hold
      const local = path.join(root, name);
      const found = await fs.lstat(local);
      const entry = { name, mode: found.mode & 0o7777, mtime: found.mtimeMs / 1000, size: 0, target: "" };
      if (found.isDirectory()) {
        waiting.push(name);
        yield writeHeader({ ...entry, kind: "directory" });
      } else if (found.isSymbolicLink()) {
        yield writeHeader({ ...entry, kind: "symlink", target: await fs.readlink(local) });
      } else if (found.isFile()) {
        yield* packFile(local, { ...entry, kind: "file" });
      } else if (skipped.length < MAX_SKIPPED) {
        skipped.push(name);
      }
    }
  }
  yield new Uint8Array(1024); // the end of an archive
}

async function* packFile(local: string, entry: Entry): AsyncGenerator<Uint8Array, void, void> {
  const { fs } = await fileSystem();
  const file = await fs.open(local, "r");
  try {
    const { size } = await file.stat();
    yield writeHeader({ ...entry, size });
    for (let left = size; left > 0; ) {
      const { bytesRead, buffer } = await file.read(new Uint8Array(Math.min(left, CHUNK_BYTES)), 0, null, null);
      if (bytesRead === 0) throw new Error(`It has become shorter while it was read: ${local}`);
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
    if (padding(size) > 0) yield new Uint8Array(padding(size));
  } finally {
    await file.close();
  }
}
