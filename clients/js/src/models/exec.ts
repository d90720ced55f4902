/** Commands: what happens while they run, and what they leave behind. */

import { CommandFailed } from "../errors/index.js";

/** The command runs. First event of every command's stream. */
export interface Started {
  readonly kind: "started";
  /** In the guest. */
  readonly pid: number;
  /** What `attach` follows the command by. */
  readonly commandId: string;
}

/** The command wrote to its standard output (`stdout`) or standard error (`stderr`). */
export interface Written {
  readonly kind: "stdout" | "stderr";
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
  readonly kind: "exited";
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

/** A background command as the server last described it. */
export interface CommandInfo {
  readonly id: string;
  /** Its first 4 KiB. */
  readonly command: string;
  /** In the guest. */
  readonly pid: number | null;
  /** `running`; `exited`, with an exit code; `killed`, without one: by `kill`, a signal, or lack of memory. */
  readonly status: "running" | "exited" | "killed" | (string & {});
  readonly exitCode: number | null;
  readonly startedAt: Date | null;
}

/** A terminal as the server last described it. Members as of `CommandInfo`. */
export type PtyInfo = CommandInfo;

/** A part of a background command's log. */
export interface LogPage {
  /** Stdout and stderr in the order they were written. */
  readonly content: string;
  /** Where it begins, in bytes. */
  readonly offset: number;
  /** Bytes that the command has written until now. */
  readonly size: number;
  /** Where the next page begins. */
  readonly nextOffset: number;
  /** More follows already. */
  readonly truncated: boolean;
}
