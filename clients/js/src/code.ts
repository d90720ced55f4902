/** Code in persistent kernels. */

import type { CallOptions, Terp } from "./client.js";
import { inspect } from "./dispose.js";
import type { CodeContextInfo, CodeEvent, Execution, Language, Result } from "./models/code.js";
import { CodeReader, Collected } from "./replies/code.js";
import * as requests from "./requests/code.js";
import type { OnText } from "./sandbox/commands.js";

export interface CodeStreamOptions extends CallOptions {
  /** Seconds, 60 if not given; then the code is interrupted, and the variables stay. */
  readonly timeout?: number | undefined;
}

/** Who is told of output as it comes. What they throw comes out; what they return is awaited. */
export interface CodeCallbacks {
  readonly onStdout?: OnText | undefined;
  readonly onStderr?: OnText | undefined;
  readonly onResult?: ((result: Result) => unknown) | undefined;
}

/**
 * A kernel with variables of its own: `Sandbox.createCodeContext` starts one.
 *
 *     const context = await sbx.createCodeContext();
 *     await context.runCode("x = 20");
 *     console.log((await context.runCode("x + 1")).text);
 *
 * It goes on after a pause, and ends with its sandbox. Every method may throw ContextNotFound, StateConflict (the
 * sandbox does not run), and what any request may throw: ConnectionFailed, RequestTimeout, Unauthenticated.
 */
export class CodeContext {
  readonly #client: Terp;
  readonly #sandboxId: string;
  readonly #info: CodeContextInfo;

  /** @internal */
  constructor(client: Terp, sandboxId: string, info: CodeContextInfo) {
    this.#client = client;
    this.#sandboxId = sandboxId;
    this.#info = info;
  }

  /** Run *code* here, as `Sandbox.runCode` does. */
  runCode(code: string, options: CodeStreamOptions & CodeCallbacks = {}): Promise<Execution> {
    return collect(this.runCodeStream(code, options), options);
  }

  /** Run *code* here and yield what happens, as `Sandbox.runCodeStream` does. */
  runCodeStream(code: string, options: CodeStreamOptions = {}): AsyncGenerator<CodeEvent, void, void> {
    return codeEvents(this.#client, this.#sandboxId, code, this.language, this.id, options);
  }

  /** Start the kernel anew, without its variables. It keeps its id; code under way ends. */
  async restart(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.restartContext(this.#sandboxId, this.id), { signal: options.signal });
  }

  /** End the kernel. */
  async remove(options: CallOptions = {}): Promise<void> {
    await this.#client.call(requests.removeContext(this.#sandboxId, this.id), { signal: options.signal });
  }

  get info(): CodeContextInfo {
    return this.#info;
  }

  get id(): string {
    return this.#info.id;
  }

  get language(): Language {
    return this.#info.language;
  }

  get cwd(): string | null {
    return this.#info.cwd;
  }

  get createdAt(): Date | null {
    return this.#info.createdAt;
  }

  get alive(): boolean {
    return this.#info.alive;
  }

  /** @internal */
  [inspect](): string {
    return `<CodeContext ${this.id} ${this.language}>`;
  }
}

/** What happens when *code* is run. */
export function codeEvents(
  client: Terp,
  sandboxId: string,
  code: string,
  language: string,
  contextId: string | null,
  options: CodeStreamOptions,
): AsyncGenerator<CodeEvent, void, void> {
  const request = requests.run(sandboxId, code, language, contextId, options.timeout ?? 60);
  const broken = "The stream ended before the code did; it may run on, what it shows is lost";
  return client.events(request, new CodeReader(), broken, options);
}

/** Return what *events* add up to. */
export async function collect(events: AsyncIterable<CodeEvent>, callbacks: CodeCallbacks): Promise<Execution> {
  const collected = new Collected();
  for await (const event of events) {
    collected.add(event);
    if (event.kind === "text" && event.text) {
      await (event.stream === "stderr" ? callbacks.onStderr : callbacks.onStdout)?.(event.text);
    } else if (event.kind === "result") {
      await callbacks.onResult?.(event);
    }
  }
  return collected.execution();
}
