# ruff: noqa: INP001 - a program, no package
"""
A server that plays the vectors: it answers what the case says, and notes what was asked otherwise.

    python server.py      prints {"port": …}, and serves until its standard input ends

The base URL of a client is http://127.0.0.1:PORT/FILE/CASE/RUN, where RUN is any word of that client's own.
GET …/report tells what was wrong: {"faults": [...]}, empty when each exchange happened as written.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load() -> dict[str, list[dict[str, Any]]]:
    """All cases by the name of their file, with `$like` resolved."""
    objects = json.loads((HERE / "objects.json").read_text())
    files = (path for path in sorted(HERE.glob("*.json")) if path.stem != "objects")
    return {path.stem: resolve(json.loads(path.read_text()), objects) for path in files}


def resolve(value: Any, objects: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [resolve(each, objects) for each in value]
    if not isinstance(value, dict):
        return value
    members = {key: resolve(each, objects) for key, each in value.items() if key != "$like"}
    return {**resolve(objects[value["$like"]], objects), **members} if "$like" in value else members


@dataclass
class Run:
    """One client's way through one case."""

    exchanges: list[dict[str, Any]]
    faults: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def check(self, method: str, target: str, headers: dict[str, str], body: bytes) -> dict[str, Any] | None:
        """Return the exchange that is due; None if there is none."""
        if not self.exchanges:
            self.faults.append(f"nothing more was expected: {method} {target}")
            return None
        exchange = self.exchanges.pop(0)
        wanted = exchange["request"]
        self._expect("method", wanted["method"], method)
        self._expect("target", wanted["target"], target)
        for name, value in wanted.get("headers", {}).items():
            sent = headers.get(name.lower())
            if value == "$key" and sent:
                self.keys.add(sent)
            else:
                self._expect(name, value, sent)
        if len(self.keys) > 1:
            self.faults.append(f"different keys: {self.keys}")
        self._expect("body", wanted.get("body"), self._read(wanted.get("body"), body))
        return exchange

    def _expect(self, what: str, wanted: Any, got: Any) -> None:
        if wanted != got:
            self.faults.append(f"{what}: expected {json.dumps(wanted)}, got {json.dumps(got)}")

    @staticmethod
    def _read(wanted: Any, body: bytes) -> Any:
        if isinstance(wanted, dict) and set(wanted) == {"$base64"}:
            return {"$base64": base64.b64encode(body).decode()}
        return json.loads(body) if body else None


class Script(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cases = load()
        self.runs: dict[str, Run] = {}
        self.lock = threading.Lock()

    def run_of(self, path: str) -> tuple[Run, str]:
        """Return the run that *path* belongs to, and what the client asked for."""
        file, case, name, target = path.removeprefix("/").split("/", 3)
        with self.lock:
            exchanges = self.cases[file][int(case)].get("exchanges", [])
            run = self.runs.setdefault(f"{file}/{case}/{name}", Run(list(exchanges)))
        return run, "/" + target


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024  # head and body go out together: nothing waits for an acknowledgement
    server: Script

    def _answer(self) -> None:
        body = self._body()
        run, target = self.server.run_of(self.path)
        if target == "/report":
            left = [f"was not asked: {each['request']['target']}" for each in run.exchanges]
            self._send(200, {}, json.dumps({"faults": run.faults + left}).encode())
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        exchange = run.check(self.command, target, headers, body)
        reply: dict[str, Any] = (
            exchange["reply"] if exchange else {"status": 599, "json": {"detail": "not in the script"}}
        )
        if reply.get("lost"):
            self.close_connection = True
            return
        self._send(reply["status"], reply.get("headers", {}), self._content(reply))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class calls them so

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    @staticmethod
    def _content(reply: dict[str, Any]) -> bytes:
        if "json" in reply:
            return json.dumps(reply["json"]).encode()
        if "sse" in reply:
            return b"".join(b"data: %s\n\n" % json.dumps(frame).encode() for frame in reply["sse"])
        return base64.b64decode(reply["base64"]) if "base64" in reply else reply.get("text", "").encode()

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 204:
            self.end_headers()
            return
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: what matters is in the report."""


if __name__ == "__main__":
    with Script() as script:
        sys.stdout.write(json.dumps({"port": script.server_port}) + "\n")
        sys.stdout.flush()
        threading.Thread(target=script.serve_forever, daemon=True).start()
        sys.stdin.read()
