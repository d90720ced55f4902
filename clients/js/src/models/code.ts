/** Code in persistent kernels, and what comes of it. */

import { CodeFailed } from "../errors/index.js";
import { toBase64 } from "../protocol/bytes.js";

/** What a template has kernels of. */
export type Language = "python" | "javascript" | "bash" | (string & {});

/** A kernel with its variables as the server last described it. */
export interface CodeContextInfo {
  readonly id: string;
  readonly language: Language;
  readonly cwd: string | null;
  readonly createdAt: Date | null;
  readonly lastUsedAt: Date | null;
  /** How often code ran in it. */
  readonly executions: number;
  /** False when the kernel died; the next run starts it again, without its variables. */
  readonly alive: boolean;
}

/** Code wrote to `stream`. */
export interface CodeText {
  readonly kind: "text";
  readonly stream: "stdout" | "stderr";
  readonly text: string;
}

/** The members of a result, besides what they say of each other. */
export interface ResultForms {
  readonly type: string;
  readonly text: string | null;
  readonly html: string | null;
  readonly markdown: string | null;
  readonly latex: string | null;
  readonly svg: string | null;
  readonly png: Uint8Array | null;
  readonly json: unknown;
  readonly chart: Readonly<Record<string, unknown>> | null;
  readonly isMain: boolean;
}

/** Something that code showed, in all forms it has; those it has not are null. */
export class Result implements ResultForms {
  readonly kind = "result";
  /** The richest form: `text`, `html`, `image_png`, `json` or `chart`. */
  readonly type: string;
  readonly text: string | null;
  readonly html: string | null;
  readonly markdown: string | null;
  readonly latex: string | null;
  readonly svg: string | null;
  /** The image's bytes. */
  readonly png: Uint8Array | null;
  /** An object or array. */
  readonly json: unknown;
  /** What matplotlib drew, as data: type, title, axes, series. */
  readonly chart: Readonly<Record<string, unknown>> | null;
  /** The value of the last expression, not something displayed on the way. */
  readonly isMain: boolean;

  constructor(forms: ResultForms) {
    this.type = forms.type;
    this.text = forms.text;
    this.html = forms.html;
    this.markdown = forms.markdown;
    this.latex = forms.latex;
    this.svg = forms.svg;
    this.png = forms.png;
    this.json = forms.json;
    this.chart = forms.chart;
    this.isMain = forms.isMain;
  }

  /** The image as it goes into a data URL. */
  get pngBase64(): string | null {
    return this.png && toBase64(this.png);
  }
}

/** What code raised: a value, not an error of this package. */
export interface CodeError {
  readonly kind: "error";
  /** Of its class, e.g. `ZeroDivisionError`. */
  readonly name: string;
  /** Its message. */
  readonly value: string;
  /** Lines, without colours. */
  readonly traceback: readonly string[];
}

/** The last event of a run. Members as of `Execution`. */
export interface CodeDone {
  readonly kind: "done";
  readonly contextId: string;
  readonly executionCount: number | null;
  readonly durationMs: number;
  readonly error: CodeError | null;
  readonly interrupted: boolean;
  readonly restarted: boolean;
  readonly truncated: readonly string[];
}

export type CodeEvent = CodeText | Result | CodeError | CodeDone;

/** What a run of code left behind. */
export class Execution {
  /**
   * @param results - All it showed, in that order.
   * @param stdout - With stderr: what it wrote, to 16 Mi characters of each.
   * @param error - What it raised; null when it ran through.
   * @param contextId - Where it ran: the next run there finds its variables.
   * @param interrupted - It ran into its timeout; the variables are still there.
   * @param restarted - The kernel had died and was started again: earlier variables are lost.
   * @param truncated - What was cut for its size: `stdout`, `stderr`, `results`, or a form of a result.
   */
  constructor(
    readonly results: readonly Result[],
    readonly stdout: string,
    readonly stderr: string,
    readonly error: CodeError | null,
    readonly executionCount: number | null,
    readonly contextId: string,
    readonly durationMs: number,
    readonly interrupted: boolean,
    readonly restarted: boolean,
    readonly truncated: readonly string[],
  ) {}

  /** The value of the last expression; null when there is none. */
  get main(): Result | null {
    return this.results.find((result) => result.isMain) ?? null;
  }

  /** The main result as text. */
  get text(): string | null {
    return this.main?.text ?? null;
  }

  /**
   * Return this execution.
   *
   * @throws CodeFailed - It raised something, or ran into its timeout.
   */
  check(): this {
    if (this.error || this.interrupted) throw new CodeFailed(this);
    return this;
  }
}
