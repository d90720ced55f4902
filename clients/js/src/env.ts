/** The variables of one sandbox that are set while it runs. */

import type { CallOptions, Terp } from "./client.js";
import { readEnv } from "./replies/commands.js";
import * as requests from "./requests/commands.js";

/**
 * Variables of commands, terminals and kernels that start from now on.
 *
 *     await sbx.env.set({ API_URL: "https://api.example.com", DEBUG: "1" });
 *
 * They stand over those of `create`, are in the guest's memory and on no disk, and cannot be read back. A snapshot or
 * fork leaves them out unless it says `includeSecrets`.
 *
 * Every method may throw StateConflict (the sandbox does not run), and what any request may throw: ConnectionFailed,
 * RequestTimeout, Unauthenticated.
 */
export class Environment {
  readonly #client: Terp;
  readonly #sandboxId: string;

  /** @internal */
  constructor(client: Terp, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /**
   * Set variables, all or none, and return the names of all that are set.
   *
   * @throws InvalidRequest - A name is none.
   * @throws LimitExceeded - It is too much.
   */
  async set(variables: Readonly<Record<string, string>>, options: CallOptions = {}): Promise<string[]> {
    const request = requests.changeEnv(this.#sandboxId, variables, []);
    return readEnv(await this.#client.call(request, { signal: options.signal }));
  }

  /** Unset variables, whether they were set or not, and return the names of all that still are. */
  async unset(...names: string[]): Promise<string[]> {
    return readEnv(await this.#client.call(requests.changeEnv(this.#sandboxId, {}, names)));
  }

  /** Return the names of all that are set here, sorted. */
  async list(options: CallOptions = {}): Promise<string[]> {
    return readEnv(await this.#client.call(requests.listEnv(this.#sandboxId), { signal: options.signal }));
  }
}
