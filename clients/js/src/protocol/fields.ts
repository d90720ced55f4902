/** Members of a reply, read by name and kind. What has not the agreed shape is a BadReply; others are ignored. */

import { BadReply } from "../errors/index.js";

export type Json = Readonly<Record<string, unknown>>;

class Misshapen extends Error {}

/**
 * Return what *read* makes of a reply.
 *
 * @param what - What the reply describes, for the error.
 * @throws BadReply - A member is missing or of another kind.
 */
export function readAs<T>(what: string, body: unknown, read: (fields: Fields) => T): T {
  try {
    return read(new Fields(body));
  } catch (error) {
    if (!(error instanceof Misshapen)) throw error;
    throw new BadReply(
      `The server's description of ${what} is not as agreed; is it older or newer? (${error.message})`,
      { cause: error },
    );
  }
}

/** One object of a reply. `…OrNull` takes a missing member for null. */
export class Fields {
  readonly #body: Json;

  constructor(body: unknown) {
    if (!isObject(body)) throw new Misshapen("no object");
    this.#body = body;
  }

  has(name: string): boolean {
    return this.#body[name] !== undefined && this.#body[name] !== null;
  }

  raw(name: string): unknown {
    return this.#body[name] ?? null;
  }

  text(name: string): string {
    const value = this.#body[name];
    if (typeof value !== "string") throw new Misshapen(`${name} is no text`);
    return value;
  }

  textOrNull(name: string): string | null {
    return this.has(name) ? this.text(name) : null;
  }

  number(name: string): number {
    const value = this.#body[name];
    if (typeof value !== "number") throw new Misshapen(`${name} is no number`);
    return value;
  }

  numberOrNull(name: string): number | null {
    return this.has(name) ? this.number(name) : null;
  }

  flag(name: string, absent?: boolean): boolean {
    const value = this.#body[name] ?? absent;
    if (typeof value !== "boolean") throw new Misshapen(`${name} is neither true nor false`);
    return value;
  }

  time(name: string): Date {
    const value = this.text(name);
    const at = new Date(value);
    if (Number.isNaN(at.getTime()) || !/(Z|[+-]\d\d:?\d\d)$/i.test(value)) throw new Misshapen(`${name} is no time`);
    return at;
  }

  timeOrNull(name: string): Date | null {
    return this.has(name) ? this.time(name) : null;
  }

  object(name: string): Fields {
    const value = this.#body[name];
    if (!isObject(value)) throw new Misshapen(`${name} is no object`);
    return new Fields(value);
  }

  objectOrNull(name: string): Fields | null {
    return this.has(name) ? this.object(name) : null;
  }

  list<T>(name: string, read: (row: Fields) => T): T[] {
    return this.#rows(name).map((row) => read(new Fields(row)));
  }

  texts(name: string): string[] {
    return this.#rows(name).map((row) => {
      if (typeof row !== "string") throw new Misshapen(`${name} holds what is no text`);
      return row;
    });
  }

  textsOrNull(name: string): string[] | null {
    return this.has(name) ? this.texts(name) : null;
  }

  /** Text by name; empty when absent. */
  labels(name: string): Readonly<Record<string, string>> {
    const value = this.#body[name] ?? {};
    if (!isObject(value)) throw new Misshapen(`${name} is no object`);
    return Object.fromEntries(Object.entries(value).map(([key, label]) => [key, String(label)]));
  }

  #rows(name: string): unknown[] {
    const value = this.#body[name];
    if (!Array.isArray(value)) throw new Misshapen(`${name} is no list`);
    return value;
  }
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
