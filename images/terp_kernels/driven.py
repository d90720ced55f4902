"""Kernels for languages whose interpreter is another program: Jupyter outside, a child process inside."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO

from ipykernel.kernelbase import Kernel

_READ = 64 * 1024
_FLUSH_S = 0.2


class ChildEnded(Exception):
    """The interpreter's process is gone."""


class DrivenKernel(Kernel):
    """
    A subclass starts the child and speaks with it. The child writes to two pipes, and answers a cell on a third file.

    The child has a session of its own. An interrupt of this process is passed on to it, and what it answers is waited
    for. When it ends, so does this process: a kernel is as alive as its interpreter.
    """

    implementation = "terp"
    implementation_version = "1"
    banner = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._child, self._answers = self.launch()
        self._streams = {"stdout": self._child.stdout, "stderr": self._child.stderr}
        for stream in self._streams.values():
            os.set_blocking(stream.fileno(), False)
        os.set_blocking(self._answers.fileno(), False)
        self._pending = b""

    @abstractmethod
    def launch(self) -> tuple[subprocess.Popen[bytes], BinaryIO]:
        """Start the interpreter; the second is where it answers."""

    @abstractmethod
    def run_cell(self, code: str, *, silent: bool) -> dict[str, Any] | None:
        """Run a cell and show its value. Return what it raised as ename, evalue and traceback. Raises ChildEnded."""

    def do_execute(
        self,
        code: str,
        silent: bool,  # noqa: FBT001 - Jupyter's
        store_history: bool = True,  # noqa: FBT001, FBT002
        user_expressions: dict[str, str] | None = None,  # noqa: ARG002
        allow_stdin: bool = False,  # noqa: ARG002, FBT001, FBT002
        **_: Any,
    ) -> dict[str, Any]:
        try:
            error = self.run_cell(code, silent=silent)
        except ChildEnded:
            with contextlib.suppress(Exception):
                self.iopub_thread.flush()
                time.sleep(_FLUSH_S)
            os._exit(1)
        count = {"execution_count": self.execution_count}
        if not store_history:
            self.execution_count -= 1  # as Kernel counts those that are not silent
        if error is None:
            return {"status": "ok", "payload": [], "user_expressions": {}, **count}
        if not silent:
            self.send_response(self.iopub_socket, "error", error)
        return {"status": "error", **error, **count}

    def do_shutdown(self, restart: bool) -> dict[str, Any]:  # noqa: FBT001 - Jupyter's
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        return {"status": "ok", "restart": restart}

    def answer(self, delimiter: bytes, *, silent: bool) -> bytes:
        """
        Pass on output until the child has answered, and return that without the delimiter. What it wrote before it
        answered is shown before this returns. Raises ChildEnded.
        """
        while True:
            try:
                return self._pump(delimiter, silent=silent)
            except KeyboardInterrupt:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGINT)

    def _pump(self, delimiter: bytes, *, silent: bool) -> bytes:
        with selectors.DefaultSelector() as selector:
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            selector.register(self._answers, selectors.EVENT_READ, None)
            while delimiter not in self._pending:
                for key, _ in selector.select():
                    if key.data is not None:
                        if not self._show(key.data, silent=silent):
                            selector.unregister(key.fileobj)
                    elif data := self._answers.read(_READ):
                        self._pending += data
                    else:
                        self._drain(silent=silent)
                        raise ChildEnded
        self._drain(silent=silent)
        answer, _, self._pending = self._pending.partition(delimiter)
        return answer

    def _drain(self, *, silent: bool) -> None:
        for name in self._streams:
            while self._show(name, silent=silent):
                pass

    def _show(self, name: str, *, silent: bool) -> bool:
        """Whether something was there."""
        data = self._streams[name].read(_READ)
        if data and not silent:
            content = {"name": name, "text": data.decode("utf-8", "replace")}
            self.send_response(self.iopub_socket, "stream", content)
        return bool(data)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """For starting a child: a kernel that waits for cells ignores interrupts, and a child would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
