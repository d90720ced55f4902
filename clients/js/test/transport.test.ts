/** What fetch does where something goes wrong, on real sockets. */

import { createServer, type Server, type Socket } from "node:net";
import { inspect } from "node:util";
import { afterEach, expect, test } from "vitest";
import { ConnectionFailed, InvalidRequest, RequestTimeout, Sandbox, Terp, Unauthenticated } from "../src/index.js";
import { readSandbox } from "../src/replies/sandbox.js";
import { OBJECTS } from "./objects.js";

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

/** A server that does with each connection what *act* says, once a request's head is there. */
async function serve(act: (socket: Socket) => void): Promise<string> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => act(socket));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
}

function sandboxOn(baseUrl: string, timeout: number): Sandbox {
  return new Sandbox(new Terp({ apiKey: "k", baseUrl, timeout }), readSandbox(OBJECTS["sandbox reply"] ?? {}));
}

const HEAD = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
const STARTED = chunk('data: {"kind":"exec_started","pid":1,"command_id":"cmd_1"}\n\n');

test("nobody listens: nothing was sent", async () => {
  const baseUrl = await serve(() => {});
  await new Promise((resolve) => servers.pop()?.close(resolve));

  const error = await Sandbox.limits({ client: new Terp({ apiKey: "k", baseUrl }) }).catch((caught) => caught);

  expect(error).toBeInstanceOf(ConnectionFailed);
  expect(error).toMatchObject({ sent: false, retryable: true, code: "connection_failed" });
  expect(error.message).toContain(baseUrl);
});

test("a server that says nothing is given up", async () => {
  const baseUrl = await serve(() => {});

  await expect(sandboxOn(baseUrl, 0.3).exec("x")).rejects.toThrow(RequestTimeout);
});

test("a server that falls silent in the middle is given up, one with signs of life is not", async () => {
  const silent = await serve((socket) => socket.write(HEAD + STARTED));
  await expect(sandboxOn(silent, 0.3).exec("x")).rejects.toThrow(RequestTimeout);

  const alive = await serve((socket) => {
    socket.write(HEAD + STARTED);
    let signs = 0;
    const timer = setInterval(() => {
      signs += 1;
      if (signs < 8) {
        socket.write(chunk(": alive\n\n"));
        return;
      }
      clearInterval(timer);
      socket.end(`${chunk('data: {"kind":"exec_exited","code":0,"duration_ms":1}\n\n')}0\r\n\r\n`);
    }, 200);
  });
  expect((await sandboxOn(alive, 1).exec("x")).exitCode).toBe(0);
});

test("a connection that breaks in a stream", async () => {
  const baseUrl = await serve((socket) => {
    socket.write(HEAD + STARTED, () => socket.destroy());
  });

  await expect(sandboxOn(baseUrl, 20).exec("x")).rejects.toThrow(ConnectionFailed);
});

test("leaving a stream closes its connection", async () => {
  let left = () => {};
  const closed = new Promise<void>((resolve) => {
    left = resolve;
  });
  const baseUrl = await serve((socket) => {
    socket.on("close", left);
    socket.write(HEAD + STARTED);
  });

  for await (const event of sandboxOn(baseUrl, 20).execStream("x")) {
    expect(event.kind).toBe("started");
    break;
  }

  await closed;
});

test("an AbortSignal's reason comes out, before, during and between attempts", async () => {
  const reason = new Error("mine");
  const sandbox = sandboxOn(await serve(() => {}), 20);
  await expect(sandbox.exec("x", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);

  const during = new AbortController();
  setTimeout(() => during.abort(reason), 50);
  await expect(sandbox.exec("x", { signal: during.signal })).rejects.toBe(reason);

  const full = JSON.stringify({ detail: "full", code: "fleet_full_retry" });
  const busy = await serve((socket) => {
    socket.end(`HTTP/1.1 503 Full\r\nretry-after: 30\r\ncontent-length: ${full.length}\r\n\r\n${full}`);
    between.abort(reason);
  });
  const between = new AbortController();
  await expect(sandboxOn(busy, 20).resume({ signal: between.signal })).rejects.toBe(reason);
});

test("settings that are none are refused, and the key is in no print", () => {
  expect(() => new Terp({ baseUrl: "http://h" })).toThrow(Unauthenticated);
  expect(() => new Terp({ apiKey: "a b" })).toThrow(InvalidRequest);
  for (const baseUrl of ["h:80", "ftp://h", "http://", "http://h?x=1", "http://h:0", "http://[::1"]) {
    expect(() => new Terp({ apiKey: "k", baseUrl }), baseUrl).toThrow(InvalidRequest);
  }
  const client = new Terp({ apiKey: "terp_hidden", baseUrl: "http://h/prefix/" });
  expect(client.baseUrl).toBe("http://h/prefix");
  expect(inspect(client, { depth: 9, showHidden: true })).not.toContain("terp_hidden");
});

test("a preview's token is printed nowhere", () => {
  const sandbox = sandboxOn("http://h", 1);

  expect(sandbox.info.previewAuthToken).toBe("tok=en");
  expect(inspect(sandbox) + inspect(sandbox.info) + JSON.stringify(sandbox.info)).not.toContain("tok=en");
});
