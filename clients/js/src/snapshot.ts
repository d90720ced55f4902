/** Named snapshots: find them, delete them. `Sandbox.snapshot` takes one. */

import { type CallOptions, defaultClient, type Terp } from "./client.js";
import { inspect } from "./dispose.js";
import type { SnapshotInfo } from "./models/sandbox.js";
import { readSnapshot, readSnapshots } from "./replies/saved.js";
import * as requests from "./requests/saved.js";

export interface WithClient extends CallOptions {
  /** Instead of the default one, whose server and key come from the environment. */
  readonly client?: Terp | undefined;
}

/**
 * A running sandbox as it was at one moment: memory, processes and files.
 *
 *     const ready = await sbx.snapshot({ name: "with requests" });
 *     const sandbox = await Sandbox.create({ snapshot: ready });
 *
 * Any number of sandboxes start from it. It outlives its source, until `delete`.
 *
 * Every method may throw what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
 */
export class Snapshot {
  readonly #client: Terp;
  readonly #info: SnapshotInfo;

  /** @internal */
  constructor(client: Terp, info: SnapshotInfo) {
    this.#client = client;
    this.#info = info;
  }

  /**
   * Return an existing snapshot, whatever its status.
   *
   * @throws SnapshotNotFound - It never existed, was deleted, or is another tenant's.
   */
  static async get(snapshotId: string, options: WithClient = {}): Promise<Snapshot> {
    const client = options.client ?? defaultClient();
    return new Snapshot(client, readSnapshot(await client.call(requests.getSnapshot(snapshotId), options)));
  }

  /** Yield the snapshots of this key's tenant, newest first. */
  static async *list(options: WithClient = {}): AsyncGenerator<Snapshot, void, void> {
    const client = options.client ?? defaultClient();
    const reply = await client.call(requests.listSnapshots(), options);
    for (const info of readSnapshots(reply)) yield new Snapshot(client, info);
  }

  /**
   * Destroy its key, and with that all copies of it. Doing it again does nothing.
   *
   * Sandboxes that were created from it run on, and can be paused and resumed as before.
   */
  async delete(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.deleteSnapshot(this.id), options);
  }

  get info(): SnapshotInfo {
    return this.#info;
  }

  get id(): string {
    return this.#info.id;
  }

  get name(): string | null {
    return this.#info.name;
  }

  get status(): string {
    return this.#info.status;
  }

  /** @internal */
  [inspect](): string {
    return `<Snapshot ${this.id} ${this.status}>`;
  }
}
