/** Requests about files. */

import type { Batch } from "../protocol/batches.js";
import { toBase64 } from "../protocol/bytes.js";
import { ACCEPT_EVENTS, ask, type Request, sandboxPath, withQuery } from "../protocol/request.js";

const ANYTHING = { Accept: "*/*" };

export function readContent(sandboxId: string, path: string): Request {
  return ask(withQuery(sandboxPath(sandboxId, "files/content"), { path }), ANYTHING);
}

/** @param repeatable - The content is at hand a second time. */
export function writeContent(sandboxId: string, path: string, mode: number, repeatable: boolean): Request {
  const target = withQuery(sandboxPath(sandboxId, "files/content"), { path, mode });
  const headers = { "Content-Type": "application/octet-stream" };
  return { method: "PUT", target, headers, repeat: repeatable ? "if-lost" : "if-unsent" };
}

export function listFiles(sandboxId: string, path: string): Request {
  return ask(withQuery(sandboxPath(sandboxId, "files"), { path }));
}

export function statFile(sandboxId: string, path: string): Request {
  return ask(withQuery(sandboxPath(sandboxId, "files/stat"), { path }));
}

export function makeDirectory(sandboxId: string, path: string, parents: boolean): Request {
  const repeat = parents ? "if-lost" : "if-unsent"; // without parents, an existing one is an error
  return { method: "POST", target: sandboxPath(sandboxId, "files/mkdir"), body: { path, parents }, repeat };
}

export function moveFile(sandboxId: string, source: string, destination: string): Request {
  const body = { source, destination };
  return { method: "POST", target: sandboxPath(sandboxId, "files/move"), body, repeat: "if-unsent" };
}

export function removeFile(sandboxId: string, path: string): Request {
  // Not repeated when the reply is lost: the second answer would be that there is no such file.
  return { method: "DELETE", target: withQuery(sandboxPath(sandboxId, "files"), { path }), repeat: "if-unsent" };
}

export function writeBatch(sandboxId: string, files: Batch, mode: number): Request {
  const rows = files.map(([path, content]) => ({ path, content: toBase64(content), mode }));
  return { method: "POST", target: sandboxPath(sandboxId, "files/batch"), body: { files: rows }, repeat: "if-lost" };
}

// ---- addresses, changes, directories ----

export function presign(sandboxId: string, path: string, direction: "download" | "upload", expiresIn: number): Request {
  const body = { path, expires_in: expiresIn };
  return { method: "POST", target: sandboxPath(sandboxId, `files/presign-${direction}`), body, repeat: "if-lost" };
}

export function watch(sandboxId: string, path: string, recursive: boolean): Request {
  return ask(withQuery(sandboxPath(sandboxId, "files/watch"), { path, recursive }), ACCEPT_EVENTS);
}

export function readArchive(sandboxId: string, path: string): Request {
  return ask(withQuery(sandboxPath(sandboxId, "files/archive"), { path }), ANYTHING);
}

export function writeArchive(sandboxId: string, path: string): Request {
  const target = withQuery(sandboxPath(sandboxId, "files/archive"), { path });
  return { method: "PUT", target, headers: { "Content-Type": "application/x-tar" }, repeat: "if-unsent" };
}
