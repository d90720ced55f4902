/** Server-sent events, in whatever pieces they come. */

import { expect, test } from "vitest";
import { BadReply } from "../src/index.js";
import { EventParser } from "../src/protocol/events.js";

const STREAM = ': hello\r\n\r\nevent: x\rdata: {"a":\ndata:"ü\u2028"}\n\nid: 1\n\ndata\n\ndata: b\r\rdata: unfinished';
const PAYLOADS = ['{"a":\n"ü\u2028"}', "", "b"];

function feed(parser: EventParser, ...pieces: Uint8Array[]): string[] {
  return pieces.flatMap((piece) => parser.feed(piece));
}

test("cut anywhere, a stream says the same", () => {
  const bytes = new TextEncoder().encode(STREAM);

  expect(feed(new EventParser(), bytes)).toEqual(PAYLOADS);
  expect(feed(new EventParser(), ...Array.from(bytes, (byte) => new Uint8Array([byte])))).toEqual(PAYLOADS);
  for (let first = 0; first <= bytes.length; first++) {
    for (let second = first; second <= bytes.length; second++) {
      const pieces = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
      expect(feed(new EventParser(), ...pieces)).toEqual(PAYLOADS);
    }
  }
});

test("a piece whose memory is used again does no harm", () => {
  const parser = new EventParser();
  const piece = new TextEncoder().encode("data: a");
  parser.feed(piece);
  piece.fill(0);

  expect(feed(parser, new TextEncoder().encode("\n\n"))).toEqual(["a"]);
});

test("an event without end is refused, comments without end are not", () => {
  const comment = new TextEncoder().encode(`:${"c".repeat(999)}\n`);
  const parser = new EventParser(10_000);
  for (let count = 0; count < 100; count++) parser.feed(comment);

  expect(() => {
    for (let count = 0; count < 11; count++) parser.feed(new TextEncoder().encode("x".repeat(1000)));
  }).toThrow(BadReply);
});
