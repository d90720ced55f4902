/** What the server said last of a sandbox. */

import type { CallOptions, Terp } from "../client.js";
import { inspect } from "../dispose.js";
import type { SandboxInfo, SandboxStatus } from "../models/sandbox.js";
import { readSandbox } from "../replies/sandbox.js";
import * as requests from "../requests/sandbox.js";

export abstract class DescribedSandbox {
  /** @internal */
  constructor(
    protected readonly client: Terp,
    protected current: SandboxInfo,
  ) {}

  get info(): SandboxInfo {
    return this.current;
  }

  get id(): string {
    return this.current.id;
  }

  get status(): SandboxStatus {
    return this.current.status;
  }

  get template(): string {
    return this.current.template;
  }

  get network(): string {
    return this.current.network;
  }

  get createdAt(): Date {
    return this.current.createdAt;
  }

  get expiresAt(): Date {
    return this.current.expiresAt;
  }

  get metadata(): Readonly<Record<string, string>> {
    return this.current.metadata;
  }

  /** Ask the server how the sandbox is now. */
  async refresh(options: CallOptions = {}): Promise<void> {
    this.current = readSandbox(await this.client.call(requests.get(this.id), options));
  }

  /** @internal */
  [inspect](): string {
    return `<Sandbox ${this.id} ${this.status}>`;
  }
}
