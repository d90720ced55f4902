/** Errors of this library's own. */

import type { Execution } from "../models/code.js";
import type { ExecResult } from "../models/exec.js";
import { type Circumstances, TerpError } from "./base.js";

/** Thrown by `ExecResult.check()` alone: the command ended with an exit code other than 0. */
export class CommandFailed extends TerpError {
  static override readonly code: string = "command_failed";
  override readonly name: string = "CommandFailed";
  /** The whole result. */
  readonly result: ExecResult;

  constructor(result: ExecResult) {
    const lastWords = result.stderr.trim().split("\n").at(-1);
    super(`The command ended with exit code ${result.exitCode}${lastWords ? `: ${lastWords}` : ""}`);
    this.result = result;
  }
}

/** Thrown by `Execution.check()` alone: the code raised something, or ran into its timeout. */
export class CodeFailed extends TerpError {
  static override readonly code: string = "code_failed";
  override readonly name: string = "CodeFailed";
  /** All that came of it. */
  readonly execution: Execution;

  constructor(execution: Execution) {
    const { error } = execution;
    super(error ? `${error.name}: ${error.value}` : "The code ran into its timeout");
    this.execution = execution;
  }
}

/** Some files of `files.writeMany` were not written; all others were. */
export class PartialWrite extends TerpError {
  static override readonly code: string = "partial_write";
  override readonly name: string = "PartialWrite";
  /** What went wrong, by path. */
  readonly failed: ReadonlyMap<string, TerpError>;

  constructor(failed: ReadonlyMap<string, TerpError>) {
    const [first] = failed;
    super(`Files not written: ${failed.size}${first ? `. The first, ${first[0]}: ${first[1].detail}` : ""}`);
    this.failed = failed;
  }
}

/** The server was not reached, or the connection broke. */
export class ConnectionFailed extends TerpError {
  static override readonly code: string = "connection_failed";
  override readonly name: string = "ConnectionFailed";
  override readonly retryable: boolean = true;
  /** False when nothing was sent, so that the server cannot have done anything. */
  readonly sent: boolean;

  constructor(detail: string, circumstances: Circumstances & { sent?: boolean } = {}) {
    super(detail, circumstances);
    this.sent = circumstances.sent ?? true;
  }
}

/** The server was silent for longer than the client's timeout. It may have done what was asked. */
export class RequestTimeout extends TerpError {
  static override readonly code: string = "request_timeout";
  override readonly name: string = "RequestTimeout";
  override readonly retryable: boolean = true;
}

/** What answered does not speak the Terp API. Check the base URL. */
export class BadReply extends TerpError {
  static override readonly code: string = "bad_reply";
  override readonly name: string = "BadReply";
}
