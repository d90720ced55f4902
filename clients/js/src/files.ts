/** The files of one sandbox. */

import type { CallOptions, Terp } from "./client.js";
import { FileNotFound, InvalidRequest, PartialWrite, type TerpError, TooLarge } from "./errors/index.js";
import type { FileInfo } from "./models/files.js";
import { planBatches } from "./protocol/batches.js";
import { concat, toBytes, toText } from "./protocol/bytes.js";
import { type ByteSource, toStream } from "./protocol/sources.js";
import { readDirectory, readFailures, readStat } from "./replies/files.js";
import * as requests from "./requests/files.js";

const DEFAULT_MODE = 0o644;
const MAX_READ_BYTES = 256 * 1024 * 1024; // a guest can make a file look endless; `readStream` has no limit

export interface WriteOptions extends CallOptions {
  /** Permission bits; 0o644 if not given. */
  readonly mode?: number;
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
