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
