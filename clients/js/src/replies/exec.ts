/** Payloads of one exec's stream → Started, Written, Exited; an `error` payload is thrown. */

import { BadReply, type TerpError } from "../errors/index.js";
import type { ExecEvent } from "../models/exec.js";
import { fromBase64 } from "../protocol/bytes.js";
import { isObject, type Json } from "../protocol/fields.js";
import { errorByCode } from "./errors.js";

const ERROR_CODES: Readonly<Record<string, string>> = { killed_by_signal: "exec_killed" };

/** A reader of one stream's payloads. `finished` is true after the last event. */
export interface PayloadReader<Event> {
  readonly finished: boolean;
  /** Of one event; if not given, the parser's own. */
  readonly maxEventBytes?: number;
  /** What *payload* says; an unknown kind says nothing. */
  read(payload: string): Iterable<Event>;
}

/** Reads the payloads of one exec, of one stream or of several that go on from each other. */
export class ExecReader implements PayloadReader<ExecEvent> {
  readonly #decoders = { stdout: decoder(), stderr: decoder() };
  /** Of the output so far, in bytes: where the next stream is to begin. */
  end: number;
  finished = false;

  constructor(offset = 0) {
    this.end = offset;
  }

  *read(payload: string): Generator<ExecEvent, void> {
    const frame = parseFrame(payload);
    if (frame.kind === "exec_started") {
      yield { kind: "started", pid: integer(frame.pid ?? 0), commandId: String(frame.command_id ?? "") };
    } else if (frame.kind === "exec_chunk") {
      yield* this.#output(frame);
    } else if (frame.kind === "exec_exited") {
      const exitCode = integer(frame.code);
      const durationMs = integer(frame.duration_ms);
      this.finished = true;
      yield* this.#rest();
      yield { kind: "exited", exitCode, durationMs };
    } else if (frame.kind === "error") {
      this.finished = true;
      throw streamError(frame);
    }
  }

  *#output(frame: Json): Generator<ExecEvent, void> {
    const kind = frame.stream;
    if (kind !== "stdout" && kind !== "stderr") throw strange(`stream ${kind}`);
    let data = bytes(frame.data);
    let offset = integer(frame.offset ?? this.end);
    if (offset < this.end) {
      data = data.subarray(this.end - offset); // seen before, on the stream that this one goes on from
      offset = this.end;
      if (data.length === 0) return;
    }
    this.end = offset + data.length;
    yield { kind, data, text: this.#decoders[kind].decode(data, { stream: true }), offset };
  }

  /** The replacement for a character whose end never came. */
  *#rest(): Generator<ExecEvent, void> {
    for (const kind of ["stdout", "stderr"] as const) {
      const text = this.#decoders[kind].decode();
      if (text) yield { kind, data: new Uint8Array(), text, offset: this.end };
    }
  }
}

/** @throws BadReply - It is no JSON object. */
export function parseFrame(payload: string): Json {
  let frame: unknown;
  try {
    frame = JSON.parse(payload);
  } catch (error) {
    throw strange(String(error));
  }
  if (!isObject(frame)) throw strange("no object");
  return frame;
}

/** Return what an `error` frame of a stream says. */
export function streamError(frame: Json): TerpError {
  const { kind: _, code, message, detail, ...fields } = frame;
  const named = String(code || "internal");
  const words = String(message || detail || "The command failed and the server gave no reason");
  return errorByCode(ERROR_CODES[named] ?? named, words, fields);
}

export function strange(why: string): BadReply {
  return new BadReply(`An event of the stream is not as agreed; is the server older or newer? (${why})`);
}

function decoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}

function integer(value: unknown): number {
  if (typeof value !== "number") throw strange("a number is missing");
  return value;
}

function bytes(value: unknown): Uint8Array {
  if (typeof value !== "string") throw strange("a chunk without data");
  try {
    return fromBase64(value);
  } catch (error) {
    throw strange(String(error));
  }
}
