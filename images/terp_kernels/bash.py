"""The bash kernel: variables, functions and the directory last from cell to cell; stdin is empty."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from ipykernel.kernelapp import IPKernelApp

from terp_kernels.driven import ChildEnded, DrivenKernel, interruptible

# Interactive, because only then an interrupt ends the cell and not the shell. It reads its commands from a pipe: no
# prompts, no editing, no history.
_ARGV = ["bash", "--noprofile", "--norc", "--noediting", "-i"]
_END = b"\0"


class BashKernel(DrivenKernel):
    language = "bash"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}  # noqa: RUF012 - Jupyter's

    def launch(self) -> tuple[subprocess.Popen[bytes], BinaryIO]:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        with interruptible():
            child = subprocess.Popen(
                _ARGV,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(writing,),
                env={**os.environ, "PS1": "", "PS2": ""},
                start_new_session=True,
                bufsize=0,
            )
        os.close(writing)
        self._writing = writing
        self._begun = False
        descriptor, name = tempfile.mkstemp(prefix="cell-", suffix=".sh", dir=os.environ["IPYTHONDIR"])
        os.close(descriptor)
        self._cell = Path(name)
        return child, os.fdopen(reading, "rb", buffering=0)

    def run_cell(self, code: str, *, silent: bool) -> dict[str, Any] | None:
        if not self._begun:
            self._tell("set +o history; unset PS1 PS2; export -n PS1 PS2 IPYTHONDIR JPY_PARENT_PID")
            self.answer(_END, silent=True)  # with what it says of having no terminal
            self._begun = True
        self._cell.write_text(code, encoding="utf-8")
        self._tell(f". {self._cell} </dev/null")
        status = self.answer(_END, silent=silent)
        if status == b"0":
            return None
        number = int(status)
        value = "interrupted" if number == 130 else f"exit code {number}"
        return {"ename": "ExitCode", "evalue": value, "traceback": []}

    def _tell(self, line: str) -> None:
        # Two lines: an interrupt ends the first.
        try:
            self._child.stdin.write(f"{line}\nprintf '%s\\0' $? >&{self._writing}\n".encode())
        except OSError as error:
            raise ChildEnded from error


def launch(connection_file: str) -> None:
    """Become this kernel."""
    IPKernelApp.launch_instance(["-f", connection_file], kernel_class=BashKernel)
