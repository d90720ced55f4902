/** What a sandbox reaches, and who reaches it. */

import type { CallOptions } from "../client.js";
import type { Connection, Traffic } from "../models/network.js";
import { readEgress, readHost, readNetwork, readTraffic } from "../replies/network.js";
import * as requests from "../requests/network.js";
import { CodingSandbox } from "./code.js";

export abstract class ConnectedSandbox extends CodingSandbox {
  /**
   * Change what it may reach. It holds on return, also for connections under way.
   *
   * @throws InvalidRequest - A name is none, the mode is `off`, or nothing is to be changed.
   * @throws StateConflict - It has ended, or was created with `off`.
   */
  async setNetwork(change: requests.NetworkChange & CallOptions = {}): Promise<void> {
    const reply = await this.client.call(requests.setNetwork(this.id, change), { signal: change.signal });
    this.current = readNetwork(reply, this.current);
  }

  /**
   * Yield its connections, those that ended last first, asking for further pages as needed.
   *
   * They are on record when they are over, and stay readable when the sandbox has ended, as long as the server keeps
   * records.
   */
  async *egress(options: requests.EgressFilter & CallOptions = {}): AsyncGenerator<Connection, void, void> {
    let cursor: string | null = null;
    do {
      const page = readEgress(await this.client.call(requests.egress(this.id, options, cursor), options));
      yield* page.rows;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  /** Return what it has sent and received since it was created. */
  async traffic(options: CallOptions = {}): Promise<Traffic> {
    return readTraffic(await this.client.call(requests.egress(this.id, {}, null, 1), options));
  }

  /**
   * Return the host name under which the server serves what listens on that port in the sandbox.
   *
   * It stays the same for the sandbox's life, whether anybody listens or not.
   *
   * @throws NetworkBlocked - Its network is `off`.
   * @throws StateConflict - It has ended.
   */
  async host(port: number, options: CallOptions = {}): Promise<string> {
    return readHost(await this.client.call(requests.host(this.id, port), options));
  }

  /**
   * Return the address of what listens on that port in the sandbox, for HTTP and WebSockets.
   *
   * Unless the sandbox was created with `previewAuth: false` the address holds a token: who has the address, can use
   * it. With `autoResume` a request to it wakes a paused sandbox.
   *
   * @throws NetworkBlocked - Its network is `off`.
   * @throws StateConflict - It has ended.
   */
  async previewUrl(port: number, options: CallOptions = {}): Promise<string> {
    const host = await this.host(port, options);
    return requests.previewUrl(this.client.baseUrl, host, this.current.previewAuthToken);
  }
}
