/** What a sandbox reaches and has reached. */

/**
 * A credential that a sandbox uses and never holds.
 *
 *     { name: "OPENAI_API_KEY", hosts: "api.openai.com", value: process.env.OPENAI_API_KEY }
 *
 * In the sandbox there is a placeholder, which is worth nothing: programs find it in the variable `env` and send it as
 * they would send the value. On the way to `hosts`, and to no others, the server puts the value in its place.
 */
export interface Secret {
  /** Letters, digits, `_` and `-`. Connections that used the credential are recorded with it. */
  readonly name: string;
  /** One name, or several; names below them are not meant. */
  readonly hosts: string | readonly string[];
  /**
   * In the server's memory only: after a restart of the server the sandbox can no longer use it, which its connections
   * then say (`credential_lost`).
   */
  readonly value: string;
  /** The request header that carries it; `authorization` if not given. */
  readonly header?: string;
  /** `terp-secret-` and the name in lower case if not given. */
  readonly placeholder?: string;
  /** The name in capitals, with `_` for `-`, if not given; empty for no variable. */
  readonly env?: string;
}

/** A connection that a sandbox made or was refused, or a name that it was refused the address of. */
export interface Connection {
  /** Those that ended later have a greater one. */
  readonly id: string;
  /** When it began. */
  readonly at: Date;
  /** `tls`, `http`, `connect`, `dns` or `tcp`; a newer server may know more, as of all that follow. */
  readonly protocol: string;
  /** The host asked for; null when no name was. */
  readonly name: string | null;
  /** What the server dialled; null when it dialled nothing. */
  readonly address: string | null;
  readonly port: number;
  /** `allowed`, `reported` (let through by reportOnly), `blocked`, or `failed` (allowed and not reached). */
  readonly decision: string;
  /** Why, e.g. `allowed_name`, `name_not_allowed`, `address_forbidden`. */
  readonly reason: string;
  /** From the sandbox. */
  readonly bytesOut: number;
  /** To the sandbox. */
  readonly bytesIn: number;
  readonly durationMs: number;
  /** Name of the `Secret` that was put in. */
  readonly credential: string | null;
}

/** All of a sandbox's traffic since it was created, over pauses. */
export interface Traffic {
  readonly bytesOut: number;
  readonly bytesIn: number;
  /** That were let through, those that could not be reached included. */
  readonly connections: number;
  /** Connections and questions for names. */
  readonly blocked: number;
}
