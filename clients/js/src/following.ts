/** Commands and terminals waited for and followed to their end, over broken connections. */

import type { CallOptions, Terp } from "./client.js";
import {
  ConnectionFailed,
  DeadlineExceeded,
  FollowTimeout,
  LogDropped,
  RequestTimeout,
  Unavailable,
} from "./errors/index.js";
import type { ExecEvent } from "./models/exec.js";
import type { Request } from "./protocol/request.js";
import { sleep } from "./protocol/sleep.js";
import { ExecReader } from "./replies/exec.js";

const ATTEMPTS = 6; // in a row that bring nothing; with the delays, 13 s: a server is started anew in less
const FIRST_DELAY_S = 0.2; // doubled each time
const GOOD_CONNECTION_MS = 5000; // one that held so long was none of a row of failures
const FIRST_POLL_S = 0.1;
const LAST_POLL_S = 1;

export const BROKEN = "The stream ended before the command did; it runs on, `attach` follows it";

/** Whether asking again may help. */
export function isPassing(error: unknown): boolean {
  return error instanceof ConnectionFailed || error instanceof RequestTimeout || error instanceof Unavailable;
}

/**
 * Yield a command's events from an offset to its end, over broken connections.
 *
 * @param requestAt - The request for what comes from an offset on.
 * @param from - `offset`, and whether to go on with what is kept, where older output is gone (`gaps`).
 * @throws LogDropped - Output is gone, and no gaps are wanted.
 * @throws ConnectionFailed, RequestTimeout, Unavailable - As many attempts as there may be in a row brought nothing.
 */
export async function* follow(
  client: Terp,
  requestAt: (offset: number) => Request,
  from: { readonly offset: number; readonly gaps: boolean },
  options: CallOptions,
): AsyncGenerator<ExecEvent, void, void> {
  const reader = new ExecReader(from.offset);
  let failures = 0;
  while (!reader.finished) {
    const began = Date.now();
    let end = reader.end;
    try {
      for await (const event of client.events(requestAt(end), reader, BROKEN, options)) {
        if ("offset" in event && event.offset > end && !from.gaps) throw dropped(end, event.offset);
        end = reader.end;
        failures = 0;
        yield event;
      }
    } catch (error) {
      if (error instanceof FollowTimeout) {
        reader.finished = false;
      } else if (error instanceof LogDropped) {
        if (!from.gaps || error.firstOffset === undefined || error.firstOffset <= reader.end) throw error;
        reader.end = error.firstOffset;
      } else {
        failures = Date.now() - began > GOOD_CONNECTION_MS ? 1 : failures + 1;
        if (!isPassing(error) || failures >= ATTEMPTS) throw error;
        await sleep(FIRST_DELAY_S * 2 ** (failures - 1), options.signal);
      }
    }
  }
}

function dropped(end: number, firstOffset: number): LogDropped {
  return new LogDropped(`Output from ${end} on is not kept any more`, { fields: { first_offset: firstOffset } });
}

export interface WaitOptions extends CallOptions {
  /** Seconds to wait at most; if not given, without end. */
  readonly timeout?: number | undefined;
}

/** What runs in a sandbox without a connection. */
interface Running {
  readonly id: string;
  readonly status: string;
  readonly exitCode: number | null;
  refresh(options: CallOptions): Promise<void>;
}

/**
 * Return the exit code when *running* has ended; null when it was killed.
 *
 * @throws DeadlineExceeded - It still runs at the end of `timeout`. Nothing is done to it.
 */
export async function waitFor(running: Running, what: string, options: WaitOptions): Promise<number | null> {
  const { timeout, signal } = options;
  const end = timeout === undefined ? Number.POSITIVE_INFINITY : Date.now() + timeout * 1000;
  await running.refresh({ signal });
  for (let delayS = FIRST_POLL_S; running.status === "running"; delayS = Math.min(delayS * 1.5, LAST_POLL_S)) {
    const leftS = (end - Date.now()) / 1000;
    if (leftS <= 0) throw new DeadlineExceeded(`The ${what} ${running.id} still runs after ${timeout} s`);
    await sleep(Math.min(delayS, leftS), signal);
    await running.refresh({ signal });
  }
  return running.exitCode;
}
