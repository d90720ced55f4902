/** Terminals in a sandbox. */

import type { CallOptions, Terp } from "./client.js";
import type { OffsetOptions } from "./command.js";
import { inspect } from "./dispose.js";
import { ExecKilled } from "./errors/index.js";
import { follow, isPassing, type WaitOptions, waitFor } from "./following.js";
import type { PtyInfo } from "./models/exec.js";
import { toBytes } from "./protocol/bytes.js";
import { sleep } from "./protocol/sleep.js";
import { readPty, readTyped } from "./replies/commands.js";
import * as requests from "./requests/commands.js";

const MAX_INPUT_BYTES = 32 * 1024; // of one request
const ATTEMPTS = 6;
const FIRST_DELAY_S = 0.1; // doubled each time

/**
 * A terminal with a program in it: `Sandbox.pty` opens one, `Sandbox.attachPty` finds it again.
 *
 *     const pty = await sbx.pty();
 *     await pty.write("ls\n");
 *     for await (const data of pty.output()) process.stdout.write(data);
 *
 * It stays when nobody is attached, goes on after a pause, and ends with its program or its sandbox.
 *
 * Every method may throw ExecNotFound, StateConflict (the sandbox does not run), and what any request may throw:
 * ConnectionFailed, RequestTimeout, Unauthenticated.
 */
export class Pty {
  readonly #client: Terp;
  readonly #sandboxId: string;
  #info: PtyInfo;
  #typed: number | undefined; // bytes that the terminal has accepted; undefined: others typed, it is to be asked
  #typing: Promise<unknown> = Promise.resolve();

  /** @internal */
  constructor(client: Terp, sandboxId: string, info: PtyInfo, typed: number | undefined) {
    this.#client = client;
    this.#sandboxId = sandboxId;
    this.#info = info;
    this.#typed = typed;
  }

  /**
   * Type *data*: each byte once, also when a connection breaks meanwhile. Calls take their turns.
   *
   * Let one object at a time type into a terminal: what two type at the same moment may be lost.
   *
   * @throws LimitExceeded - The program does not read; a part may have been typed.
   */
  write(data: string | Uint8Array, options: CallOptions = {}): Promise<void> {
    const turn = this.#typing.then(() => this.#write(toBytes(data), options));
    this.#typing = turn.catch(() => {}); // its caller hears of it; the next one's turn comes all the same
    return turn;
  }

  /**
   * Yield what the terminal shows, escape sequences included, until its program ends.
   *
   * A broken connection is made again. The sandbox keeps a bounded part of the output: where older output is gone, it
   * goes on with what is kept.
   */
  async *output(options: OffsetOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    const requestAt = (offset: number) => requests.ptyOutput(this.#sandboxId, this.id, offset);
    try {
      for await (const event of follow(this.#client, requestAt, { offset: options.offset ?? 0, gaps: true }, options)) {
        if ("data" in event && event.data.length > 0) yield event.data;
      }
    } catch (error) {
      if (!(error instanceof ExecKilled)) throw error; // that is how terminals end; `wait` says it
    }
  }

  /** Tell the program that the terminal has another size, in characters, each 1 to 1000. */
  async resize(cols: number, rows: number, options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.resizePty(this.#sandboxId, this.id, cols, rows), { signal: options.signal });
  }

  /** Hang up, then kill what is still there. Doing it again, or when it has ended, does nothing. */
  async kill(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.closePty(this.#sandboxId, this.id), { signal: options.signal });
  }

  /** Ask the server how the terminal is now. */
  async refresh(options: CallOptions = {}): Promise<void> {
    const request = requests.getPty(this.#sandboxId, this.id);
    this.#info = readPty(await this.#client.call(request, { signal: options.signal }));
  }

  /**
   * Return the program's exit code when it has ended; null when it was killed.
   *
   * @throws DeadlineExceeded - It still runs at the end of `timeout`. Nothing is done to it.
   */
  wait(options: WaitOptions = {}): Promise<number | null> {
    return waitFor(this, "terminal", options);
  }

  async #write(data: Uint8Array, options: CallOptions): Promise<void> {
    this.#typed ??= await this.#type(undefined, new Uint8Array(), options);
    for (let left = data; left.length > 0; ) {
      const begin = this.#typed;
      const piece = left.subarray(0, MAX_INPUT_BYTES);
      const { typed, repeated } = await this.#typeAgain(begin, piece, options);
      this.#typed = typed;
      const accepted = typed - begin;
      if (accepted <= piece.length || repeated) left = left.subarray(Math.min(accepted, piece.length));
      // else somebody else had typed before: none of this was taken, so it goes to where the terminal is now
    }
  }

  /** Return what the terminal has accepted from the start, and whether that took more than one request. */
  async #typeAgain(
    offset: number,
    data: Uint8Array,
    options: CallOptions,
  ): Promise<{ typed: number; repeated: boolean }> {
    for (let failures = 0; ; ) {
      try {
        return { typed: await this.#type(offset, data, options), repeated: failures > 0 };
      } catch (error) {
        failures += 1;
        if (!isPassing(error) || failures >= ATTEMPTS) throw error;
        await sleep(FIRST_DELAY_S * 2 ** (failures - 1), options.signal);
      }
    }
  }

  async #type(offset: number | undefined, data: Uint8Array, options: CallOptions): Promise<number> {
    const request = requests.ptyInput(this.#sandboxId, this.id, offset);
    return readTyped(await this.#client.call(request, { content: data, signal: options.signal }));
  }

  get info(): PtyInfo {
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
    return `<Pty ${this.id} ${this.status}>`;
  }
}
