/** The files of one sandbox. */

import type { CallOptions, Terp } from "./client.js";
import { FileNotFound, InvalidRequest, PartialWrite, type TerpError, TooLarge } from "./errors/index.js";
import type { FileEvent, FileInfo, Presigned, Transfer } from "./models/files.js";
import { planBatches } from "./protocol/batches.js";
import { concat, toBytes, toText } from "./protocol/bytes.js";
import { type ByteSource, toStream } from "./protocol/sources.js";
import { ChangeReader, readDirectory, readExtracted, readFailures, readPresigned, readStat } from "./replies/files.js";
import * as requests from "./requests/files.js";

const DEFAULT_MODE = 0o644;
const MAX_DIRECTORY_BYTES = 64 * 1024 ** 3;
const MAX_READ_BYTES = 256 * 1024 * 1024; // a guest can make a file look endless; `readStream` has no limit

export interface WriteOptions extends CallOptions {
  /** Permission bits; 0o644 if not given. */
  readonly mode?: number;
}

export interface PresignOptions extends CallOptions {
  readonly expiresIn?: number;
}

/**
 * Files of a sandbox; paths are absolute. Writes are allowed below /workspace, /tmp and /persist.
 *
 * Every method may throw FileNotFound, NotPermitted, InvalidRequest, StateConflict (the sandbox does not run), and what
 * any request may throw: ConnectionFailed, RequestTimeout, Unauthenticated.
 */
export class Files {
  readonly #client: Terp;
  readonly #sandboxId: string;

  /** @internal */
  constructor(client: Terp, sandboxId: string) {
    this.#client = client;
    this.#sandboxId = sandboxId;
  }

  /**
   * Write *content* to *path*, whole or not at all; missing directories are made, an existing file is replaced.
   *
   * @param content - Text goes out as UTF-8. A Blob or a stream is streamed; what a stream throws comes out, and nothing
   *   is written.
   */
  async write(path: string, content: string | Uint8Array | ByteSource, options: WriteOptions = {}): Promise<void> {
    const isAtHand = typeof content === "string" || content instanceof Uint8Array;
    const request = requests.writeContent(this.#sandboxId, path, options.mode ?? DEFAULT_MODE, isAtHand);
    const body = isAtHand ? toBytes(content) : toStream(content);
    await this.#client.call(request, { content: body, signal: options.signal });
  }

  /**
   * Write many files, content by path, in few requests.
   *
   * @throws PartialWrite - Some could not be written; all others were.
   */
  async writeMany(files: Readonly<Record<string, string | Uint8Array>>, options: WriteOptions = {}): Promise<void> {
    const contents = Object.entries(files).map(([path, content]): [string, Uint8Array] => [path, toBytes(content)]);
    const failed = new Map<string, TerpError>();
    for (const batch of planBatches(contents)) {
      for (const [path, error] of await this.#writeBatch(batch, options)) failed.set(path, error);
    }
    if (failed.size > 0) throw new PartialWrite(failed);
  }

  /**
   * Return the file's text.
   *
   * @throws InvalidRequest - It is not UTF-8; `readBytes` takes anything.
   * @throws TooLarge - It has more than 256 MiB.
   */
  async read(path: string, options: CallOptions = {}): Promise<string> {
    return toText(await this.readBytes(path, options), `It is not UTF-8, use readBytes: ${path}`);
  }

  /**
   * Return the file's content.
   *
   * @throws TooLarge - It has more than 256 MiB.
   */
  async readBytes(path: string, options: CallOptions = {}): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of this.readStream(path, options)) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MAX_READ_BYTES) {
        throw new TooLarge(`It has more than ${MAX_READ_BYTES >> 20} MiB, use readStream: ${path}`);
      }
    }
    return concat(chunks);
  }

  /** Yield the file's content as it comes, in chunks of no certain size. */
  readStream(path: string, options: CallOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    return this.#client.stream(requests.readContent(this.#sandboxId, path), options);
  }

  /**
   * Return what the directory holds, without going deeper.
   *
   * @throws InvalidRequest - It is a file.
   */
  async list(path: string, options: CallOptions = {}): Promise<FileInfo[]> {
    return readDirectory(await this.#client.call(requests.listFiles(this.#sandboxId, path), options), path);
  }

  /** @throws FileNotFound - There is nothing at *path*. */
  async stat(path: string, options: CallOptions = {}): Promise<FileInfo> {
    const found = await this.#find(path, options);
    if (!found) throw new FileNotFound(`No such file or directory: ${path}`);
    return found;
  }

  async exists(path: string, options: CallOptions = {}): Promise<boolean> {
    return (await this.#find(path, options)) !== null;
  }

  /**
   * Make a directory.
   *
   * @param options - `parents`, true if not given: make missing ones above too, and take an existing one for done.
   */
  async mkdir(path: string, options: { parents?: boolean } & CallOptions = {}): Promise<void> {
    await this.#client.call(requests.makeDirectory(this.#sandboxId, path, options.parents ?? true), options);
  }

  /** Rename a file or directory. */
  async move(source: string, destination: string, options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.moveFile(this.#sandboxId, source, destination), options);
  }

  /** Remove a file. For directories run `rm -r`. */
  async remove(path: string, options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.removeFile(this.#sandboxId, path), options);
  }

  // ---- directories ----

  /**
   * Copy what the directory *remote* holds into the directory *local* of this machine, which is made if missing. Where
   * there is Node's file system; elsewhere see `downloadArchive`.
   *
   * It is streamed; existing files of the same names are replaced. Nothing is written outside of *local*: links that
   * lead out of it, devices, pipes and sockets are left out, and told in `skipped`.
   *
   * @param options - `maxBytes`: most that may come, 64 GiB if not given: a guest decides what its directory holds.
   * @throws TooLarge - More came. What was written until then stays, as with any other error.
   */
  async downloadDir(
    remote: string,
    local: string,
    options: { maxBytes?: number } & CallOptions = {},
  ): Promise<Transfer> {
    const { unpack } = await import("./directories/unpack.js");
    const chunks = this.#client.stream(requests.readArchive(this.#sandboxId, remote), options);
    return unpack(chunks, local, options.maxBytes ?? MAX_DIRECTORY_BYTES);
  }

  /**
   * Copy what the directory *local* of this machine holds into the directory *remote*, which is made if missing. Where
   * there is Node's file system; elsewhere see `uploadArchive`.
   *
   * It is streamed; existing files of the same names are replaced. Links are copied as links, owners are not kept. What
   * cannot be read comes out, and so does what changes its size meanwhile; what was written until then stays.
   */
  async uploadDir(local: string, remote: string, options: CallOptions = {}): Promise<Transfer> {
    const { pack } = await import("./directories/pack.js");
    const skipped: string[] = [];
    const made = await this.uploadArchive(remote, pack(local, skipped), options);
    return { ...made, skipped };
  }

  /** Yield the directory *path* as a tar archive, names relative to it. A guest wrote it: trust no name in it. */
  downloadArchive(path: string, options: CallOptions = {}): AsyncGenerator<Uint8Array, void, void> {
    return this.#client.stream(requests.readArchive(this.#sandboxId, path), options);
  }

  /** Unpack a tar archive below the directory *path*, which is made if missing; nothing leads out of it. */
  async uploadArchive(path: string, archive: ByteSource, options: CallOptions = {}): Promise<Transfer> {
    await this.mkdir(path, { signal: options.signal });
    const request = requests.writeArchive(this.#sandboxId, path);
    return readExtracted(await this.#client.call(request, { content: toStream(archive), signal: options.signal }));
  }

  /**
   * Yield what changes below the directory *path*, until the caller leaves.
   *
   *     for await (const change of sbx.files.watch("/workspace")) console.log(change.kind, change.path);
   *
   * The first event is `ready`: from then on nothing is missed. After `overflow` something was: list anew.
   *
   * @param options - `recursive`, true if not given: what is in its directories, too.
   * @throws FileNotFound - There is no such directory.
   * @throws LimitExceeded - It has more directories than can be watched.
   * @throws ConnectionFailed - Watch anew, and list anew: what changed in between is not told.
   */
  watch(path: string, options: { recursive?: boolean } & CallOptions = {}): AsyncGenerator<FileEvent, void, void> {
    const request = requests.watch(this.#sandboxId, path, options.recursive ?? true);
    return this.#client.events(request, new ChangeReader(), "The server has ended the watch", options);
  }

  // ---- addresses ----

  /**
   * Make an address from which anybody who has it can read the file with a plain GET, Range included.
   *
   * @param options - `expiresIn`: seconds, 60 to 3600; 600 if not given.
   */
  async presignDownload(path: string, options: PresignOptions = {}): Promise<Presigned> {
    return this.#presign(path, "download", options);
  }

  /**
   * Make an address to which anybody who has it can write the file with a plain PUT of its content.
   *
   * @param options - `expiresIn`: seconds, 60 to 3600; 600 if not given.
   */
  async presignUpload(path: string, options: PresignOptions = {}): Promise<Presigned> {
    return this.#presign(path, "upload", options);
  }

  async #presign(path: string, direction: "download" | "upload", options: PresignOptions): Promise<Presigned> {
    const request = requests.presign(this.#sandboxId, path, direction, options.expiresIn ?? 600);
    return readPresigned(await this.#client.call(request, { signal: options.signal }));
  }

  async #writeBatch(batch: [string, Uint8Array][], options: WriteOptions): Promise<Map<string, TerpError>> {
    const [first] = batch;
    if (first && batch.length === 1) {
      try {
        await this.write(first[0], first[1], options);
      } catch (error) {
        const isOfThisFile =
          error instanceof FileNotFound || error instanceof InvalidRequest || error instanceof TooLarge;
        if (!isOfThisFile) throw error;
        return new Map([[first[0], error]]);
      }
      return new Map();
    }
    const request = requests.writeBatch(this.#sandboxId, batch, options.mode ?? DEFAULT_MODE);
    return readFailures(await this.#client.call(request, { signal: options.signal }));
  }

  async #find(path: string, options: CallOptions): Promise<FileInfo | null> {
    return readStat(await this.#client.call(requests.statFile(this.#sandboxId, path), options), path);
  }
}
