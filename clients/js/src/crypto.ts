/** What the run time has of WebCrypto; Node 18 has it in a module alone. */

import { toHex } from "./protocol/bytes.js";

/** 32 hexadecimal digits that no other has. They need not be a secret. */
export function uniqueHex(): string {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto) crypto.getRandomValues(bytes);
  else for (const at of bytes.keys()) bytes[at] = Math.random() * 256;
  return toHex(bytes);
}

export async function subtleCrypto(): Promise<SubtleCrypto> {
  if (globalThis.crypto) return crypto.subtle;
  const { webcrypto } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:crypto");
  return webcrypto.subtle as SubtleCrypto;
}
