/** Commands: what happens while they run, and what they leave behind. */

import { CommandFailed } from "../errors/index.js";

/** The command runs. First event of every command's stream. */
export interface Started {
  readonly type: "started";
  /** In the guest. */
  readonly pid: number;
  /** What `attach` follows the command by. */
  readonly commandId: string;
}

/** The command wrote to its standard output (`stdout`) or standard error (`stderr`). */
export interface Written {
  readonly type: "stdout" | "stderr";
  /** The bytes as written. */
  readonly data: Uint8Array;
  /** The same decoded as UTF-8; a character cut by the end of `data` comes with the next event. */
  readonly text: string;
  /**
   * Where `data` begins in the command's output, in bytes of both streams together: `attach` goes on behind it from
   * `offset + data.length`.
   */
  readonly offset: number;
}

/** The command has ended by itself. Last event of every stream. */
export interface Exited {
  readonly type: "exited";
  readonly exitCode: number;
  readonly durationMs: number;
}

export type ExecEvent = Started | Written | Exited;

/** What a command left behind. */
export class ExecResult {
  /**
   * @param stdout - Decoded as UTF-8, undecodable bytes replaced, as is stderr; `execStream` gives the bytes.
   * @param exitCode - 0 to 255. Not 0 is a value, no error, until `check` is called.
   * @param durationMs - Run time in the guest.
   * @param truncated - More than 16 Mi characters came on a stream; what followed is not in the text.
   */
  constructor(
    readonly stdout: string,
    readonly stderr: string,
    readonly exitCode: number,
    readonly durationMs: number,
    readonly truncated: boolean = false,
  ) {}

  /**
   * Return this result.
   *
   * @throws CommandFailed - The exit code is not 0.
   */
  check(): this {
    if (this.exitCode !== 0) throw new CommandFailed(this);
    return this;
  }
}
