/** What a tenant uses, for those who have no client of their own. */

import { defaultClient, type UsageOptions } from "./client.js";
import type { Usage } from "./models/account.js";
import type { WithClient } from "./snapshot.js";

/**
 * Return what all sandboxes of this key's tenant used, by day.
 *
 * @param options - `since`, `until`: days or times; `until` is not included. If not given, what the server counts by
 *   itself.
 */
export function usage(options: UsageOptions & WithClient = {}): Promise<Usage> {
  return (options.client ?? defaultClient()).usage(options);
}
