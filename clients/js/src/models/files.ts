/** Files of a sandbox. */

/** A file or directory in a sandbox. */
export interface FileInfo {
  /** Last component as the guest gave it: show it, do not use it as a path on your machine. */
  readonly name: string;
  readonly path: string;
  readonly isDir: boolean;
  /** Bytes; of a directory, whatever the guest's file system says. */
  readonly size: number;
  /** Permission bits. */
  readonly mode: number;
  readonly modifiedAt: Date;
  readonly isSymlink: boolean;
}

/** A change below a watched directory. */
export interface FileEvent {
  /**
   * `ready`, the first one: from now on nothing is missed. Then `created`, `modified`, `removed`, `moved`; and
   * `overflow`: more happened than could be told, list the directory anew.
   */
  readonly kind: "ready" | "created" | "modified" | "removed" | "moved" | "overflow" | (string & {});
  /** As the guest gave it: show it, do not use it as a path on your machine. */
  readonly path: string;
  readonly isDir: boolean;
  /** Of `moved`; null when that was outside of what is watched. */
  readonly movedFrom: string | null;
}

/** An address at which one file is read or written without a key, any number of times until it expires. */
export interface Presigned {
  /** Whoever has it can use it. */
  readonly url: string;
  /** `GET`, or `PUT` with the content as the body and its Content-Length. */
  readonly method: string;
  readonly path: string;
  readonly expiresAt: Date;
}

/** What a copy of a directory came to. */
export interface Transfer {
  /** Files, directories and links that were made. */
  readonly files: number;
  /** Bytes of file content. */
  readonly size: number;
  /** Names that were left out: what leads out of the directory, devices, pipes and sockets. At most 1000. */
  readonly skipped: readonly string[];
}
