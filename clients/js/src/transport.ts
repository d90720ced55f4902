/** Where fetch ends: its failures become ours, silence has a limit, bodies stream both ways. */

import { BadReply, ConnectionFailed, InvalidRequest, RequestTimeout, TerpError } from "./errors/index.js";
import type { Settings } from "./protocol/settings.js";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** A body: bytes, or a stream that can be read only once. */
export type Body = string | Uint8Array | ReadableStream<Uint8Array>;

// A body that is at hand goes out without a sign of progress; this much is taken for none at all.
const SLOWEST_UPLOAD_BYTES_PER_S = 256 * 1024;

const NOT_SENT =
  /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|EINVAL|CERT_|ERR_TLS|ERR_SSL|DEPTH_ZERO|UNABLE_TO|SELF_SIGNED|UND_ERR_CONNECT_TIMEOUT)/;
const SILENT = /^UND_ERR_(HEADERS|BODY)_TIMEOUT$/;

export interface Outgoing {
  readonly method: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Body | undefined;
}

/** A reply whose body is not read yet. Whoever has it reads it to its end, or drops it. */
export interface Incoming {
  readonly status: number;
  readonly headers: Headers;
  /** The next part of the body; undefined at its end. */
  next(): Promise<Uint8Array | undefined>;
  /** Let go of what is left, and of the connection. */
  drop(): void;
}

/**
 * Send one request.
 *
 * @param silenceS - Most that the server may be silent.
 * @param signal - The caller's own; its reason comes out as it is.
 * @throws ConnectionFailed, RequestTimeout, InvalidRequest - In place of whatever fetch throws.
 */
export async function send(
  fetch: Fetch,
  settings: Settings,
  outgoing: Outgoing,
  silenceS: number,
  signal: AbortSignal | undefined,
): Promise<Incoming> {
  signal?.throwIfAborted();
  const watch = new Watch(settings, silenceS, signal);
  const init: RequestInit & { duplex?: "half" } = {
    method: outgoing.method,
    headers: outgoing.headers,
    redirect: "manual",
    signal: watch.signal,
  };
  let failure: { error: unknown } | undefined;
  try {
    if (outgoing.body instanceof ReadableStream) {
      const onFailure = (error: unknown) => {
        failure = { error };
      };
      init.body = await streamed(outgoing.body, () => watch.restart(), onFailure);
      init.duplex = "half";
      watch.restart();
    } else {
      init.body = (outgoing.body as string | Uint8Array<ArrayBuffer> | undefined) ?? null;
      watch.restart((outgoing.body?.length ?? 0) / SLOWEST_UPLOAD_BYTES_PER_S);
    }
    const reply = await fetch(outgoing.url, init);
    watch.stop();
    return incoming(reply, watch, settings);
  } catch (error) {
    watch.end();
    throw failure ? failure.error : watch.translate(error, settings);
  }
}

function incoming(reply: Response, watch: Watch, settings: Settings): Incoming {
  const reader = reply.body?.getReader();
  return {
    status: reply.status,
    headers: reply.headers,
    async next() {
      if (!reader) return undefined;
      watch.restart();
      try {
        const { done, value } = await reader.read();
        if (!done) return value;
      } catch (error) {
        watch.end();
        throw watch.translate(error, settings);
      } finally {
        watch.stop();
      }
      watch.end();
      return undefined;
    },
    drop() {
      watch.end();
      reader?.cancel().catch(() => {}); // it is broken already, and nobody wants to know
    },
  };
}

/** The clock of one request, and its two reasons to end early: silence, and the caller's signal. */
class Watch {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #silenceS: number;
  readonly #silence: RequestTimeout;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(settings: Settings, silenceS: number, outer: AbortSignal | undefined) {
    this.#silenceS = silenceS;
    this.#silence = new RequestTimeout(`${settings.baseUrl} was silent for too long; it may have done what was asked`);
    this.#outer = outer;
    outer?.addEventListener("abort", this.#follow);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  restart(allowanceS = 0): void {
    this.stop();
    if (this.#silenceS === Number.POSITIVE_INFINITY) return;
    const ms = Math.min((this.#silenceS + allowanceS) * 1000, 2 ** 31 - 1); // a longer timer would fire at once
    this.#timer = setTimeout(() => this.#controller.abort(this.#silence), ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** The request is over. */
  end(): void {
    this.stop();
    this.#outer?.removeEventListener("abort", this.#follow);
  }

  /** Return what to throw for what fetch threw. */
  translate(error: unknown, settings: Settings): unknown {
    if (this.#outer?.aborted) return this.#outer.reason;
    if (this.#controller.signal.aborted) return this.#silence;
    return translated(error, settings);
  }

  readonly #follow = (): void => this.#controller.abort(this.#outer?.reason);
}

function translated(error: unknown, settings: Settings): unknown {
  if (error instanceof TerpError || !(error instanceof Error)) return error;
  const { code, reason } = cause(error);
  const circumstances = { cause: error };
  if (SILENT.test(code)) {
    return new RequestTimeout(
      `${settings.baseUrl} was silent for too long; it may have done what was asked`,
      circumstances,
    );
  }
  if (NOT_SENT.test(code)) {
    const detail = `No connection to ${settings.baseUrl} (${reason}). Is terpd running there?`;
    return new ConnectionFailed(detail, { ...circumstances, sent: false });
  }
  if (/^(ERR_INVALID|UND_ERR_INVALID_ARG|UND_ERR_NOT_SUPPORTED)/.test(code)) {
    return new InvalidRequest(`This request cannot be sent: ${reason}`, circumstances);
  }
  if (/^Z_/.test(code)) return new BadReply(`The reply of ${settings.baseUrl} is damaged: ${reason}`, circumstances);
  return new ConnectionFailed(`The connection to ${settings.baseUrl} broke (${reason})`, circumstances);
}

/** fetch says little itself; what happened is in its cause, or in the causes of that. */
function cause(error: Error): { code: string; reason: string } {
  let found: unknown = error;
  for (let depth = 0; depth < 4; depth++) {
    const { code, cause, errors } = found as { code?: unknown; cause?: unknown; errors?: unknown };
    if (typeof code === "string") return { code, reason: (found as Error).message || code };
    const inner = cause ?? (Array.isArray(errors) ? errors[0] : undefined);
    if (!(inner instanceof Error)) break;
    found = inner;
  }
  return { code: "", reason: (found as Error).message || error.message };
}

/** Return *body* so that its progress and its failures are seen. Where fetch streams no bodies, collected first. */
async function streamed(
  body: ReadableStream<Uint8Array>,
  onProgress: () => void,
  onFailure: (error: unknown) => void,
): Promise<BodyInit> {
  const reader = body.getReader();
  const watched = new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          onProgress();
          if (done) controller.close();
          else controller.enqueue(value as Uint8Array<ArrayBuffer>);
        } catch (error) {
          onFailure(error);
          controller.error(error);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
  return streamsBodies() ? watched : new Response(watched).blob();
}

/** As the Fetch standard's authors advise to find out: one who takes no streams makes it a string, which has a type. */
function streamsBodies(): boolean {
  let asked = false;
  const request = new Request("http://localhost", {
    method: "POST",
    body: new ReadableStream(),
    get duplex() {
      asked = true;
      return "half";
    },
  } as RequestInit);
  return asked && !request.headers.has("content-type");
}
