/** Sandboxes, and what a key may have. Times are UTC, sizes in bytes unless the name says otherwise. */

/** A sandbox as the server last described it. */
export interface SandboxInfo {
  /** `sbx_` and 26 characters. */
  readonly id: string;
  /** A newer server may know more than these. */
  readonly status: SandboxStatus;
  readonly template: string;
  /** The size asked for; null when the server does not say. */
  readonly size: string | null;
  readonly network: NetworkMode | (string & {});
  /** Virtual processors. */
  readonly cpu: number;
  /** Guest memory in MiB. */
  readonly memoryMb: number;
  readonly region: string;
  readonly createdAt: Date;
  /** End of the lease; stays readable when the sandbox is no more. */
  readonly expiresAt: Date;
  /** What happens at `expiresAt`. */
  readonly onTimeout: OnTimeout | (string & {});
  /**
   * Why it is no more: `user`, `lease`, `paused_too_long`, `start_failed`, `machine_lost`, `shutdown`; null while it is.
   */
  readonly endReason: string | null;
  /** The caller's own labels. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Whether a command or a file call wakes it while it is paused. */
  readonly autoResume: boolean;
  /** What it was created from, instead of a template's own start. */
  readonly snapshot: string | null;
  /** When it is terminated if it stays paused; null for never, and unless it is paused. */
  readonly pausedExpiresAt: Date | null;
  /** What it takes of the server's disk while it is paused. */
  readonly storedBytes: number | null;
  /**
   * What `restricted` may reach, with all names below these; null for the server's default list, see
   * `Limits.defaultEgressDomains`.
   */
  readonly allowDomains: readonly string[] | null;
  /** Whether what would be blocked for its name is let through and reported. */
  readonly reportOnly: boolean;
  /** Names of the `Secret`s that it uses. */
  readonly secrets: readonly string[];
  /** Whether its previews ask for `previewAuthToken`. */
  readonly previewAuth: boolean;
  /** Who has it may see the previews. Left out where the object is printed, copied or made JSON. */
  readonly previewAuthToken: string | null;
  /** Name of the volume that it has at /persist. */
  readonly volume: string | null;
}

export type SandboxStatus =
  | "starting"
  | "running"
  | "pausing"
  | "paused"
  | "resuming"
  | "terminated"
  | "failed"
  | (string & {});
export type NetworkMode = "off" | "restricted" | "open";
export type OnTimeout = "kill" | "pause";

/** A size that can be asked for: virtual processors, MiB of memory, and whether this key may have it. */
export interface SizeInfo {
  readonly name: string;
  readonly cpu: number;
  readonly memoryMb: number;
  readonly allowed: boolean;
}

/** What this API key may have. A null is a limit that the server did not tell. */
export interface Limits {
  readonly plan: string;
  /** Sandboxes that hold a machine at once; paused ones do not. */
  readonly maxConcurrent: number;
  readonly sizes: readonly SizeInfo[];
  /** Longest lease. */
  readonly maxTimeoutSeconds: number | null;
  /** Paused sandboxes. */
  readonly maxSnapshots: number | null;
  /** Named snapshots. */
  readonly maxNamedSnapshots: number | null;
  /** Children of one fork. */
  readonly maxFork: number | null;
  /** What sandboxes with network `restricted` may reach unless they say otherwise. */
  readonly defaultEgressDomains: readonly string[];
}

/** What a pause came to. */
export interface Paused {
  /** What it takes of the server's disk, encrypted. */
  readonly storedBytes: number;
  /** Memory that differs from the template's. */
  readonly dirtyBytes: number;
  /** From the stop of the sandbox's processors until all was read. */
  readonly stoppedMs: number;
}

/** A named snapshot as the server last described it. */
export interface SnapshotInfo {
  /** `snap_` and 26 characters. */
  readonly id: string;
  readonly status: "capturing" | "ready" | "failed" | (string & {});
  /** The caller's own; null without one. Several may have the same. */
  readonly name: string | null;
  /** What it was taken of; that may be terminated. */
  readonly sourceSandboxId: string | null;
  readonly template: string;
  /** With `memoryMb` and `network`: of every sandbox that is created from it. */
  readonly cpu: number;
  readonly memoryMb: number;
  readonly network: string;
  readonly createdAt: Date;
  readonly readyAt: Date | null;
  /** What it takes of the server's disk, with what it shares with others; null until it is ready. */
  readonly storedBytes: number | null;
  /** How long the source stood still for it; null until it is ready. */
  readonly stoppedMs: number | null;
  /** Why it failed. */
  readonly error: string | null;
}

/** That a key was destroyed, and with it everything it had encrypted, wherever copies of that may lie. */
export interface DeletionReceipt {
  /** Id of the sandbox or snapshot that the key belonged to. */
  readonly subject: string;
  /** What could be read with the key only, in words. */
  readonly what: string;
  readonly at: Date;
  /** Of the destroyed key. */
  readonly keyId: string;
  /** Of the server's own key, which the destroyed one was wrapped with. */
  readonly serverKeyId: string;
}
