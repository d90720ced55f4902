/** Bytes in any cuts → payloads of server-sent events, as the HTML standard's event streams say. */

import { BadReply } from "../errors/index.js";
import { concat } from "./bytes.js";

const MAX_EVENT_BYTES = 8 * 1024 * 1024; // a server's chunk is 64 KiB at most; more is no event stream of ours
const CR = 13;
const LF = 10;
const DATA = "data";

/** Cut a byte stream into events. Only `data` matters here; an event that is not finished is never seen. */
export class EventParser {
  readonly #maxBytes: number;
  #line: Uint8Array[] = [];
  #data: string[] = [];
  #size = 0;
  #afterCr = false;

  constructor(maxBytes = MAX_EVENT_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Return the payloads that *chunk* completes.
   *
   * @throws BadReply - An event grows beyond *maxBytes*.
   */
  feed(chunk: Uint8Array): string[] {
    const payloads: string[] = [];
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at];
      if (byte === LF && this.#afterCr) {
        start = at + 1; // the second half of a line end whose first half was a line end already
      } else if (byte === LF || byte === CR) {
        this.#append(chunk.subarray(start, at));
        this.#endLine(payloads);
        start = at + 1;
      }
      this.#afterCr = byte === CR;
    }
    this.#append(chunk.slice(start)); // a copy: whoever reads the stream may use its buffer again
    return payloads;
  }

  #append(part: Uint8Array): void {
    if (part.length === 0) return;
    this.#size += part.length;
    if (this.#size > this.#maxBytes) {
      throw new BadReply(`The server sent an event of more than ${this.#maxBytes >> 20} MiB`);
    }
    this.#line.push(part);
  }

  #endLine(payloads: string[]): void {
    if (this.#line.length === 0) {
      if (this.#data.length > 0) payloads.push(this.#data.join("\n"));
      this.#data = [];
      this.#size = 0;
      return;
    }
    const bytes = concat(this.#line);
    this.#line = [];
    const line = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const colon = line.indexOf(":");
    if (colon >= 0 ? line.slice(0, colon) !== DATA : line !== DATA) {
      this.#size -= bytes.length; // a comment keeps the connection alive and weighs nothing
      return;
    }
    const value = colon >= 0 ? line.slice(colon + 1) : "";
    this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}
