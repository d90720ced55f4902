/** The connection to a server: sends requests, retries as the protocol says, streams bodies both ways. */

import { BadReply, ConnectionFailed, InvalidRequest, RequestTimeout, TerpError } from "./errors/index.js";
import type { Usage } from "./models/account.js";
import type { DeletionReceipt } from "./models/sandbox.js";
import { concat } from "./protocol/bytes.js";
import { EventParser } from "./protocol/events.js";
import type { Json } from "./protocol/fields.js";
import type { Request } from "./protocol/request.js";
import { planRetry } from "./protocol/retry.js";
import { resolveSettings, type Settings } from "./protocol/settings.js";
import { sleep } from "./protocol/sleep.js";
import { readUsage } from "./replies/account.js";
import { readError, readJson } from "./replies/errors.js";
import type { PayloadReader } from "./replies/exec.js";
import { readReceipts } from "./replies/saved.js";
import { type Moment, usage } from "./requests/account.js";
import { deletionReceipts } from "./requests/saved.js";
import { type Body, type Fetch, type Incoming, send } from "./transport.js";

const MAX_REPLY_BYTES = 64 * 1024 * 1024; // of JSON; the longest listing a server gives is far below

export interface TerpOptions {
  /** Else the environment's TERP_API_KEY. */
  readonly apiKey?: string | undefined;
  /** Else the environment's TERP_BASE_URL, else http://127.0.0.1:7070. */
  readonly baseUrl?: string | undefined;
  /** Seconds that the server may be silent; 60. Long commands are no silence: it sends signs of life. */
  readonly timeout?: number;
  /**
   * Seconds that a call which needs room may wait for a full server: a create, a resume, a fork, or what wakes a paused
   * sandbox; 60. 0: fail at once.
   */
  readonly waitForCapacity?: number;
  /** Instead of the run time's own, for proxies, own TLS set-ups and tests. */
  readonly fetch?: Fetch;
}

/** What every call may be given. */
export interface CallOptions {
  /** Gives up waiting when it is aborted, with its reason. What the server was asked to do may happen nevertheless. */
  readonly signal?: AbortSignal | undefined;
}

export interface UsageOptions extends CallOptions {
  readonly since?: Moment | undefined;
  readonly until?: Moment | undefined;
}

/** A connection to a Terp server, to share between sandboxes. Without one, `Sandbox` uses a default of its own. */
export class Terp {
  readonly #settings: Settings;
  readonly #timeoutS: number;
  readonly #waitForCapacityS: number;
  readonly #fetch: Fetch;

  /**
   * @throws Unauthenticated - No key is given and none is in the environment.
   * @throws InvalidRequest - Key or URL have not the form of one.
   */
  constructor(options: TerpOptions = {}) {
    this.#settings = resolveSettings(options.apiKey, options.baseUrl);
    this.#timeoutS = options.timeout ?? 60;
    this.#waitForCapacityS = options.waitForCapacity ?? 60;
    this.#fetch = options.fetch ?? ((url, init) => fetch(url, init));
    if (!(this.#timeoutS > 0)) throw new InvalidRequest("timeout is a number of seconds above 0");
  }

  get baseUrl(): string {
    return this.#settings.baseUrl;
  }

  /**
   * Return the proofs that keys of this key's tenant were destroyed, newest first.
   *
   * @param options - `subject`: id of a sandbox or snapshot, only its own. `limit`: 1 to 200, else 50.
   */
  async deletionReceipts(options: { subject?: string; limit?: number } & CallOptions = {}): Promise<DeletionReceipt[]> {
    return readReceipts(await this.call(deletionReceipts(options.subject, options.limit ?? 50), options));
  }

  /**
   * Return what all sandboxes of this key's tenant used, by day.
   *
   * @param options - `since`, `until`: days or times; `until` is not included. If not given, what the server counts by
   *   itself.
   */
  async usage(options: UsageOptions = {}): Promise<Usage> {
    return readUsage(await this.call(usage(options.since, options.until), { signal: options.signal }));
  }

  /**
   * Send *request* and return its reply's object, sending it again where that is right.
   *
   * @internal
   * @param options - `content`: the body, where it is not the request's own JSON.
   */
  async call(request: Request, options: CallOptions & { content?: Body } = {}): Promise<Json> {
    const once = async () => {
      const reply = await this.#open(request, options.content, options.signal);
      return readJson(reply, await bodyText(reply));
    };
    return options.content instanceof ReadableStream ? once() : this.#repeat(request, once, options.signal);
  }

  /** @internal Send *request* and yield the reply's body as it comes. Leaving early closes the connection. */
  async *stream(request: Request, options: CallOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    const reply = await this.#repeat(request, () => this.#open(request, undefined, options.signal), options.signal);
    try {
      for (let chunk = await reply.next(); chunk; chunk = await reply.next()) yield chunk;
    } finally {
      reply.drop();
    }
  }

  /**
   * Send *request* and yield what *reader* makes of the reply's events.
   *
   * @internal
   * @param broken - What it means when the stream ends before the reader has seen its last event.
   */
  async *events<Event>(
    request: Request,
    reader: PayloadReader<Event>,
    broken: string,
    options: CallOptions = {},
  ): AsyncGenerator<Event, void, void> {
    const parser = new EventParser(reader.maxEventBytes);
    try {
      for await (const chunk of this.stream(request, options)) {
        if (reader.finished) return;
        for (const payload of parser.feed(chunk)) yield* reader.read(payload);
        // After the last event one more chunk is asked for: it is the body's end, and having seen it lets the
        // connection be used again.
      }
    } catch (error) {
      if (!reader.finished || !(error instanceof ConnectionFailed || error instanceof RequestTimeout)) throw error;
    }
    if (!reader.finished) throw new ConnectionFailed(broken);
  }

  async #repeat<T>(request: Request, act: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    let waitedS = 0;
    for (let failures = 1; ; failures++) {
      try {
        return await act();
      } catch (error) {
        if (!(error instanceof TerpError)) throw error;
        const attempts = { failures, waitedS, waitForCapacityS: this.#waitForCapacityS };
        const delayS = planRetry(request.repeat, error, attempts);
        if (delayS === undefined) throw error;
        await sleep(delayS, signal);
        waitedS += delayS;
      }
    }
  }

  /** Return a reply of status 2xx whose body is not read yet. */
  async #open(request: Request, content: Body | undefined, signal: AbortSignal | undefined): Promise<Incoming> {
    const headers: Record<string, string> = {
      Authorization: `Bearer ${this.#settings.apiKey}`,
      Accept: "application/json",
      "User-Agent": "terp-js",
      ...request.headers,
    };
    if (request.body !== undefined) headers["Content-Type"] = "application/json";
    const body = content ?? (request.body === undefined ? undefined : JSON.stringify(request.body));
    const url = this.#settings.baseUrl + request.target;
    const outgoing = { method: request.method, url, headers, body };
    const reply = await send(this.#fetch, this.#settings, outgoing, this.#timeoutS, signal);
    if (reply.status >= 200 && reply.status < 300) return reply;
    throw readError(reply, await bodyText(reply));
  }
}

async function bodyText(reply: Incoming): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (let chunk = await reply.next(); chunk; chunk = await reply.next()) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_REPLY_BYTES) {
      reply.drop();
      throw new BadReply("The server's reply is longer than 64 MiB", { status: reply.status });
    }
  }
  return new TextDecoder().decode(concat(chunks));
}

const clients = new Map<string, Terp>();

/** The client of those who pass none: one per server and key, made at first use. */
export function defaultClient(): Terp {
  const { baseUrl, apiKey } = resolveSettings(undefined, undefined);
  const key = `${baseUrl} ${apiKey}`;
  let client = clients.get(key);
  if (!client) {
    client = new Terp({ apiKey, baseUrl });
    clients.set(key, client);
  }
  return client;
}
