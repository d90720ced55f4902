/** Volumes: disks that outlive sandboxes. */

import { type CallOptions, defaultClient, type Terp } from "./client.js";
import { inspect } from "./dispose.js";
import { VolumeNotFound } from "./errors/index.js";
import type { VolumeInfo } from "./models/account.js";
import { readVolume, readVolumes } from "./replies/account.js";
import * as requests from "./requests/account.js";
import type { WithClient } from "./snapshot.js";

/**
 * A disk that a sandbox has at /persist, and that stays when the sandbox ends.
 *
 *     const volume = await Volume.create("models", { sizeGb: 20 });
 *     await using sbx = await Sandbox.create({ volume });
 *     await sbx.files.write("/persist/notes.txt", "still here tomorrow");
 *
 * One sandbox at a time holds it, from its create to its end, also while it is paused. It is encrypted with a key of
 * its own, which `delete` destroys.
 *
 * Every method may throw what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
 */
export class Volume {
  readonly #client: Terp;
  #info: VolumeInfo;

  /** @internal */
  constructor(client: Terp, info: VolumeInfo) {
    this.#client = client;
    this.#info = info;
  }

  /**
   * Make a volume.
   *
   * @param name - Yours; unique among your volumes.
   * @throws AlreadyExists - You have one of that name.
   * @throws InvalidRequest - A value is out of bounds.
   */
  static async create(name: string, options: requests.NewVolume & WithClient = {}): Promise<Volume> {
    const client = options.client ?? defaultClient();
    const reply = await client.call(requests.createVolume(name, options), { signal: options.signal });
    return new Volume(client, readVolume(reply));
  }

  /**
   * Return an existing volume.
   *
   * @throws VolumeNotFound - You have none of that id or name.
   */
  static async get(idOrName: string, options: WithClient = {}): Promise<Volume> {
    if (idOrName.startsWith("vol_")) {
      const client = options.client ?? defaultClient();
      const reply = await client.call(requests.getVolume(idOrName), { signal: options.signal });
      return new Volume(client, readVolume(reply));
    }
    for await (const volume of Volume.list(options)) if (volume.name === idOrName) return volume;
    throw new VolumeNotFound(`There is no volume of that name: ${idOrName}`);
  }

  /** Yield the volumes of this key's tenant. */
  static async *list(options: WithClient = {}): AsyncGenerator<Volume, void, void> {
    const client = options.client ?? defaultClient();
    const reply = await client.call(requests.listVolumes(), { signal: options.signal });
    for (const info of readVolumes(reply)) yield new Volume(client, info);
  }

  /** Ask the server how the volume is now. */
  async refresh(options: CallOptions = {}): Promise<void> {
    this.#info = readVolume(await this.#client.call(requests.getVolume(this.id), { signal: options.signal }));
  }

  /**
   * Change when it is deleted by itself. Give one of the two; it takes the place of what was set. null: it stays until
   * `delete`.
   */
  async update(lifetime: requests.Lifetime, options: CallOptions = {}): Promise<void> {
    const request = requests.updateVolume(this.id, lifetime);
    this.#info = readVolume(await this.#client.call(request, { signal: options.signal }));
  }

  /**
   * Move it to another region.
   *
   * @throws VolumeInUse - A sandbox holds it.
   * @throws InvalidRequest - There is no such region.
   */
  async move(region: string, options: CallOptions = {}): Promise<void> {
    const request = requests.moveVolume(this.id, region);
    this.#info = readVolume(await this.#client.call(request, { signal: options.signal }));
  }

  /**
   * Destroy its key, and with that all it holds.
   *
   * @throws VolumeInUse - A sandbox holds it.
   */
  async delete(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.deleteVolume(this.id), { signal: options.signal });
  }

  get info(): VolumeInfo {
    return this.#info;
  }

  get id(): string {
    return this.#info.id;
  }

  get name(): string {
    return this.#info.name;
  }

  get sizeMb(): number {
    return this.#info.sizeMb;
  }

  get status(): string {
    return this.#info.status;
  }

  /** @internal */
  [inspect](): string {
    return `<Volume ${this.id} ${this.name} ${this.status}>`;
  }
}
