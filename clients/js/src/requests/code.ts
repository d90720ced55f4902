/** Requests about code in kernels. */

import { ACCEPT_EVENTS, ask, given, type Request, sandboxPath, segment } from "../protocol/request.js";

export function run(
  sandboxId: string,
  code: string,
  language: string,
  contextId: string | null,
  timeout: number,
): Request {
  const body = { code, language, context_id: contextId, timeout_seconds: timeout, stream: true };
  return { method: "POST", target: sandboxPath(sandboxId, "code"), body, headers: ACCEPT_EVENTS, repeat: "if-unsent" };
}

export function createContext(sandboxId: string, language: string, cwd: string | undefined): Request {
  const body = given({ language, cwd });
  return { method: "POST", target: sandboxPath(sandboxId, "code/contexts"), body, repeat: "if-unsent" };
}

export function listContexts(sandboxId: string): Request {
  return ask(sandboxPath(sandboxId, "code/contexts"));
}

export function restartContext(sandboxId: string, contextId: string): Request {
  return { method: "POST", target: `${path(sandboxId, contextId)}/restart`, body: {}, repeat: "if-lost" };
}

export function removeContext(sandboxId: string, contextId: string): Request {
  // Not repeated when the reply is lost: the second answer would be that there is no such context.
  return { method: "DELETE", target: path(sandboxId, contextId), repeat: "if-unsent" };
}

function path(sandboxId: string, contextId: string): string {
  return sandboxPath(sandboxId, `code/contexts/${segment(contextId, "context", "ctx")}`);
}
