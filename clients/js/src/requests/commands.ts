/** Requests about background commands, terminals and variables. */

import { ACCEPT_EVENTS, ask, given, type Request, sandboxPath, segment, withQuery } from "../protocol/request.js";
import { type Command, shellLine } from "../protocol/shell.js";
import { type Run, runBody } from "./exec.js";

const FOLLOW_S = 300; // that one request follows a log; then it is asked again

export function start(sandboxId: string, command: Command, run: Run): Request {
  return {
    method: "POST",
    target: sandboxPath(sandboxId, "commands"),
    body: runBody(command, run),
    repeat: "if-unsent",
  };
}

export function listCommands(sandboxId: string): Request {
  return ask(sandboxPath(sandboxId, "commands"));
}

export function getCommand(sandboxId: string, commandId: string): Request {
  return ask(commandPath(sandboxId, commandId));
}

export function killCommand(sandboxId: string, commandId: string): Request {
  return { method: "DELETE", target: commandPath(sandboxId, commandId), repeat: "if-lost" };
}

export function readLog(sandboxId: string, commandId: string, offset: number): Request {
  return ask(withQuery(commandPath(sandboxId, commandId, "/logs"), { offset }));
}

export function followLog(sandboxId: string, commandId: string, offset: number): Request {
  const query = { follow: true, offset, timeout_seconds: FOLLOW_S };
  return ask(withQuery(commandPath(sandboxId, commandId, "/logs"), query), ACCEPT_EVENTS);
}

function commandPath(sandboxId: string, commandId: string, rest = ""): string {
  return sandboxPath(sandboxId, `commands/${segment(commandId, "command", "cmd")}${rest}`);
}

// ---- terminals ----

export interface PtyOptions {
  /** What runs in it, as in `exec`; if not given, a login shell. */
  readonly command?: Command;
  /** Its size in characters, as `rows`, each 1 to 1000; 80 and 24 if not given. */
  readonly cols?: number;
  readonly rows?: number;
  /** `/workspace` if not given. */
  readonly cwd?: string;
  /** On top of the sandbox's own. */
  readonly env?: Readonly<Record<string, string>>;
}

export function openPty(sandboxId: string, options: PtyOptions): Request {
  const { command, cols = 80, rows = 24, cwd = "/workspace", env } = options;
  const body = given({ command: command && shellLine(command), cols, rows, cwd, env: { ...env } });
  return { method: "POST", target: sandboxPath(sandboxId, "pty"), body, repeat: "if-unsent" };
}

export function listPtys(sandboxId: string): Request {
  return ask(sandboxPath(sandboxId, "pty"));
}

export function getPty(sandboxId: string, ptyId: string): Request {
  return ask(ptyPath(sandboxId, ptyId));
}

export function ptyOutput(sandboxId: string, ptyId: string, offset: number): Request {
  return ask(withQuery(ptyPath(sandboxId, ptyId, "/output"), { offset }), ACCEPT_EVENTS);
}

/** The body is what is typed. With an *offset* it may be repeated; who does so has to know that it was. */
export function ptyInput(sandboxId: string, ptyId: string, offset: number | undefined): Request {
  const target = withQuery(ptyPath(sandboxId, ptyId, "/input"), { offset });
  return { method: "POST", target, headers: { "Content-Type": "application/octet-stream" }, repeat: "if-unsent" };
}

export function resizePty(sandboxId: string, ptyId: string, cols: number, rows: number): Request {
  return { method: "POST", target: ptyPath(sandboxId, ptyId, "/resize"), body: { cols, rows }, repeat: "if-lost" };
}

export function closePty(sandboxId: string, ptyId: string): Request {
  return { method: "DELETE", target: ptyPath(sandboxId, ptyId), repeat: "if-lost" };
}

function ptyPath(sandboxId: string, ptyId: string, rest = ""): string {
  return sandboxPath(sandboxId, `pty/${segment(ptyId, "terminal", "cmd")}${rest}`);
}

// ---- variables ----

export function listEnv(sandboxId: string): Request {
  return ask(sandboxPath(sandboxId, "env"));
}

export function changeEnv(
  sandboxId: string,
  toSet: Readonly<Record<string, string>>,
  toUnset: readonly string[],
): Request {
  const body = { set: { ...toSet }, unset: [...toUnset] };
  return { method: "PATCH", target: sandboxPath(sandboxId, "env"), body, repeat: "if-lost" };
}
