/** Webhooks: what happens to sandboxes, told to an address of yours. */

import { type CallOptions, defaultClient, type Terp } from "./client.js";
import { subtleCrypto } from "./crypto.js";
import { inspect } from "./dispose.js";
import type { Delivery, WebhookInfo } from "./models/account.js";
import { toBytes, toHex } from "./protocol/bytes.js";
import { readDeliveries, readWebhook, readWebhooks } from "./replies/account.js";
import * as requests from "./requests/account.js";
import type { WithClient } from "./snapshot.js";

/**
 * An address that is told of events, e.g. `sandbox.created`, `sandbox.expired`, `volume.moved`.
 *
 *     const webhook = await Webhook.create("https://example.com/hook", { eventTypes: ["sandbox.terminated"] });
 *     console.log(webhook.secret); // keep it: it is told only here
 *
 * Each event is sent at least once, with an id that stays the same in all tries; `verifyWebhook` says whether a request
 * is genuine.
 *
 * Every method may throw WebhookNotFound, and what any request may: ConnectionFailed, RequestTimeout, Unauthenticated.
 */
export class Webhook {
  readonly #client: Terp;
  #info: WebhookInfo;

  /** @internal */
  constructor(client: Terp, info: WebhookInfo) {
    this.#client = client;
    this.#info = info;
  }

  /**
   * Have events told to *url*, from now on.
   *
   * @param url - http or https, on a public address.
   * @param options - `eventTypes`: only those; if not given, all.
   * @throws InvalidRequest - The address is not public, or there is no such event.
   * @throws LimitExceeded - You have as many as you may.
   */
  static async create(url: string, options: { eventTypes?: readonly string[] } & WithClient = {}): Promise<Webhook> {
    const client = options.client ?? defaultClient();
    const reply = await client.call(requests.createWebhook(url, options.eventTypes), { signal: options.signal });
    return new Webhook(client, readWebhook(reply));
  }

  /** Yield the webhooks of this key's tenant. */
  static async *list(options: WithClient = {}): AsyncGenerator<Webhook, void, void> {
    const client = options.client ?? defaultClient();
    const reply = await client.call(requests.listWebhooks(), { signal: options.signal });
    for (const info of readWebhooks(reply)) yield new Webhook(client, info);
  }

  /** Switch it on again after too many failures, and forget these. */
  async enable(options: CallOptions = {}): Promise<void> {
    this.#info = readWebhook(await this.#client.call(requests.enableWebhook(this.id), { signal: options.signal }));
  }

  /** Tell it nothing more. */
  async delete(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.deleteWebhook(this.id), { signal: options.signal });
  }

  /** Return what it was told last and how that went, newest first. */
  async deliveries(options: CallOptions = {}): Promise<Delivery[]> {
    return readDeliveries(await this.#client.call(requests.listDeliveries(this.id), { signal: options.signal }));
  }

  get info(): WebhookInfo {
    return this.#info;
  }

  get id(): string {
    return this.#info.id;
  }

  get url(): string {
    return this.#info.url;
  }

  get active(): boolean {
    return this.#info.active;
  }

  /** What its deliveries are signed with; null unless it was just created. */
  get secret(): string | null {
    return this.#info.secret;
  }

  /** @internal */
  [inspect](): string {
    return `<Webhook ${this.id} ${this.url}>`;
  }
}

/**
 * Say whether a webhook's request is the server's.
 *
 *     const signature = request.headers.get("x-orkestr-signature") ?? "";
 *     if (!(await verifyWebhook(await request.text(), signature, secret))) return new Response(null, { status: 401 });
 *
 * It takes as long for a wrong signature as for the right one.
 *
 * @param body - The request's body, exactly as it came.
 * @param signature - Its header `X-Orkestr-Signature`.
 * @param secret - `Webhook.create(…).secret`, whole.
 */
export async function verifyWebhook(body: string | Uint8Array, signature: string, secret: string): Promise<boolean> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const subtle = await subtleCrypto();
  const key = await subtle.importKey("raw", toBytes(secret) as BufferSource, algorithm, false, ["sign"]);
  const digest = await subtle.sign("HMAC", key, toBytes(body) as BufferSource);
  return equal(`sha256=${toHex(new Uint8Array(digest))}`, signature);
}

function equal(wanted: string, given: string): boolean {
  let difference = wanted.length ^ given.length;
  for (let at = 0; at < wanted.length; at++) difference |= wanted.charCodeAt(at) ^ (given.charCodeAt(at) | 0);
  return difference === 0;
}
