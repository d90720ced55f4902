/** The objects that the vectors are made of. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const VECTORS = fileURLToPath(new URL("../../vectors/", import.meta.url));
export const OBJECTS: Record<string, Record<string, unknown>> = JSON.parse(
  readFileSync(`${VECTORS}objects.json`, "utf8"),
);
