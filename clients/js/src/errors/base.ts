/** The root of all errors. */

/** What is known of a failure besides its words. */
export interface Circumstances {
  code?: string | undefined;
  status?: number | undefined;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
  fields?: Readonly<Record<string, unknown>> | undefined;
  cause?: unknown;
}

/** Root of all errors of this package. */
export class TerpError extends Error {
  static readonly code: string = "error";
  override readonly name: string = "TerpError";
  /** Stable and for machines, e.g. `sandbox_not_found`. */
  readonly code: string;
  /** What happened, and what to do about it. */
  readonly detail: string;
  /** HTTP status of the reply; undefined when there was no reply. */
  readonly status: number | undefined;
  /** What the server's log knows the request by; undefined when there was no reply. */
  readonly requestId: string | undefined;
  /** Seconds after which another attempt makes sense; undefined when the server did not say. */
  readonly retryAfter: number | undefined;
  /** Whether the same call can succeed later without a change. */
  readonly retryable: boolean = false;
  /** Further machine-readable members of the error body, e.g. `limit`. */
  readonly fields: Readonly<Record<string, unknown>>;

  constructor(detail: string, circumstances: Circumstances = {}) {
    super(detail, circumstances.cause === undefined ? undefined : { cause: circumstances.cause });
    this.detail = detail;
    this.code = circumstances.code ?? (new.target as typeof TerpError).code;
    this.status = circumstances.status;
    this.requestId = circumstances.requestId;
    this.retryAfter = circumstances.retryAfter;
    this.fields = { ...circumstances.fields };
  }
}
