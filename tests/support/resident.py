"""A program that stays in a sandbox and answers questions: what it says shows whether it is still the one it was."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from terp import ExecResult, Sandbox

from support.wait import eventually

_LOOP = """
import os, sys
ASK, ANSWER = (f"/run/{sys.argv[1]}.{end}" for end in ("ask", "answer"))
for path in (ANSWER, ASK):
    os.mkfifo(path)
while True:
    with open(ASK) as asked:
        question = asked.read().strip()
    reply = str(answer(question))
    with open(ANSWER, "w") as answered:
        answered.write(reply)
"""


@dataclass(frozen=True)
class Resident:
    """Lives in one sandbox, and in each that is forked from it: `of` names that one."""

    sandbox: Sandbox
    name: str

    @classmethod
    def start(cls, sandbox: Sandbox, name: str, program: str, *, python: str = "python3") -> Resident:
        """Run *program*, which defines `answer(question)`, in the background of a sandbox that has a Python."""
        sandbox.files.write(f"/tmp/{name}.py", textwrap.dedent(program) + _LOOP)
        resident = cls(sandbox, name)
        resident.exec(f"setsid {python} /tmp/{name}.py {name} >/tmp/{name}.log 2>&1 </dev/null &").check()
        eventually(lambda: resident.exec(f"test -p /run/{name}.ask").exit_code == 0, what=f"{name} is there")
        return resident

    def of(self, sandbox: Sandbox) -> Resident:
        return Resident(sandbox, self.name)

    def ask(self, question: str = "") -> str:
        asking = self.exec(f"echo '{question}' > /run/{self.name}.ask; cat /run/{self.name}.answer")
        return asking.check().stdout

    def exec(self, command: str) -> ExecResult:
        """Run a command beside it, in a directory that it has nothing to do with."""
        return self.sandbox.exec(command, cwd="/run")
