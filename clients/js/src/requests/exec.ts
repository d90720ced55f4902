/** Requests about commands. */

import { toText } from "../protocol/bytes.js";
import { ACCEPT_EVENTS, ask, given, type Request, sandboxPath, segment, withQuery } from "../protocol/request.js";
import { type Command, shellLine } from "../protocol/shell.js";

/** How a command is run. */
export interface Run {
  /** `/workspace` if not given. */
  readonly cwd?: string;
  /** On top of the sandbox's own. */
  readonly env?: Readonly<Record<string, string>>;
  /**
   * Variables over `env`, for this command alone: in the guest's memory until it is started, on no disk and in no
   * snapshot.
   */
  readonly secrets?: Readonly<Record<string, string>>;
}

export interface TimedRun extends Run {
  /** Seconds, 60 if not given; then the command and all it started get SIGTERM, and SIGKILL 2 s later. */
  readonly timeout?: number;
  /** What the command reads, UTF-8 of at most 8 MiB; if not given, an empty input. */
  readonly stdin?: string | Uint8Array;
}

export function runBody(command: Command, run: Run): Record<string, unknown> {
  const secrets = run.secrets && Object.keys(run.secrets).length > 0 ? { ...run.secrets } : undefined;
  return given({ command: shellLine(command), cwd: run.cwd ?? "/workspace", env: { ...run.env }, secrets });
}

export function execStream(sandboxId: string, command: Command, run: TimedRun): Request {
  const stdin =
    run.stdin instanceof Uint8Array
      ? toText(run.stdin, "stdin must be UTF-8. For other bytes write a file, and redirect it: command < /tmp/input")
      : run.stdin;
  const body = given({ ...runBody(command, run), timeout_seconds: run.timeout ?? 60, stream: true, stdin });
  return { method: "POST", target: sandboxPath(sandboxId, "exec"), body, headers: ACCEPT_EVENTS, repeat: "if-unsent" };
}

export function attach(sandboxId: string, commandId: string, offset: number): Request {
  const path = sandboxPath(sandboxId, `exec/${segment(commandId, "command", "cmd")}`);
  return ask(withQuery(path, { offset }), ACCEPT_EVENTS);
}
