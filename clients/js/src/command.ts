/** One background command. */

import type { CallOptions, Terp } from "./client.js";
import { inspect } from "./dispose.js";
import { LogDropped } from "./errors/index.js";
import { follow, type WaitOptions, waitFor } from "./following.js";
import type { CommandInfo, ExecEvent, LogPage } from "./models/exec.js";
import { readCommand, readLog } from "./replies/commands.js";
import * as requests from "./requests/commands.js";

export interface OffsetOptions extends CallOptions {
  /** Bytes to leave out. */
  readonly offset?: number | undefined;
}

/**
 * A command that runs in the background: `Sandbox.start` starts one, `Sandbox.command` finds it again.
 *
 *     const server = await sbx.start("python -m http.server 8000");
 *     for await (const event of server.stream()) console.log(event);
 *
 * It needs no connection, goes on after a pause, and ends with its sandbox. What it writes, stdout and stderr in the
 * order of writing, goes to a log in the sandbox, whose last 64 MiB are kept.
 *
 * Every method may throw ExecNotFound, StateConflict (the sandbox does not run), and what any request may throw:
 * ConnectionFailed, RequestTimeout, Unauthenticated.
 */
export class Command {
  readonly #client: Terp;
  readonly #sandboxId: string;
  #info: CommandInfo;

  /** @internal */
  constructor(client: Terp, sandboxId: string, info: CommandInfo) {
    this.#client = client;
    this.#sandboxId = sandboxId;
    this.#info = info;
  }

  /** Ask the server how the command is now. */
  async refresh(options: CallOptions = {}): Promise<void> {
    const request = requests.getCommand(this.#sandboxId, this.id);
    this.#info = readCommand(await this.#client.call(request, { signal: options.signal }));
  }

  /**
   * Return the exit code when the command has ended; null when it was killed.
   *
   * @throws DeadlineExceeded - It still runs at the end of `timeout`. Nothing is done to it.
   */
  wait(options: WaitOptions = {}): Promise<number | null> {
    return waitFor(this, "command", options);
  }

  /** End it and all it started: SIGTERM, then SIGKILL. Doing it again, or when it has ended, does nothing. */
  async kill(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.killCommand(this.#sandboxId, this.id), { signal: options.signal });
    await this.refresh(options);
  }

  /**
   * Return a part of what it has written.
   *
   * @param options - `offset`: `nextOffset` of the page before. If not given, from the first that is kept.
   * @throws LogDropped - What is there is not kept any more.
   */
  async logs(options: OffsetOptions = {}): Promise<LogPage> {
    try {
      return await this.#page(options.offset ?? 0, options);
    } catch (error) {
      if (!(error instanceof LogDropped) || options.offset !== undefined || error.firstOffset === undefined)
        throw error;
      return await this.#page(error.firstOffset, options);
    }
  }

  /**
   * Yield what it writes from *offset* on as `stdout`, and `exited` when it ends by itself.
   *
   * A broken connection is made again, and nothing is lost or comes twice.
   *
   * @throws ExecKilled - It was killed.
   * @throws LogDropped - What is there is not kept any more, or the reader was too slow.
   * @throws StateConflict - The sandbox was paused. After a resume go on from `event.offset + event.data.length`.
   */
  stream(options: OffsetOptions = {}): AsyncGenerator<ExecEvent, void, void> {
    const requestAt = (offset: number) => requests.followLog(this.#sandboxId, this.id, offset);
    return follow(this.#client, requestAt, { offset: options.offset ?? 0, gaps: false }, options);
  }

  async #page(offset: number, options: CallOptions): Promise<LogPage> {
    const request = requests.readLog(this.#sandboxId, this.id, offset);
    return readLog(await this.#client.call(request, { signal: options.signal }), offset);
  }

  get info(): CommandInfo {
    return this.#info;
  }

  get id(): string {
    return this.#info.id;
  }

  get command(): string {
    return this.#info.command;
  }

  get pid(): number | null {
    return this.#info.pid;
  }

  get status(): string {
    return this.#info.status;
  }

  get exitCode(): number | null {
    return this.#info.exitCode;
  }

  get startedAt(): Date | null {
    return this.#info.startedAt;
  }

  /** @internal */
  [inspect](): string {
    return `<Command ${this.id} ${this.status}>`;
  }
}
