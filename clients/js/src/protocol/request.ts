/** A request as a value. It carries its own answer to "may it be sent twice?", so that the retry rule knows no endpoint. */

import { InvalidRequest } from "../errors/index.js";
import type { Json } from "./fields.js";

/**
 * When a request may be sent again without asking the user. When the server is full, any may: nothing was created or
 * changed.
 *
 * - `if-unsent`: it acts anew each time
 * - `if-lost`: doing it twice is doing it once
 * - `if-lost-or-silent`: the same, and a wish unheard is worth asking twice: create
 */
export type Repeat = "if-unsent" | "if-lost" | "if-lost-or-silent";

export interface Request {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Path and query, percent-encoded. */
  readonly target: string;
  /** Goes out as JSON. */
  readonly body?: Json;
  readonly headers?: Readonly<Record<string, string>>;
  readonly repeat: Repeat;
}

export const ACCEPT_EVENTS = { Accept: "text/event-stream, application/json" } as const;

/** A question: asking twice is asking once. */
export function ask(target: string, headers: Readonly<Record<string, string>> = {}): Request {
  return { method: "GET", target, headers, repeat: "if-lost" };
}

export function sandboxPath(sandboxId: string, rest = ""): string {
  const path = `/v1/sandboxes/${segment(sandboxId, "sandbox", "sbx")}`;
  return rest ? `${path}/${rest}` : path;
}

/**
 * Return an id as a part of a path.
 *
 * @throws InvalidRequest - It is none.
 */
export function segment(text: string, what: string, prefix: string): string {
  const quoted = quote(text, `The ${what} id`);
  if (text === "" || text === "." || text === "..") {
    // a URL parser would take them for another address
    throw new InvalidRequest(`A ${what} id looks like ${prefix}_01J8ZQ4T9M5V3K7C2N6R1W0XYB, not: '${text}'`);
  }
  return quoted.replaceAll("/", "%2F");
}

export type Query = Readonly<Record<string, string | number | boolean | null | undefined>>;

/** What is null or undefined is left out. */
export function withQuery(path: string, query: Query): string {
  const pairs = Object.entries(query)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([key, value]) => `${quote(key, key)}=${quote(String(value), key)}`);
  return pairs.length === 0 ? path : `${path}?${pairs.join("&")}`;
}

function quote(text: string, what: string): string {
  try {
    return encodeURIComponent(text)
      .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
      .replaceAll("%2F", "/");
  } catch (error) {
    throw new InvalidRequest(`${what} must be valid Unicode; it holds half of a surrogate pair`, { cause: error });
  }
}

/** Members that are given; JSON has no undefined. */
export function given(members: Readonly<Record<string, unknown>>): Json {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}
