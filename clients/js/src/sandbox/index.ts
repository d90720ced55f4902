/** The sandbox: create, pause, fork, terminate; what it does in between is in its base classes. */

import { type CallOptions, defaultClient, type Terp } from "../client.js";
import { asyncDispose } from "../dispose.js";
import { Environment } from "../env.js";
import { StateConflict } from "../errors/index.js";
import { Files } from "../files.js";
import type { Metrics } from "../models/account.js";
import type { DeletionReceipt, Limits, Paused, SandboxInfo, SandboxStatus } from "../models/sandbox.js";
import { readMetrics } from "../replies/account.js";
import {
  changed,
  readExpiry,
  readLimits,
  readPage,
  readPaused,
  readSandbox,
  readSandboxes,
} from "../replies/sandbox.js";
import { readSnapshot } from "../replies/saved.js";
import { metrics } from "../requests/account.js";
import * as requests from "../requests/sandbox.js";
import { takeSnapshot } from "../requests/saved.js";
import { Snapshot, type WithClient } from "../snapshot.js";
import { Volume } from "../volume.js";
import { ConnectedSandbox } from "./reach.js";

const ENDED: readonly string[] = ["terminated", "failed"];

export interface CreateOptions extends requests.Life, requests.Reach, WithClient {
  /** What it starts from; `python-3.12` unless a snapshot is given. */
  readonly template?: string | undefined;
  /**
   * Start from it, or from the one of that id, instead. The new sandbox has its memory, processes and files, and names
   * and random numbers of its own. `env` is set over what it has.
   */
  readonly snapshot?: Snapshot | string | undefined;
  /** `small` if not given. With a snapshot it is the snapshot's, and so is the network. */
  readonly size?: string | undefined;
  /** What it has at /persist: a volume, its name or id. One of a new name is made, with 10 GB. */
  readonly volume?: Volume | string | undefined;
  /** Where it runs; the server's own if not given. */
  readonly region?: string | undefined;
}

export interface ForkOptions extends requests.Life, CallOptions {
  /** 1 if not given, at most `limits().maxFork`. */
  readonly count?: number;
  /** Hand on what `env.set` has set, and what commands were given as secrets, too. */
  readonly includeSecrets?: boolean;
}

export interface SnapshotOptions extends CallOptions {
  readonly name?: string;
  readonly includeSecrets?: boolean;
}

/**
 * A sandbox: a virtual machine of its own, reached over the server's API.
 *
 *     await using sbx = await Sandbox.create({ template: "python-3.12" });
 *     await sbx.files.write("/workspace/main.py", "print(6 * 7)");
 *     const result = await sbx.exec("python /workspace/main.py");
 *     console.log(result.stdout);
 *
 * Leaving the block terminates it, also when it is paused. Objects come from `create`, `fork`, `get` and `list`; what
 * they say of the sandbox is what the server said last, `refresh` asks again.
 *
 * Every method may throw what any request may: ConnectionFailed, RequestTimeout, Unauthenticated, Unavailable.
 */
export class Sandbox extends ConnectedSandbox {
  readonly files: Files;
  readonly env: Environment;

  /** @internal */
  constructor(client: Terp, info: SandboxInfo) {
    super(client, info);
    this.files = new Files(client, info.id);
    this.env = new Environment(client, info.id);
  }

  /**
   * Start a sandbox and return it running.
   *
   * A reply that is lost on the way is asked for again, and never makes a second sandbox.
   *
   * @throws VolumeInUse - Another sandbox holds the volume. Nothing was started.
   * @throws TemplateNotFound, SnapshotNotFound, InvalidRequest, NotOffered, PlanLimit - Nothing was started.
   * @throws StateMismatch, StateDamaged - The snapshot cannot be used here. Nothing was started.
   * @throws CapacityUnavailable - The server stayed full for the client's `waitForCapacity`. Nothing was started.
   * @throws GuestFault, DeadlineExceeded - The machine did not come up.
   */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const client = options.client ?? defaultClient();
    const { template, size, region } = options;
    const snapshot = options.snapshot instanceof Snapshot ? options.snapshot.id : options.snapshot;
    const volume = options.volume instanceof Volume ? options.volume.id : options.volume;
    const request = requests.create({ template, snapshot, size, volume, region }, options, options);
    const info = readSandbox(await client.call(request, { signal: options.signal }));
    if (ENDED.includes(info.status)) {
      throw new StateConflict(`Sandbox ${info.id} is ${info.status} already; create a new one`);
    }
    return new Sandbox(client, info);
  }

  /**
   * Return an existing sandbox, whatever its status.
   *
   * @throws SandboxNotFound - It never existed, or is another tenant's.
   */
  static async get(sandboxId: string, options: WithClient = {}): Promise<Sandbox> {
    const client = options.client ?? defaultClient();
    return new Sandbox(client, readSandbox(await client.call(requests.get(sandboxId), { signal: options.signal })));
  }

  /**
   * Yield the sandboxes of this key's tenant, newest first, asking for further pages as needed.
   *
   * @param options - `status`: only those. `metadata`: only those with all of these labels.
   */
  static async *list(
    options: { status?: SandboxStatus; metadata?: Readonly<Record<string, string>> } & WithClient = {},
  ): AsyncGenerator<Sandbox, void, void> {
    const client = options.client ?? defaultClient();
    let cursor: string | null = null;
    do {
      const request = requests.listPage(options.status, options.metadata ?? {}, cursor);
      const page = readPage(await client.call(request, { signal: options.signal }));
      for (const info of page.rows) yield new Sandbox(client, info);
      cursor = page.cursor;
    } while (cursor !== null);
  }

  /** Return what this API key may have. */
  static async limits(options: WithClient = {}): Promise<Limits> {
    const client = options.client ?? defaultClient();
    return readLimits(await client.call(requests.limits(), { signal: options.signal }));
  }

  /**
   * Let the sandbox end *seconds* from now, earlier or later than before.
   *
   * @throws StateConflict - It does not run.
   */
  async setTimeout(seconds: number, options: CallOptions = {}): Promise<void> {
    const expiresAt = readExpiry(await this.client.call(requests.setTimeout(this.id, seconds), options));
    this.current = changed(this.current, { expiresAt });
  }

  /**
   * Save memory, processes and files, encrypted, and free the machine. `resume` lets it go on.
   *
   * It takes time in proportion to what the sandbox has changed. Commands under way stop where they are and go on after
   * the resume; their calls end with StateConflict, and `attach` follows them then.
   *
   * @throws StateConflict - It does not run.
   * @throws SnapshotCap, StorageFull - It was not paused and runs on.
   */
  async pause(options: CallOptions = {}): Promise<Paused> {
    const paused = readPaused(await this.client.call(requests.pause(this.id), options));
    this.current = changed(this.current, { status: "paused", storedBytes: paused.storedBytes });
    return paused;
  }

  /**
   * Let a paused sandbox go on, under the same id. A lease as long as the one before begins.
   *
   * @throws StateConflict - It is not paused.
   * @throws PlanLimit - As many run as this key may have. It stays paused.
   * @throws CapacityUnavailable - The server stayed full for the client's `waitForCapacity`. It stays paused.
   * @throws StateMismatch, StateDamaged - What was saved cannot be used here. It stays paused.
   */
  async resume(options: CallOptions = {}): Promise<void> {
    this.current = readSandbox(await this.client.call(requests.resume(this.id), options));
  }

  /**
   * Keep the sandbox as it is now, for `create({ snapshot })`. It stands still for a moment and runs on.
   *
   * @param options - `name`: for people; 1 to 128 bytes, need not be unique. `includeSecrets`: keep what `env.set` has set, and
   *   what commands were given as secrets, too.
   * @throws StateConflict - It does not run.
   * @throws SecretsInUse - A command that was given secrets runs. Nothing was kept.
   * @throws SnapshotCap, StorageFull - Nothing was kept.
   */
  async snapshot(options: SnapshotOptions = {}): Promise<Snapshot> {
    const request = takeSnapshot(this.id, options.name, options.includeSecrets);
    const reply = await this.client.call(request, { signal: options.signal });
    return new Snapshot(this.client, readSnapshot(reply));
  }

  /**
   * Start others from this one, which stands still for a moment and runs on.
   *
   * Each has this one's memory, processes and files of that moment, and an id, names and random numbers of its own.
   * `env` is set over what this one has.
   *
   * @returns The children, running, in no order.
   * @throws StateConflict - It does not run.
   * @throws SecretsInUse - A command that was given secrets runs. None was started.
   * @throws PlanLimit, CapacityUnavailable, StorageFull - Not all fit, so none was started.
   */
  async fork(options: ForkOptions = {}): Promise<Sandbox[]> {
    const request = requests.fork(this.id, options.count ?? 1, options, options.includeSecrets);
    const infos = readSandboxes(await this.client.call(request, { signal: options.signal }));
    return infos.map((info) => new Sandbox(this.client, info));
  }

  /** Return the proof that its key was destroyed; nothing while it lives. */
  async deletionReceipts(options: CallOptions = {}): Promise<DeletionReceipt[]> {
    return this.client.deletionReceipts({ ...options, subject: this.id });
  }

  /**
   * Return what it uses now and has used, with a sample a second of the last minute.
   *
   * @param options - `since`: only samples after that, in whole seconds.
   */
  async metrics(options: { since?: Date } & CallOptions = {}): Promise<Metrics> {
    return readMetrics(await this.client.call(metrics(this.id, options.since), { signal: options.signal }));
  }

  /**
   * End the sandbox, running or paused, with all it holds. Doing it again does nothing.
   *
   * The key of its disk and of all that was saved of it is destroyed; `deletionReceipts` says when.
   */
  async terminate(options: CallOptions = {}): Promise<void> {
    if (ENDED.includes(this.status)) return;
    await this.client.call(requests.terminate(this.id), options);
    this.current = changed(this.current, { status: "terminated" });
  }

  /** The end of an `await using` block. */
  async [asyncDispose](): Promise<void> {
    await this.terminate();
  }
}
