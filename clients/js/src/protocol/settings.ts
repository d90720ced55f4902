/** Which server, and as whom: from arguments, else from the environment. */

import { InvalidRequest, Unauthenticated } from "../errors/index.js";

export const DEFAULT_BASE_URL = "http://127.0.0.1:7070";

export interface Settings {
  /** Without a trailing slash; a path prefix in it is kept. */
  readonly baseUrl: string;
  readonly apiKey: string;
}

/**
 * @throws Unauthenticated - There is no key.
 * @throws InvalidRequest - Key or URL have not the form of one.
 */
export function resolveSettings(apiKey: string | undefined, baseUrl: string | undefined): Settings {
  const key = apiKey || environment("TERP_API_KEY");
  if (!key) throw new Unauthenticated("No API key: set TERP_API_KEY, or pass apiKey. `terpd key create` makes one");
  if (!/^[\x21-\x7e]+$/.test(key)) {
    throw new InvalidRequest("The API key holds a space, a line end or another character that no key has");
  }
  const url = (baseUrl || environment("TERP_BASE_URL") || DEFAULT_BASE_URL).replace(/\/+$/, "");
  if (!isBaseUrl(url)) throw new InvalidRequest(`The base URL must look like ${DEFAULT_BASE_URL}, not: ${url}`);
  return { baseUrl: url, apiKey: key };
}

function isBaseUrl(url: string): boolean {
  try {
    const parts = new URL(url);
    const isHttp = parts.protocol === "http:" || parts.protocol === "https:";
    return isHttp && /^https?:\/\/[^/]/i.test(url) && parts.port !== "0" && !/[?#]/.test(url);
  } catch {
    return false;
  }
}

/** A browser has no environment, and Deno may not allow to read it. */
function environment(name: string): string | undefined {
  try {
    return globalThis.process?.env?.[name];
  } catch {
    return undefined;
  }
}
