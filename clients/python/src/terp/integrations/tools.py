"""What an agent can do in a sandbox: names, descriptions, schemas of arguments, and what each answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from terp import AsyncSandbox, Sandbox
from terp.errors import InvalidRequest, TerpError
from terp.integrations import running, storing
from terp.integrations.arguments import checked
from terp.integrations.shown import Output

Steps = Generator[Any, Any, Output]


@dataclass(frozen=True)
class Tool:
    """
    One tool, for sandboxes of both kinds.

    Attributes:
        schema: JSON schema of the arguments, an object.
        steps: Calls the sandbox: it yields what each call returned, awaitable or not, and is sent the result. So one
            definition serves `Sandbox` and `AsyncSandbox`.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    steps: Callable[[Any, Mapping[str, Any]], Steps]

    def call(self, sandbox: Sandbox, arguments: object) -> Output:
        """Return what the model is shown, errors of the sandbox and of the model's arguments included."""
        try:
            steps = self.steps(sandbox, checked(self.schema, arguments))
            result = None
            while True:
                result = steps.send(result)
        except StopIteration as end:
            return _output_of(end)
        except TerpError as error:
            return _told(error)

    async def call_async(self, sandbox: AsyncSandbox, arguments: object) -> Output:
        """Return what `call` does."""
        try:
            steps = self.steps(sandbox, checked(self.schema, arguments))
            asked = next(steps)
            while True:
                try:
                    result = await asked
                except TerpError as error:  # noqa: PERF203 - each try is a request
                    asked = steps.throw(error)
                else:
                    asked = steps.send(result)
        except StopIteration as end:
            return _output_of(end)
        except TerpError as error:
            return _told(error)


def _string(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def _integer(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "integer", "description": description, **more}


def _takes(required: Iterable[str], **properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_PATH = _string("Absolute, e.g. /workspace/main.py")

RUN_SHELL = Tool(
    "run_shell",
    "Run a command to its end and return its output and exit code. A failing command is no error of this tool. For a "
    "server that is to stay, start it with: nohup … >/tmp/log 2>&1 &",
    _takes(
        ["command"],
        command=_string("A line for bash"),
        cwd=_string("Where it runs", default="/workspace"),
        env={"type": "object", "additionalProperties": {"type": "string"}, "description": "For this command alone"},
        timeout_seconds=_integer("Then it is killed", minimum=1, default=60),
    ),
    running.run_shell,
)

RUN_CODE = Tool(
    "run_code",
    "Run a cell in a Jupyter kernel that keeps its variables between calls. The value of the last expression is the "
    "result; plots come back as images. Needs a sandbox of the template code-interpreter.",
    _takes(
        ["code"],
        code=_string("One cell"),
        language=_string("Each has a kernel of its own", enum=["python", "javascript", "bash"], default="python"),
        context_id=_string("Of a kernel made over the API; else the default"),
        timeout_seconds=_integer("Then it is interrupted; variables are kept", minimum=1, default=60),
    ),
    running.run_code,
)

WRITE_FILE = Tool(
    "write_file",
    "Write a file of up to 16 MiB under /workspace, /tmp or /persist, replacing one that is there.",
    _takes(
        ["path", "content"],
        path=_PATH,
        content=_string("All of it"),
        encoding=_string("Of content", enum=["utf-8", "base64"], default="utf-8"),
    ),
    storing.write_file,
)

READ_FILE = Tool(
    "read_file",
    "Read a part of a file: text as it is, anything else in base64.",
    _takes(
        ["path"],
        path=_PATH,
        offset=_integer("In bytes", minimum=0, default=0),
        limit=_integer("In bytes", minimum=1, maximum=storing.MAX_READ_BYTES, default=64 * 1024),
    ),
    storing.read_file,
)

LIST_FILES = Tool(
    "list_files",
    "Show what is in a directory, by name.",
    _takes([], path={**_PATH, "default": "/workspace"}),
    storing.list_files,
)

GET_PREVIEW_URL = Tool(
    "get_preview_url",
    "Return the address under which a web server of the sandbox is reached from outside. Not with network off.",
    _takes(["port"], port=_integer("That a program in the sandbox listens on", minimum=1, maximum=65535)),
    running.get_preview_url,
)

TOOLS = (RUN_SHELL, RUN_CODE, WRITE_FILE, READ_FILE, LIST_FILES, GET_PREVIEW_URL)


def chosen(names: Iterable[str] | None, further: Iterable[Tool] = ()) -> tuple[Tool, ...]:
    """
    Return the tools of these names, in that order; all of `TOOLS` for None.

    Args:
        further: Those that there are on top of them.

    Raises:
        InvalidRequest: There is none of a name.
    """
    if names is None:
        return TOOLS
    known = {tool.name: tool for tool in (*TOOLS, *further)}
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise InvalidRequest(f"No such tool: {', '.join(unknown)}. There are {', '.join(known)}")
    return tuple(known[name] for name in names)


def unknown(name: str, there: Iterable[str]) -> Output:
    """Answer a call of a tool that the model made up."""
    return Output(f"There is no tool {name[:64]}; there are {', '.join(there)}", is_error=True)


def _output_of(end: StopIteration) -> Output:
    output: Output = end.value
    return output


def _told(error: TerpError) -> Output:
    """What went wrong and what to do, for the model to read."""
    again = "" if error.retry_after is None else f" Try again in {error.retry_after:.0f} s."
    return Output(f"{error.detail} ({error.code}){again}", is_error=True)
