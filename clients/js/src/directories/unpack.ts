/**
 * A tar stream unpacked into a directory of this machine.
 *
 * The archive comes from a guest and is trusted in nothing: names lead nowhere but below the directory, symbolic links
 * are made last, so that nothing is ever written through one, and only if they stay below it too.
 */

import { BadReply, TooLarge } from "../errors/index.js";
import type { Transfer } from "../models/files.js";
import { concat } from "../protocol/bytes.js";
import { fileSystem, isErrno } from "./node.js";
import { BLOCK, type Header, padding, readHeader, readRecords } from "./tar.js";

const MAX_HEADER_BYTES = 1024 * 1024; // of a long name or of extended attributes
const MAX_LINKS = 100_000;
const MAX_SKIPPED = 1000;
const HEADERS = ["x", "g", "L", "K"]; // of the entry that follows

/** @throws TooLarge - More than *maxBytes* came. @throws BadReply - It is no tar archive. */
export async function unpack(chunks: AsyncIterable<Uint8Array>, root: string, maxBytes: number): Promise<Transfer> {
  const tree = await Tree.open(root);
  const archive = new Archive(chunks, maxBytes);
  try {
    let extended = new Map<string, string>();
    for (let block = await archive.block(); block; block = await archive.block()) {
      const header = readHeader(block, extended);
      if (!header) continue;
      if (HEADERS.includes(header.type)) {
        extended = further(header.type, await archive.small(header.size), extended);
      } else {
        await tree.add(header, archive);
        extended = new Map();
      }
    }
  } finally {
    await archive.close();
  }
  return tree.finish();
}

/** What a header of a header says. */
function further(type: string, content: Uint8Array, extended: Map<string, string>): Map<string, string> {
  if (type === "g") return extended; // nothing that matters here
  if (type === "x") return new Map([...extended, ...readRecords(content)]);
  const end = content.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? content : content.subarray(0, end));
  return new Map([...extended, [type === "L" ? "path" : "linkpath", text]]);
}

/** The bytes of an archive, in whatever pieces they come. */
class Archive {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #maxBytes: number;
  #room: number;
  #rest: Uint8Array = new Uint8Array();

  constructor(chunks: AsyncIterable<Uint8Array>, maxBytes: number) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#maxBytes = this.#room = maxBytes;
  }

  /** The next block; undefined at the end. */
  async block(): Promise<Uint8Array | undefined> {
    if (this.#rest.length === 0 && !(await this.#more())) return undefined;
    const parts: Uint8Array[] = [];
    for await (const part of this.content(BLOCK)) parts.push(part);
    return concat(parts);
  }

  /** A content that has to fit in memory, and its padding. */
  async small(size: number): Promise<Uint8Array> {
    if (size > MAX_HEADER_BYTES) throw new BadReply(`What came is no tar archive: a name of ${size} bytes`);
    const parts: Uint8Array[] = [];
    for await (const part of this.content(size)) parts.push(part);
    await this.skip(padding(size));
    return concat(parts);
  }

  async skip(size: number): Promise<void> {
    for await (const _ of this.content(size));
  }

  /** The next *size* bytes, piece by piece. */
  async *content(size: number): AsyncGenerator<Uint8Array, void, void> {
    for (let left = size; left > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more()))
        throw new BadReply("The archive ends in the middle of a file");
      const part = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(part.length);
      left -= part.length;
      yield part;
    }
  }

  async close(): Promise<void> {
    await this.#chunks.return?.();
  }

  async #more(): Promise<boolean> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done) return false;
      this.#room -= value.length;
      if (this.#room < 0) {
        throw new TooLarge(`The directory is larger than maxBytes=${this.#maxBytes}; what came first was written`);
      }
      this.#rest = value;
    }
    return true;
  }
}

type FileSystem = Awaited<ReturnType<typeof fileSystem>>;

/** The directory that is written, and what became of each entry. */
class Tree {
  readonly #links: Header[] = [];
  readonly #skipped: string[] = [];
  #files = 0;
  #size = 0;

  private constructor(
    private readonly root: string,
    private readonly system: FileSystem,
  ) {}

  static async open(root: string): Promise<Tree> {
    const system = await fileSystem();
    await system.fs.mkdir(root, { recursive: true });
    return new Tree(await system.fs.realpath(root), system);
  }

  /** Make what *header* describes, and read its content in any case. */
  async add(header: Header, archive: Archive): Promise<void> {
    if (header.kind === "file" && (await this.#canBe(header))) {
      await this.#write(header, archive);
      this.#files += 1;
      this.#size += header.size;
      await archive.skip(padding(header.size));
      return;
    }
    await archive.skip(header.size + padding(header.size));
    if (header.kind === "file") return; // its name is no good, which is noted
    if (header.kind === "symlink" && this.#links.length < MAX_LINKS) this.#links.push(header);
    else if (header.kind === "directory") await this.#makeDirectory(header);
    else if (header.kind === "link") await this.#makeLink(header);
    else this.#skip(header.name);
  }

  async finish(): Promise<Transfer> {
    for (const link of this.#links) await this.#makeSymlink(link);
    return { files: this.#files, size: this.#size, skipped: this.#skipped };
  }

  /** The components of a name below the root; undefined if it leads elsewhere. */
  #parts(name: string): string[] | undefined {
    const parts = name.split("/").filter((part) => part !== "" && part !== ".");
    const isOdd = parts.some((part) => part === ".." || part.includes("\0") || part.includes(this.system.path.sep));
    return isOdd || name.startsWith("/") ? undefined : parts;
  }

  /** Whether the place of *header* is free to be written: directories are made, what was there is removed. */
  async #canBe(header: Header): Promise<boolean> {
    const parts = this.#parts(header.name);
    if (parts && parts.length > 0 && (await this.#makeDirectories(parts.slice(0, -1)))) {
      if (await this.#remove(this.#join(parts))) return true;
    }
    this.#skip(header.name);
    return false;
  }

  /** Directories are made one by one: none of them may be a link. */
  async #makeDirectories(parts: readonly string[]): Promise<boolean> {
    for (let depth = 1; depth <= parts.length; depth++) {
      const path = this.#join(parts.slice(0, depth));
      try {
        await this.system.fs.mkdir(path);
      } catch (error) {
        if (!isErrno(error, "EEXIST")) throw error;
        if (!(await this.system.fs.lstat(path)).isDirectory()) return false;
      }
    }
    return true;
  }

  async #makeDirectory(header: Header): Promise<void> {
    const parts = this.#parts(header.name);
    if (parts?.length === 0) return; // the root itself
    if (!parts || !(await this.#makeDirectories(parts))) return this.#skip(header.name);
    await this.system.fs.chmod(this.#join(parts), (header.mode | 0o700) & 0o755); // or nothing more could be written into it
    this.#files += 1;
  }

  async #write(header: Header, archive: Archive): Promise<void> {
    const path = this.#join(this.#parts(header.name) ?? []);
    const file = await this.system.fs.open(path, "wx", 0o600); // fails at whatever is there by now
    try {
      for await (const part of archive.content(header.size)) await file.writeFile(part);
      await file.chmod((header.mode | 0o600) & 0o755);
      await file.utimes(header.mtime, header.mtime);
    } finally {
      await file.close();
    }
  }

  async #makeLink(header: Header): Promise<void> {
    const target = this.#parts(header.target);
    const isFile = target && (await this.#isFile(target));
    if (!isFile) return this.#skip(header.name);
    if (!(await this.#canBe(header))) return;
    await this.system.fs.link(this.#join(target), this.#join(this.#parts(header.name) ?? []));
    this.#files += 1;
  }

  async #makeSymlink(header: Header): Promise<void> {
    const parts = this.#parts(header.name) ?? [];
    const target = header.target.split("/").filter((part) => part !== "" && part !== ".");
    const up = target.findIndex((part) => part !== "..");
    const down = up < 0 ? [] : target.slice(up);
    // Steps up come first, where all above are true directories: after other links nobody knows where they lead to.
    const staysBelow =
      header.target !== "" &&
      !header.target.startsWith("/") &&
      target.length - down.length <= parts.length - 1 &&
      !down.some((part) => part === ".." || part.includes("\0") || part.includes("\\"));
    if (!staysBelow) return this.#skip(header.name);
    if (!(await this.#canBe(header))) return;
    await this.system.fs.symlink(header.target, this.#join(parts));
    this.#files += 1;
  }

  async #isFile(parts: readonly string[]): Promise<boolean> {
    try {
      for (let depth = 1; depth < parts.length; depth++) {
        if (!(await this.system.fs.lstat(this.#join(parts.slice(0, depth)))).isDirectory()) return false;
      }
      return (await this.system.fs.lstat(this.#join(parts))).isFile();
    } catch (error) {
      if (isErrno(error, "ENOENT")) return false;
      throw error;
    }
  }

  async #remove(path: string): Promise<boolean> {
    try {
      await this.system.fs.unlink(path);
    } catch (error) {
      return isErrno(error, "ENOENT"); // else a directory is there
    }
    return true;
  }

  #join(parts: readonly string[]): string {
    return this.system.path.join(this.root, ...parts);
  }

  #skip(name: string): void {
    if (this.#skipped.length < MAX_SKIPPED) this.#skipped.push(name);
  }
}
