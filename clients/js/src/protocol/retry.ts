/** Whether to send a request again, and after how long. Pure: the caller sleeps. */

import { CapacityUnavailable, ConnectionFailed, RequestTimeout, type TerpError, Unavailable } from "../errors/index.js";
import type { Repeat } from "./request.js";

const MAX_REPEATS = 3; // after a lost connection
const FIRST_DELAY_S = 0.1; // doubled each time: 0.1, 0.2, 0.4

const MAX_CAPACITY_REPEATS = 30;
const FIRST_CAPACITY_DELAY_S = 2; // where the server names no delay; doubled each time
const MAX_CAPACITY_DELAY_S = 30;

export interface Attempts {
  /** How often it has failed, this time included. */
  readonly failures: number;
  /** Delays so far, summed. */
  readonly waitedS: number;
  /** Most that all delays for a full server may sum up to. */
  readonly waitForCapacityS: number;
}

/** Return the seconds to wait before the same request is sent again; undefined to give up. */
export function planRetry(repeat: Repeat, error: TerpError, attempts: Attempts): number | undefined {
  const { failures, waitedS, waitForCapacityS } = attempts;
  if (error instanceof CapacityUnavailable) {
    if (failures > MAX_CAPACITY_REPEATS) return undefined; // else right for any request: nothing was created or changed
    const delay = Math.min(error.retryAfter ?? FIRST_CAPACITY_DELAY_S * 2 ** (failures - 1), MAX_CAPACITY_DELAY_S);
    return waitedS + delay <= waitForCapacityS ? delay : undefined;
  }
  if (failures > MAX_REPEATS || !mayRepeat(repeat, error)) return undefined;
  if (error.retryAfter !== undefined) return Math.min(error.retryAfter, MAX_CAPACITY_DELAY_S);
  return FIRST_DELAY_S * 2 ** (failures - 1);
}

function mayRepeat(repeat: Repeat, error: TerpError): boolean {
  if (error instanceof ConnectionFailed && !error.sent) return true;
  if (repeat === "if-unsent") return false;
  // a silent server: only for what would otherwise be paid for twice
  if (error instanceof RequestTimeout) return repeat === "if-lost-or-silent";
  return error instanceof ConnectionFailed || error instanceof Unavailable;
}
