/** Replies about files. */

import { InvalidRequest, type TerpError } from "../errors/index.js";
import type { FileEvent, FileInfo, Presigned, Transfer } from "../models/files.js";
import { type Fields, type Json, readAs } from "../protocol/fields.js";
import { errorByCode } from "./errors.js";
import { type PayloadReader, parseFrame, streamError } from "./exec.js";

/** @throws InvalidRequest - It is a file. */
export function readDirectory(body: Json, path: string): FileInfo[] {
  if (body.is_dir !== true) throw new InvalidRequest(`It is a file, no directory: ${path}`);
  const above = path.endsWith("/") ? path : `${path}/`;
  return readAs("a directory", body, (reply) =>
    reply.list("entries", (row) => file(row, row.text("name"), above + row.text("name"))),
  );
}

/** Return null when there is no such file. */
export function readStat(body: Json, path: string): FileInfo | null {
  const name = path.replace(/\/+$/, "").split("/").at(-1) ?? "";
  return readAs("a file", body, (reply) => (reply.flag("exists") ? file(reply, name, path) : null));
}

/** Return what went wrong with each file that a batch did not write, by path. */
export function readFailures(body: Json): Map<string, TerpError> {
  const rows = readAs("the results of a batch", body, (reply) =>
    reply.list("results", (row) => {
      const path = row.text("path");
      const error = row.objectOrNull("error");
      if (!error) return undefined;
      const code = error.text("code");
      return [path, errorByCode(code, error.textOrNull("detail") || code)] as const;
    }),
  );
  return new Map(rows.filter((row) => row !== undefined));
}

function file(row: Fields, name: string, path: string): FileInfo {
  return {
    name,
    path,
    isDir: row.flag("is_dir"),
    size: row.number("size"),
    mode: row.number("mode"),
    modifiedAt: row.time("modified_at"),
    isSymlink: row.flag("is_symlink", false),
  };
}

export function readPresigned(body: Json): Presigned {
  return readAs("an address", body, (reply) => ({
    url: reply.text("url"),
    method: reply.text("method"),
    path: reply.text("path"),
    expiresAt: reply.time("expires_at"),
  }));
}

/** Return how many files an archive made, and the bytes of their content. */
export function readExtracted(body: Json): Transfer {
  return readAs("an archive", body, (reply) => ({
    files: reply.number("files"),
    size: reply.number("bytes"),
    skipped: [],
  }));
}

/** Reads what a watch tells; what has no path and is no known sign says nothing. It ends by an error alone. */
export class ChangeReader implements PayloadReader<FileEvent> {
  readonly finished = false;

  *read(payload: string): Generator<FileEvent, void> {
    const frame = parseFrame(payload);
    const { kind } = frame;
    if (kind === "error") throw streamError(frame);
    if (frame.path === undefined && kind !== "ready" && kind !== "overflow") return;
    yield readAs("a change", frame, (change) => ({
      kind: change.text("kind"),
      path: change.textOrNull("path") ?? "",
      isDir: change.flag("is_dir", false),
      movedFrom: change.textOrNull("moved_from"),
    }));
  }
}
