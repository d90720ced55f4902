"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no driver, no port, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PATIENCE_S = 90.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root, and open pages of this tree alone
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",  # what the browser asks of its maker by itself
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1280,1600",
)


class Browser:
    """
    One page of a browser of its own. `requests` are the URLs that it asked for, `complaints` what its console and log
    said of errors and warnings.
    """

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program is not None, "no chromium: run tools/setup docs"
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._number = 0
        self._buffer = b""
        self._loaded = False
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        # It reads from descriptor 3 and writes to 4, which may be taken here.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read_by_it, written_by_it)]
        wrapper = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]} {high[0]}<&- {high[1]}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", wrapper, program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read_by_it, written_by_it, *high):
            os.close(end)
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, url: str, *, scheme: str = "light") -> None:
        """Load a page, with the colours that its reader prefers: `light` or `dark`."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=media)
        self._loaded = False
        self._call("Page.navigate", url=url)
        deadline = time.monotonic() + _PATIENCE_S
        while not self._loaded:
            self._receive(deadline)

    def forget(self, origin: str) -> None:
        """Drop what pages of *origin* have stored, the colours that a reader chose among it."""
        self.open("about:blank")
        self._call("Storage.clearDataForOrigin", origin=origin, storageTypes="all")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; promises are waited for."""
        done = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **params: Any) -> Mapping[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: Mapping[str, Any] = answer["result"]
                return result

    def _receive(self, deadline: float) -> Mapping[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 16)
            assert data, f"the browser ended with {self._process.wait()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: Mapping[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: Mapping[str, Any]) -> None:
        match message.get("method"), message.get("params"):
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                self.requests.append(url)
            case "Log.entryAdded", {"entry": {"level": "error" | "warning" as level, "text": text, **rest}}:
                self.complaints.append(f"{level}: {text} {rest.get('url', '')}")
            case "Runtime.consoleAPICalled", {"type": "error" | "warning" as kind, "args": args}:
                self.complaints.append(f"{kind}: {args}")
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(f"exception: {details}")
            case "Page.loadEventFired", _:
                self._loaded = True
