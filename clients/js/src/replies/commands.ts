/** Replies about background commands, terminals and variables. */

import type { CommandInfo, LogPage } from "../models/exec.js";
import { type Fields, type Json, readAs } from "../protocol/fields.js";

export function readCommand(body: Json): CommandInfo {
  return readAs("a command", body, command);
}

export function readCommands(body: Json): CommandInfo[] {
  return readAs("commands", body, (reply) => reply.list("commands", command));
}

export function readPty(body: Json): CommandInfo {
  return readAs("a terminal", body, command);
}

export function readPtys(body: Json): CommandInfo[] {
  return readAs("terminals", body, (reply) => reply.list("ptys", command));
}

/** @param asked - The offset that was asked for. */
export function readLog(body: Json, asked: number): LogPage {
  return readAs("a log", body, (page) => {
    const content = page.text("content");
    const offset = page.numberOrNull("offset") ?? asked;
    const end = () => offset + new TextEncoder().encode(content).length;
    return {
      content,
      offset,
      size: page.number("size"),
      nextOffset: page.numberOrNull("next_offset") ?? end(),
      truncated: page.flag("truncated", false),
    };
  });
}

/** Return how many bytes the terminal has accepted from the start. */
export function readTyped(body: Json): number {
  return readAs("a terminal's input", body, (reply) => reply.number("offset"));
}

export function readEnv(body: Json): string[] {
  return readAs("variables", body, (reply) => reply.texts("names"));
}

function command(row: Fields): CommandInfo {
  return {
    id: row.text("id"),
    command: row.textOrNull("command") ?? "",
    pid: row.numberOrNull("pid"),
    status: row.textOrNull("status") ?? "killed",
    exitCode: row.numberOrNull("exit_code"),
    startedAt: row.timeOrNull("started_at"),
  };
}
