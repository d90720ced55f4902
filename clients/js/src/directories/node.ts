/** Node's own modules, loaded when they are used: elsewhere the rest of this package does without. */

import { NotOffered } from "../errors/index.js";

export async function fileSystem() {
  try {
    const [fs, path] = await Promise.all([
      import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises"),
      import(/* webpackIgnore: true */ /* @vite-ignore */ "node:path"),
    ]);
    return { fs, path };
  } catch (error) {
    const advice = "There is no file system here: use downloadArchive and uploadArchive";
    throw new NotOffered(advice, { cause: error });
  }
}

/** Whether *error* is one of the file system's, with one of these codes. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
