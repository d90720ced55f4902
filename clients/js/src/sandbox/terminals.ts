/** Terminals of a sandbox. */

import type { CallOptions } from "../client.js";
import { Pty } from "../pty.js";
import { readPty, readPtys } from "../replies/commands.js";
import * as requests from "../requests/commands.js";
import { CommandedSandbox } from "./commands.js";

export abstract class TerminalSandbox extends CommandedSandbox {
  /**
   * Open a terminal.
   *
   * @throws InvalidRequest - The directory does not exist, or a value is out of bounds.
   * @throws StateConflict - The sandbox does not run.
   */
  async pty(options: requests.PtyOptions & CallOptions = {}): Promise<Pty> {
    const reply = await this.client.call(requests.openPty(this.id, options), { signal: options.signal });
    return new Pty(this.client, this.id, readPty(reply), 0);
  }

  /** Return the sandbox's terminals, ended ones included as long as it remembers them. */
  async ptys(options: CallOptions = {}): Promise<Pty[]> {
    const infos = readPtys(await this.client.call(requests.listPtys(this.id), { signal: options.signal }));
    return infos.map((info) => new Pty(this.client, this.id, info, undefined));
  }

  /**
   * Return a terminal that was opened before.
   *
   * @throws ExecNotFound - No such terminal in this sandbox, or it ended long ago.
   */
  async attachPty(ptyId: string, options: CallOptions = {}): Promise<Pty> {
    const reply = await this.client.call(requests.getPty(this.id, ptyId), { signal: options.signal });
    return new Pty(this.client, this.id, readPty(reply), undefined);
  }
}
