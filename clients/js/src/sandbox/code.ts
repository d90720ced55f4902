/** Code in a sandbox's kernels. */

import type { CallOptions } from "../client.js";
import { type CodeCallbacks, CodeContext, type CodeStreamOptions, codeEvents, collect } from "../code.js";
import type { CodeEvent, Execution, Language } from "../models/code.js";
import { readContext, readContexts } from "../replies/code.js";
import * as requests from "../requests/code.js";
import { TerminalSandbox } from "./terminals.js";

export interface RunCodeStreamOptions extends CodeStreamOptions {
  /** `python` if not given; as far as the template has it. */
  readonly language?: Language | undefined;
  /** Where it runs; if not given, in the language's default context. */
  readonly context?: CodeContext | string | undefined;
}

export interface RunCodeOptions extends RunCodeStreamOptions, CodeCallbacks {}

export abstract class CodingSandbox extends TerminalSandbox {
  /**
   * Run *code* in a kernel, where the variables of earlier runs are.
   *
   *     const execution = await sbx.runCode("import math; math.pi");
   *     console.log(execution.text);
   *     for (const result of execution.results) if (result.png) await fs.writeFile("plot.png", result.png);
   *
   * @returns The execution, whatever the code raised: that is in `error`, and `.check()` throws CodeFailed.
   * @throws InterpreterUnavailable - The template has no kernels.
   * @throws ContextNotFound - There is no such context.
   * @throws StateConflict - The sandbox does not run, or was paused meanwhile.
   * @throws ConnectionFailed - The code may run on; what it shows then is lost. It is never sent twice.
   */
  runCode(code: string, options: RunCodeOptions = {}): Promise<Execution> {
    return collect(this.runCodeStream(code, options), options);
  }

  /**
   * Run *code* and yield what happens: any `text` and `result`, an `error` if it raised, `done`.
   *
   * Arguments and errors as of `runCode`.
   */
  runCodeStream(code: string, options: RunCodeStreamOptions = {}): AsyncGenerator<CodeEvent, void, void> {
    const { context, language } = options;
    if (context instanceof CodeContext) return context.runCodeStream(code, options);
    return codeEvents(this.client, this.id, code, language ?? "python", context ?? null, options);
  }

  /**
   * Start a kernel with variables of its own.
   *
   * @param options - `language`: `python` if not given, as far as the template has it. `cwd`: the directory it works in,
   *   /workspace if not given.
   * @throws InterpreterUnavailable - The template has no kernels, or none of that language.
   * @throws LimitExceeded - The sandbox has as many as it may.
   */
  async createCodeContext(
    options: { language?: Language | undefined; cwd?: string | undefined } & CallOptions = {},
  ): Promise<CodeContext> {
    const request = requests.createContext(this.id, options.language ?? "python", options.cwd);
    const reply = await this.client.call(request, { signal: options.signal });
    return new CodeContext(this.client, this.id, readContext(reply));
  }

  /** Return the sandbox's contexts, the default ones included. */
  async codeContexts(options: CallOptions = {}): Promise<CodeContext[]> {
    const infos = readContexts(await this.client.call(requests.listContexts(this.id), { signal: options.signal }));
    return infos.map((info) => new CodeContext(this.client, this.id, info));
  }
}
