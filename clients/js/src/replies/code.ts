/** Code in kernels: its events off the wire, and what they add up to. */

import { Internal, type TerpError } from "../errors/index.js";
import {
  type CodeContextInfo,
  type CodeDone,
  type CodeError,
  type CodeEvent,
  Execution,
  Result,
} from "../models/code.js";
import { fromBase64 } from "../protocol/bytes.js";
import { type Fields, isObject, type Json, readAs } from "../protocol/fields.js";
import { CappedText } from "../protocol/output.js";
import { errorByCode } from "./errors.js";
import { type PayloadReader, parseFrame, strange } from "./exec.js";

const MAX_RESULTS = 64; // the server's cap

export function readContext(body: Json): CodeContextInfo {
  return readAs("a code context", body, context);
}

export function readContexts(body: Json): CodeContextInfo[] {
  return readAs("code contexts", body, (reply) => reply.list("contexts", context));
}

/** Reads the payloads of one run. */
export class CodeReader implements PayloadReader<CodeEvent> {
  // A result has 4 MiB in all its forms at most, and is written in ASCII: six characters for one of UTF-8 at worst.
  readonly maxEventBytes = 32 * 1024 * 1024;
  finished = false;

  *read(payload: string): Generator<CodeEvent, void> {
    const frame = parseFrame(payload);
    const { kind } = frame;
    if (kind === "stream") {
      const stream = frame.stream === "stderr" ? "stderr" : "stdout";
      yield readAs("output", frame, (event) => ({ kind: "text", stream, text: event.text("text") }) as const);
    } else if (kind === "result") {
      yield readAs("a result", frame.result, result);
    } else if (kind === "error" && frame.error_code === undefined && frame.code === undefined) {
      yield readAs("an error of code", frame.error, codeError);
    } else if (kind === "error") {
      this.finished = true;
      throw failure(frame);
    } else if (kind === "done") {
      this.finished = true;
      yield readAs("the end of code", frame, done);
    }
  }
}

/** What a run came to, to a limit: feed it all its events, then ask for the execution. */
export class Collected {
  readonly #texts = { stdout: new CappedText(), stderr: new CappedText() };
  readonly #results: Result[] = [];
  readonly #cut = new Set<string>();
  #error: CodeError | null = null;
  #done: CodeDone | undefined;

  add(event: CodeEvent): void {
    if (event.kind === "text") this.#texts[event.stream].add(event.text);
    else if (event.kind === "error") this.#error = event;
    else if (event.kind === "done") this.#done = event;
    else if (this.#results.length < MAX_RESULTS) this.#results.push(event);
    else this.#cut.add("results");
  }

  execution(): Execution {
    const done = this.#done;
    if (!done) throw new Internal("A run's stream ended without its end");
    const { stdout, stderr } = this.#texts;
    if (stdout.truncated) this.#cut.add("stdout");
    if (stderr.truncated) this.#cut.add("stderr");
    const cutHere = [...this.#cut].filter((what) => !done.truncated.includes(what)).sort();
    return new Execution(
      this.#results,
      stdout.text,
      stderr.text,
      done.error ?? this.#error,
      done.executionCount,
      done.contextId,
      done.durationMs,
      done.interrupted,
      done.restarted,
      [...done.truncated, ...cutHere],
    );
  }
}

function context(row: Fields): CodeContextInfo {
  return {
    id: row.text("context_id"),
    language: row.textOrNull("language") ?? "python",
    cwd: row.textOrNull("cwd"),
    createdAt: row.timeOrNull("created_at"),
    lastUsedAt: row.timeOrNull("last_used_at"),
    executions: row.numberOrNull("executions") ?? 0,
    alive: row.flag("alive", true),
  };
}

function result(row: Fields): Result {
  const png = row.textOrNull("png");
  const chart = row.raw("chart");
  return new Result({
    type: row.text("type"),
    text: row.textOrNull("text"),
    html: row.textOrNull("html"),
    markdown: row.textOrNull("markdown"),
    latex: row.textOrNull("latex"),
    svg: row.textOrNull("svg"),
    png: png === null ? null : image(png),
    json: row.raw("json"),
    chart: isObject(chart) ? chart : null,
    isMain: row.flag("is_main", false),
  });
}

function codeError(row: Fields): CodeError {
  return {
    kind: "error",
    name: row.text("name"),
    value: row.text("value"),
    traceback: row.textsOrNull("traceback") ?? [],
  };
}

function done(frame: Fields): CodeDone {
  const error = frame.objectOrNull("error");
  return {
    kind: "done",
    contextId: frame.text("context_id"),
    executionCount: frame.numberOrNull("execution_count"),
    durationMs: frame.number("duration_ms"),
    error: error && codeError(error),
    interrupted: frame.flag("interrupted", false),
    restarted: frame.flag("restarted", false),
    truncated: frame.textsOrNull("truncated") ?? [],
  };
}

function failure(frame: Json): TerpError {
  const { kind: _, error_code: errorCode, code, error, ...fields } = frame;
  const value = isObject(error) ? error.value : undefined;
  const detail = frame.message || frame.detail || value || "The code failed and the server gave no reason";
  return errorByCode(String(errorCode || code), String(detail), fields);
}

function image(text: string): Uint8Array {
  try {
    return fromBase64(text); // Jupyter breaks its lines, which is no harm
  } catch (error) {
    throw strange(String(error));
  }
}
