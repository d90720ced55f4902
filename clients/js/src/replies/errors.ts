/** Failures that a reply tells, read into errors: by `code` and, without a known one, by HTTP status. */

import * as errors from "../errors/index.js";
import { isObject, type Json } from "../protocol/fields.js";

type Kind = new (detail: string, circumstances?: errors.Circumstances) => errors.TerpError;

const LOCAL = new Set([
  "TerpError",
  "CommandFailed",
  "CodeFailed",
  "PartialWrite",
  "ConnectionFailed",
  "RequestTimeout",
  "BadReply",
]);
const BY_CODE: ReadonlyMap<string, Kind> = new Map(
  Object.entries(errors)
    .filter(([name]) => !LOCAL.has(name))
    .map(([, kind]) => [(kind as typeof errors.TerpError).code, kind as Kind]),
);

const BY_STATUS: ReadonlyMap<number, Kind> = new Map<number, Kind>([
  [400, errors.InvalidRequest],
  [401, errors.Unauthenticated],
  [403, errors.Forbidden],
  [404, errors.NotFound],
  [409, errors.Conflict],
  [413, errors.TooLarge],
  [422, errors.InvalidRequest],
  [429, errors.LimitExceeded],
  [501, errors.NotOffered],
  [502, errors.Unavailable], // without a code of ours it comes from a proxy in between
  [503, errors.Unavailable],
  [504, errors.DeadlineExceeded],
  [507, errors.StorageFull],
]);

export interface Head {
  readonly status: number;
  readonly headers: Headers;
}

/**
 * Return the reply's object; an empty reply is `{}`.
 *
 * A failure after the status was sent comes as a 200 whose object has `code` and `detail`: it is thrown like any.
 */
export function readJson(head: Head, content: string): Json {
  if (head.status < 200 || head.status >= 300) throw readError(head, content);
  if (content.trim() === "") return {};
  const body = parsed(content);
  if (!isObject(body)) {
    throw new errors.BadReply("What answered does not speak the Terp API; check the base URL", {
      status: head.status,
      requestId: head.headers.get("x-request-id") ?? undefined,
    });
  }
  if (typeof body.code === "string" && typeof body.detail === "string") throw readError(head, content);
  return body;
}

export function readError(head: Head, content: string): errors.TerpError {
  const said = parsed(content);
  const { code, detail, message, retry_after: retryAfter, ...fields } = isObject(said) ? said : ({} as Json);
  const named = typeof code === "string" ? code : undefined;
  const Kind = BY_CODE.get(named ?? "") ?? BY_STATUS.get(head.status) ?? fallback(head.status);
  return new Kind(words(detail) ?? words(message) ?? statusText(head.status), {
    code: named,
    status: head.status,
    requestId: head.headers.get("x-request-id") ?? undefined,
    retryAfter: seconds(head.headers.get("retry-after")) ?? seconds(retryAfter),
    fields,
  });
}

/** Return the error that *code* names, for failures inside a stream or of one file among many. */
export function errorByCode(code: string, detail: string, fields: Json = {}): errors.TerpError {
  const Kind = BY_CODE.get(code) ?? errors.TerpError;
  return new Kind(detail, { code, fields });
}

function parsed(content: string): unknown {
  try {
    return JSON.parse(content);
  } catch {
    return undefined;
  }
}

function words(value: unknown): string | undefined {
  if (value === undefined || value === null || value === "") return undefined;
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Retry-After as a date is not used by this API. */
function seconds(value: unknown): number | undefined {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof number === "number" && number > 0 && Number.isFinite(number) ? number : undefined;
}

function statusText(status: number): string {
  if (status === 0 || (status >= 300 && status < 400)) {
    const how = status === 0 ? "" : ` (HTTP ${status})`; // a browser does not tell
    return `The server redirects${how}; use the address it redirects to as the base URL`;
  }
  return `The server answered HTTP ${status} and no reason`;
}

function fallback(status: number): Kind {
  if (status >= 500) return errors.Internal;
  return status >= 400 ? errors.InvalidRequest : errors.BadReply;
}
