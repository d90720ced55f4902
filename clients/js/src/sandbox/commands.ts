/** Commands of a sandbox. */

import type { CallOptions } from "../client.js";
import { Command } from "../command.js";
import { BROKEN } from "../following.js";
import type { ExecEvent, ExecResult } from "../models/exec.js";
import { Output } from "../protocol/output.js";
import type { Command as CommandLine } from "../protocol/shell.js";
import { readCommand, readCommands } from "../replies/commands.js";
import { ExecReader } from "../replies/exec.js";
import * as background from "../requests/commands.js";
import * as requests from "../requests/exec.js";
import { DescribedSandbox } from "./described.js";

/** Gets text as it comes. What it throws comes out; what it returns is awaited. */
export type OnText = (text: string) => unknown;

export interface ExecStreamOptions extends requests.TimedRun, CallOptions {}

export interface ExecOptions extends ExecStreamOptions {
  readonly onStdout?: OnText | undefined;
  readonly onStderr?: OnText | undefined;
}

export abstract class CommandedSandbox extends DescribedSandbox {
  /**
   * Run *command* to its end and return the result, whatever the exit code: `.check()` throws CommandFailed unless it
   * is 0.
   *
   * Given up or disconnected, the command runs on until its timeout. To follow it then use `execStream`, which says by
   * which id `attach` finds it.
   *
   * @param command - A line for the shell, or a list of arguments that reach the program as they are.
   * @throws ExecTimeout, ExecKilled - It did not end by itself; the error holds its output so far.
   * @throws InvalidRequest - The directory does not exist, or a value is out of bounds.
   * @throws StateConflict - The sandbox does not run, or was paused meanwhile: the command then goes on with it.
   * @throws GuestFault - The guest is lost.
   */
  async exec(command: CommandLine, options: ExecOptions = {}): Promise<ExecResult> {
    const output = new Output();
    try {
      for await (const event of this.execStream(command, options)) {
        output.add(event);
        if (event.kind === "stdout" && event.text) await options.onStdout?.(event.text);
        if (event.kind === "stderr" && event.text) await options.onStderr?.(event.text);
      }
    } catch (error) {
      output.attachTo(error);
      throw error;
    }
    return output.result();
  }

  /**
   * Run *command* and yield what happens: `started`, any `stdout` and `stderr`, `exited`.
   *
   * Arguments and errors as of `exec`. Reading slowly holds the command back. Leaving early lets it run on until its
   * timeout.
   */
  execStream(command: CommandLine, options: ExecStreamOptions = {}): AsyncGenerator<ExecEvent, void, void> {
    return this.client.events(requests.execStream(this.id, command, options), new ExecReader(), BROKEN, options);
  }

  /**
   * Follow a command that was started before, and yield what happens as `execStream` does.
   *
   *     for await (const event of sbx.attach(started.commandId, { offset: last.offset + last.data.length })) …
   *
   * @param options - `offset`: bytes of output to leave out, of both streams together. The guest keeps a bounded part
   *   of a command's output: where older output is gone, the first event has a later offset.
   * @throws ExecNotFound - No such command in this sandbox, or it ended long ago.
   */
  attach(commandId: string, options: { offset?: number } & CallOptions = {}): AsyncGenerator<ExecEvent, void, void> {
    const request = requests.attach(this.id, commandId, options.offset ?? 0);
    return this.client.events(request, new ExecReader(), BROKEN, options);
  }

  /**
   * Start *command* in the background and return at once.
   *
   *     const server = await sbx.start("python -m http.server 8000");
   *     …
   *     await server.kill();
   *
   * It has no timeout and ends with the sandbox at the latest. Arguments as of `exec`.
   *
   * @throws InvalidRequest - The directory does not exist, or a value is out of bounds.
   * @throws StateConflict - The sandbox does not run.
   */
  async start(command: CommandLine, options: requests.Run & CallOptions = {}): Promise<Command> {
    const request = background.start(this.id, command, options);
    const reply = await this.client.call(request, { signal: options.signal });
    return new Command(this.client, this.id, readCommand(reply));
  }

  /** Return the background commands, ended ones included as long as the sandbox remembers them. */
  async commands(options: CallOptions = {}): Promise<Command[]> {
    const infos = readCommands(await this.client.call(background.listCommands(this.id), { signal: options.signal }));
    return infos.map((info) => new Command(this.client, this.id, info));
  }

  /**
   * Return a background command that was started before.
   *
   * @throws ExecNotFound - No such command in this sandbox, or it ended long ago.
   */
  async command(commandId: string, options: CallOptions = {}): Promise<Command> {
    const reply = await this.client.call(background.getCommand(this.id, commandId), { signal: options.signal });
    return new Command(this.client, this.id, readCommand(reply));
  }
}
