"""A real `terpd serve` as an operator runs it: its own process, data directory, log and keys."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import httpx
from terp import Sandbox, Terp

from support.host import Host
from support.wait import PATIENCE_S

TERPD = Path(sys.executable).parent / "terpd"
ALL_SCOPES = ("sandboxes:read", "sandboxes:write")
TEMPLATES_HOME = "/var/lib/terp"  # where `make test` builds templates, unless TERP_HOME says otherwise
TEMPLATES = ("debian-12", "python-3.12-bare", "node-22", "code-interpreter")
_STOP_S = 60.0


class Server:
    """
    Args:
        directory: Holds the data directory and the log; kept after the test by pytest's own rules.
        dev: With --dev a bootstrap key is printed and stopping ends all sandboxes; without, they live on.
        settings: Configuration by environment variable, over what the tests need everywhere.
        prefix: Words before the server's own, e.g. to start it in a network of its own. This process may not reach it
            there.
    """

    def __init__(
        self,
        directory: Path,
        *,
        dev: bool = True,
        settings: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.data_dir = directory / "data"
        self.log = directory / "server.log"
        self.host = Host(self.data_dir)
        self.api_key = ""
        self.url = ""
        self._dev = dev
        self._settings = dict(settings or {})
        self._prefix = list(prefix)
        self._port = 0
        self._client: Terp | None = None
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    # ---- its process -----------------------------------------------------------------------------

    @property
    def client(self) -> Terp:
        """A connection of the SDK; it outlives restarts, since address and key stay."""
        assert self._client is not None
        return self._client

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Server:
        """Start it and wait until it serves. Started again, it has the address and the key it had before."""
        self._spawn()
        ready = self._await_ready()
        self.url = ready["url"]
        self._port = int(self.url.rpartition(":")[2])
        if self._dev:
            self.api_key = ready["api_key"]
        elif not self.api_key:
            self.api_key = self.create_key(*ALL_SCOPES)
        if self._client is None:
            self._client = Terp(api_key=self.api_key, base_url=self.url, timeout=PATIENCE_S, wait_for_capacity=0)
        return self

    def _spawn(self) -> None:
        assert not self.running
        argv = [*self._prefix, str(TERPD), "serve", "--host", "127.0.0.1", "--port", str(self._port)]
        argv += ["--data-dir", str(self.data_dir)]
        if self._dev:
            argv.append("--dev")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=log, env=self._environ(), start_new_session=True
            )

    def stop(self) -> None:
        """SIGTERM, as an operator's init does; it must end by itself and with success."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=_STOP_S)
        assert code == 0, f"terpd ended with {code}; see {self.log}"
        self._drop()

    def kill(self) -> None:
        """SIGKILL: it gets no say in it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._drop()

    def start_and_kill(self, after_s: float) -> None:
        """Start it and kill it *after_s* later, wherever it is then."""
        self._spawn()
        time.sleep(after_s)
        self.kill()

    def discard(self) -> None:
        """End it however it is, and all it has: for the end of a test. Never fails because of the server's faults."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._drop()
        if self._client is not None:
            self._client.close()
            self._client = None
        for monitor in self.host.monitors():
            monitor.kill()

    def process_status(self) -> dict[str, str]:
        """Fields of /proc/PID/status of the server itself."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    # ---- what a test asks of it ------------------------------------------------------------------

    def create_key(self, *scopes: str, tenant: str | None = None) -> str:
        """Return a new key, made by the operator's command beside the running server."""
        argv = [str(TERPD), "key", "create", "--data-dir", str(self.data_dir), "--name", "test"]
        argv += [word for scope in scopes for word in ("--scope", scope)]
        if tenant is not None:
            argv += ["--tenant", tenant]
        return subprocess.run(argv, check=True, capture_output=True, text=True, env=self._environ()).stdout.strip()

    def create(self, template: str = "debian-12", **options: Any) -> Sandbox:
        """Create a sandbox on this server through the SDK."""
        return Sandbox.create(template, client=self.client, **options)

    def get(self, sandbox_id: str) -> Sandbox:
        return Sandbox.get(sandbox_id, client=self.client)

    def status(self, sandbox: Sandbox) -> str:
        """What the server says now."""
        return self.get(sandbox.id).status

    def list(self, **where: Any) -> Sequence[Sandbox]:
        return list(Sandbox.list(client=self.client, **where))

    def http(self) -> httpx.Client:
        """A bare HTTP client with this server's key, for requests that no SDK would send."""
        headers = {"authorization": f"Bearer {self.api_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    # ---- inside ----------------------------------------------------------------------------------

    def _await_ready(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = _read_line(self._process.stdout, PATIENCE_S)
        try:
            ready: dict[str, Any] = json.loads(line)
            assert ready["event"] == "ready"
        except (ValueError, KeyError, AssertionError):
            self.discard()
            tail = self.log.read_text(errors="replace")[-4000:]
            raise AssertionError(f"terpd did not become ready; it said {line!r}\n{tail}") from None
        return ready

    def _environ(self) -> dict[str, str]:
        return {"TERP_HOME": TEMPLATES_HOME, **os.environ, **self._settings}

    def _drop(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None


def _read_line(pipe: IO[bytes], patience_s: float) -> bytes:
    """One line of *pipe*, or what came of it until its end or the end of patience."""
    line = b""
    deadline = time.monotonic() + patience_s
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            byte = os.read(pipe.fileno(), 1)
            if not byte:
                break
            line += byte
    return line


StartServer = Callable[..., Server]
"""Starts a server for the rest of the run: a name, then the options of `Server`."""


def ensure_templates() -> None:
    """Build what is missing of the templates that the tests use, with the snapshots of their small size."""
    environ = {"TERP_HOME": TEMPLATES_HOME, **os.environ}
    listing = subprocess.run([str(TERPD), "template", "ls", "--json"], check=True, capture_output=True, env=environ)
    for name in set(TEMPLATES) - {image["template"] for image in json.loads(listing.stdout)}:
        subprocess.run([str(TERPD), "template", "build", name, "--size", "small"], check=True, env=environ)
