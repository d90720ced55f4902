"""The JavaScript kernel: Node, whose REPL evaluates the cells (`evaluate.js`), so that `await` works at the top."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from ipykernel.kernelapp import IPKernelApp

from terp_kernels.driven import ChildEnded, DrivenKernel, interruptible

_PROGRAM = Path(__file__).with_name("evaluate.js")
_END = b"\n"


class JavaScriptKernel(DrivenKernel):
    language = "javascript"
    language_info = {"name": "javascript", "mimetype": "text/javascript", "file_extension": ".js"}  # noqa: RUF012

    def launch(self) -> tuple[subprocess.Popen[bytes], BinaryIO]:
        ours, theirs = socket.socketpair()
        hidden = ("IPYTHONDIR", "JPY_PARENT_PID")
        with interruptible():
            child = subprocess.Popen(
                ["node", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env={name: value for name, value in os.environ.items() if name not in hidden},
                start_new_session=True,
                bufsize=0,
            )
        theirs.close()
        self._socket = ours
        return child, os.fdopen(os.dup(ours.fileno()), "rb", buffering=0)

    def run_cell(self, code: str, *, silent: bool) -> dict[str, Any] | None:
        cell = json.dumps({"code": code}).encode() + b"\n"
        while cell:
            try:
                cell = cell[self._socket.send(cell) :]
            except BlockingIOError:  # both ends share the flag that says so
                continue
            except OSError as error:
                raise ChildEnded from error
        answer = json.loads(self.answer(_END, silent=silent))
        if "error" in answer:
            error = answer["error"]
            return {"ename": error["name"], "evalue": error["value"], "traceback": error["stack"].split("\n")}
        if "data" in answer and not silent:
            content = {"data": answer["data"], "metadata": {}, "execution_count": self.execution_count}
            self.send_response(self.iopub_socket, "execute_result", content)
        return None


def launch(connection_file: str) -> None:
    """Become this kernel."""
    IPKernelApp.launch_instance(["-f", connection_file], kernel_class=JavaScriptKernel)
