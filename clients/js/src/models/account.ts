/** What a tenant has besides sandboxes: volumes and webhooks; and what all of it uses. */

/** A volume as the server last described it. */
export interface VolumeInfo {
  /** `vol_` and 26 characters. */
  readonly id: string;
  readonly name: string;
  /** In MiB. A ceiling: what is not written takes no room. */
  readonly sizeMb: number;
  /** A newer server may know more than these. */
  readonly status: "available" | "attached" | "moving" | "stored" | "deleting" | (string & {});
  readonly region: string | null;
  readonly nodeId: string | null;
  /** Who holds it, from the start of its create to its end, also while it is paused. */
  readonly attachedSandboxId: string | null;
  /** Counted from its creation, as `maxLifetimeHours`; one at most is set. */
  readonly maxLifetimeDays: number | null;
  readonly maxLifetimeHours: number | null;
  /** When it is deleted, or as soon as nobody holds it then. */
  readonly expiresAt: Date | null;
  readonly createdAt: Date | null;
}

/** A webhook as the server last described it. */
export interface WebhookInfo {
  readonly id: string;
  readonly url: string;
  /** Which events it is told; null for all. */
  readonly eventTypes: readonly string[] | null;
  /** False after too many failures in a row, until `enable`. */
  readonly active: boolean;
  /** Deliveries that failed after all their tries. */
  readonly consecutiveFailures: number;
  readonly lastDeliveryAt: Date | null;
  readonly lastError: string | null;
  readonly createdAt: Date | null;
  /**
   * What its deliveries are signed with; only of one that was just created. Left out where the object is printed,
   * copied or made JSON.
   */
  readonly secret: string | null;
}

/** An event on its way to a webhook. */
export interface Delivery {
  /** What the request says in `X-Orkestr-Delivery`; the same in all tries. */
  readonly id: string;
  /** Of the event, e.g. `sandbox.created`. */
  readonly type: string;
  readonly status: "pending" | "delivered" | "failed" | (string & {});
  /** How often it was sent. */
  readonly tries: number;
  readonly createdAt: Date;
  readonly nextTryAt: Date | null;
  /** What was answered last; null when nothing was. */
  readonly responseStatus: number | null;
  readonly error: string | null;
  readonly finishedAt: Date | null;
}

/** One second of a sandbox: percent of all its processors, and bytes of memory in use. */
export interface MetricsSample {
  readonly at: Date;
  readonly cpuPercent: number;
  readonly memoryBytes: number;
}

/** What a sandbox uses now, and has used. */
export interface Metrics {
  readonly sandboxId: string;
  readonly status: string;
  /** When it was measured. */
  readonly asOf: Date;
  /** Virtual processors. */
  readonly cores: number;
  /** Now, as `cpuPercent`; null unless it runs. With all of them busy it is 100. */
  readonly coresUsed: number | null;
  readonly cpuPercent: number | null;
  /** All it has. */
  readonly memoryLimitBytes: number;
  /** Now, as `memoryPercent`, without what the kernel could give back; null unless it runs. */
  readonly memoryBytes: number | null;
  readonly memoryPercent: number | null;
  /** Since it was created, over pauses, as `gbSeconds`; a GB is 10^9 bytes. */
  readonly cpuSeconds: number;
  readonly gbSeconds: number;
  /** The last minute, one a second, oldest first. */
  readonly samples: readonly MetricsSample[];
}

/** What all sandboxes of a tenant used on one day (UTC). */
export interface DayUsage {
  /** Like `2026-01-31`. */
  readonly day: string;
  readonly cpuSeconds: number;
  readonly gbSeconds: number;
}

/** What all sandboxes of a tenant used; days without use are left out. A GB is 10^9 bytes. */
export interface Usage {
  readonly days: readonly DayUsage[];
  readonly cpuSeconds: number;
  readonly gbSeconds: number;
}
