/** A command's output collected, to a limit: a guest that writes without end must not fill this process' memory. */

import { ExecKilled, ExecTimeout, Internal } from "../errors/index.js";
import { type ExecEvent, ExecResult, type Exited } from "../models/exec.js";

const MAX_OUTPUT_CHARACTERS = 16 * 1024 * 1024; // per stream

/** Feed it all events of one exec, then ask for the result. */
export class Output {
  readonly #texts = { stdout: new CappedText(), stderr: new CappedText() };
  #exited: Exited | undefined;

  add(event: ExecEvent): void {
    if (event.kind === "exited") this.#exited = event;
    else if (event.kind !== "started") this.#texts[event.kind].add(event.text);
  }

  result(): ExecResult {
    const { stdout, stderr } = this.#texts;
    if (!this.#exited) throw new Internal("A command's stream ended without its end");
    const { exitCode, durationMs } = this.#exited;
    return new ExecResult(stdout.text, stderr.text, exitCode, durationMs, stdout.truncated || stderr.truncated);
  }

  /** Give an error that ended the command what the command had written until then. */
  attachTo(error: unknown): void {
    if (error instanceof ExecTimeout || error instanceof ExecKilled) {
      error.stdout = this.#texts.stdout.text;
      error.stderr = this.#texts.stderr.text;
    }
  }
}

/** Text to 16 Mi characters. */
export class CappedText {
  readonly #parts: string[] = [];
  #room = MAX_OUTPUT_CHARACTERS;
  truncated = false;

  add(text: string): void {
    this.truncated ||= text.length > this.#room;
    this.#parts.push(text.slice(0, this.#room));
    this.#room -= Math.min(this.#room, text.length);
  }

  get text(): string {
    return this.#parts.join("");
  }
}
