/** Headers of POSIX tar archives (ustar with pax records), read and written. */

import { BadReply } from "../errors/index.js";
import { concat, toBytes } from "../protocol/bytes.js";

export const BLOCK = 512;
const OCTAL_SIZE = 8 ** 11; // the first that does not fit

export interface Entry {
  readonly name: string;
  readonly kind: "file" | "directory" | "symlink" | "link" | "other";
  /** Permission bits. */
  readonly mode: number;
  /** Seconds. */
  readonly mtime: number;
  /** Bytes of content that follow. */
  readonly size: number;
  /** Of links. */
  readonly target: string;
}

const KINDS: Readonly<Record<string, Entry["kind"]>> = {
  "0": "file",
  "\0": "file",
  "1": "link",
  "2": "symlink",
  "5": "directory",
};

/** Bytes to the next block. */
export function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

/** Return the header of *entry*, and before it a record of what does not fit in there. */
export function writeHeader(entry: Entry): Uint8Array {
  const records: string[] = [];
  if (toBytes(entry.name).length > 100) records.push(record("path", entry.name));
  if (toBytes(entry.target).length > 100) records.push(record("linkpath", entry.target));
  if (entry.size >= OCTAL_SIZE) records.push(record("size", String(entry.size)));
  const header = block(entry, { file: "0", directory: "5", symlink: "2", link: "1", other: "0" }[entry.kind]);
  if (records.length === 0) return header;
  const content = toBytes(records.join(""));
  const extended = { ...entry, name: "pax", target: "", mode: 0o644, size: content.length };
  return concat([block(extended, "x"), content, new Uint8Array(padding(content.length)), header]);
}

/** Its length is part of it. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  const size = toBytes(rest).length;
  const digits = String(size + String(size).length).length;
  return `${size + digits}${rest}`;
}

function block(entry: Entry, type: string): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(BLOCK);
  const put = (text: string, at: number, size: number) => header.set(toBytes(text).subarray(0, size), at);
  const octal = (value: number, at: number, size: number) =>
    put(
      `${Math.min(value, 8 ** (size - 1) - 1)
        .toString(8)
        .padStart(size - 1, "0")}\0`,
      at,
      size,
    );
  put(entry.name, 0, 100);
  octal(entry.mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(entry.size, 124, 12);
  octal(Math.max(0, Math.trunc(entry.mtime)), 136, 12);
  put("        ", 148, 8);
  put(type, 156, 1);
  put(entry.target, 157, 100);
  put("ustar\0", 257, 6);
  put("00", 263, 2);
  put(`${sum(header).toString(8).padStart(6, "0")}\0 `, 148, 8);
  return header;
}

function sum(header: Uint8Array): number {
  return header.reduce((total, byte) => total + byte, 0);
}

/** A header as it stands, and what kind of further header it is, if it is one. */
export interface Header extends Entry {
  readonly type: string;
}

/**
 * Return what a block says; undefined for one of zeros, which ends an archive.
 *
 * @throws BadReply - It is no header.
 */
export function readHeader(header: Uint8Array, extended: ReadonlyMap<string, string>): Header | undefined {
  if (header.every((byte) => byte === 0)) return undefined;
  const checked = header.slice();
  checked.fill(32, 148, 156);
  if (octalAt(header, 148, 8) !== sum(checked)) throw new BadReply("What came is no tar archive: a checksum is wrong");
  const type = String.fromCharCode(header[156] ?? 0);
  const prefix = textAt(header, 257, 5) === "ustar" && header[262] === 0 ? textAt(header, 345, 155) : "";
  const name = textAt(header, 0, 100);
  const size = extended.has("size") ? Number(extended.get("size")) : octalAt(header, 124, 12);
  if (!Number.isSafeInteger(size) || size < 0) throw new BadReply("What came is no tar archive: a size is none");
  return {
    type,
    kind: KINDS[type] ?? "other",
    name: extended.get("path") ?? (prefix ? `${prefix}/${name}` : name),
    mode: octalAt(header, 100, 8) & 0o777,
    mtime: Number(extended.get("mtime")) || octalAt(header, 136, 12),
    size,
    target: extended.get("linkpath") ?? textAt(header, 157, 100),
  };
}

/** Return pax records by key; what is none is left out. */
export function readRecords(content: Uint8Array): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(32, at);
    const size = space < 0 ? Number.NaN : Number(new TextDecoder().decode(content.subarray(at, space)));
    if (!Number.isInteger(size) || size <= space - at || at + size > content.length) break;
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(content.subarray(space + 1, at + size - 1));
    const equals = text.indexOf("=");
    if (equals > 0) records.set(text.slice(0, equals), text.slice(equals + 1));
    at += size;
  }
  return records;
}

function textAt(header: Uint8Array, at: number, size: number): string {
  const bytes = header.subarray(at, at + size);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

function octalAt(header: Uint8Array, at: number, size: number): number {
  const text = textAt(header, at, size).trim();
  if (text === "") return 0;
  if (!/^[0-7]+$/.test(text)) throw new BadReply("What came is no tar archive: a number is none");
  return Number.parseInt(text, 8);
}
