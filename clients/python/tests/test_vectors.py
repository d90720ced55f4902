"""What clients/vectors says holds for both clients of this package; its twin is clients/js/test/vectors.test.ts."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import terp
from terp import PartialWrite, TerpError
from terp.protocol import account, command_replies, replies
from terp.protocol import code as code_protocol
from terp.protocol.request import Request

VECTORS = Path(__file__).parents[2] / "vectors"
if not VECTORS.is_dir():
    pytest.skip("the package alone, without what all clients share", allow_module_level=True)

OBJECTS = json.loads((VECTORS / "objects.json").read_text())
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(VECTORS.glob("*.json")) if path.stem != "objects"}
CASES = [
    pytest.param(file, index, id=f"{file}: {each['name']}") for file in FILES for index, each in enumerate(FILES[file])
]

REPORT = Request("GET", "/report")

# How the classes of events and results are told apart where there is no class to ask for.
KINDS = {
    terp.Started: "started",
    terp.Stdout: "stdout",
    terp.Stderr: "stderr",
    terp.Exited: "exited",
    terp.CodeText: "text",
    terp.Result: "result",
    terp.CodeError: "error",
    terp.CodeDone: "done",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    argv = [sys.executable, str(VECTORS / "server.py")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(json.loads(server.stdout.readline())["port"])


@pytest.mark.parametrize(("file", "index"), CASES)
def test_client(port: int, file: str, index: int) -> None:
    """The call sends what the vector says, and returns or raises what it says."""
    vector, base_url = FILES[file][index], f"http://127.0.0.1:{port}/{file}/{index}/sync"

    with terp.Terp(api_key="k", base_url=base_url, timeout=20, **vector.get("settings", {})) as client:
        thing = _object(client, vector["on"], "")
        try:
            result = _method(thing, vector, "")(*_args(vector), **_options(client, thing, vector))
            outcome = {"value": _to_vector(list(result) if inspect.isgenerator(result) else result)}
        except TerpError as error:
            outcome = {"error": _describe(error)}
        report = client.call(REPORT)

    _check(vector, outcome, thing, report, port)


@pytest.mark.parametrize(("file", "index"), CASES)
async def test_asynchronous_client(port: int, file: str, index: int) -> None:
    """As above."""
    vector, base_url = FILES[file][index], f"http://127.0.0.1:{port}/{file}/{index}/async"

    async with terp.AsyncTerp(api_key="k", base_url=base_url, timeout=20, **vector.get("settings", {})) as client:
        thing = _object(client, vector["on"], "Async")
        try:
            result = _method(thing, vector, "_async")(*_args(vector), **_options(client, thing, vector))
            if isinstance(result, AsyncIterator):
                result = [each async for each in result]
            outcome = {"value": _to_vector(await result if inspect.isawaitable(result) else result)}
        except TerpError as error:
            outcome = {"error": _describe(error)}
        report = await client.call(REPORT)

    _check(vector, outcome, thing, report, port)


def _check(vector: Mapping[str, Any], outcome: Mapping[str, Any], thing: Any, report: Any, port: int) -> None:
    assert report == {"faults": []}
    if "error" in vector:
        wanted = _wanted(vector["error"], port)
        assert "error" in outcome, outcome
        assert {key: outcome["error"].get(key) for key in wanted} == wanted
    else:
        assert outcome == {"value": _wanted(vector.get("value"), port)}
    after = _wanted(vector.get("after", {}), port)
    assert {key: _to_vector(thing)[key] for key in after} == after


def _object(client: Any, name: str, prefix: str) -> Any:
    sandbox_id = OBJECTS["sandbox"]["id"]

    def make(kind: str, *args: Any, **options: Any) -> Any:
        return getattr(terp, prefix + kind)(client, *args, **options)

    pty = command_replies.read_pty(OBJECTS["command reply"])
    sandbox = make("Sandbox", replies.read_sandbox(OBJECTS["sandbox reply"]))
    objects: dict[str, Callable[[], Any]] = {
        "client": lambda: client,
        "terp": lambda: terp,
        "sandbox": lambda: sandbox,
        "files": lambda: sandbox.files,
        "env": lambda: sandbox.env,
        "snapshot": lambda: make("Snapshot", replies.read_snapshot(OBJECTS["snapshot reply"])),
        "command": lambda: make("Command", sandbox_id, command_replies.read_command(OBJECTS["command reply"])),
        "pty": lambda: make("Pty", sandbox_id, pty, typed=0),
        "attached": lambda: make("Pty", sandbox_id, pty, typed=None),
        "context": lambda: make("CodeContext", sandbox_id, code_protocol.read_context(OBJECTS["context reply"])),
        "volume": lambda: make("Volume", account.read_volume(OBJECTS["volume reply"])),
        "webhook": lambda: make("Webhook", account.read_webhook(OBJECTS["webhook reply"])),
    }
    return objects[name]() if name in objects else getattr(terp, prefix + name)


def _method(thing: Any, vector: Mapping[str, Any], suffix: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(thing, vector["call"] + suffix, None) or getattr(thing, vector["call"])
    return found


def _args(vector: Mapping[str, Any]) -> list[Any]:
    return [_from_vector(each) for each in vector.get("args", [])]


def _options(client: Any, thing: Any, vector: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: _from_vector(value) for key, value in vector.get("options", {}).items()}
    return {**options, "client": client} if inspect.isclass(thing) else options


# ---- from what vectors write, and to it ----------------------------------------------------------


def _from_vector(value: Any) -> Any:  # noqa: PLR0911 - one for each form
    if isinstance(value, list):
        return [_from_vector(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "$base64" in value:
        return base64.b64decode(value["$base64"])
    if "$time" in value:
        return dt.datetime.fromisoformat(value["$time"].replace("Z", "+00:00"))
    if "$day" in value:
        return dt.date.fromisoformat(value["$day"])
    if "$secret" in value:
        return terp.Secret(**value["$secret"])
    return {key: _from_vector(each) for key, each in value.items()}


def _to_vector(value: Any) -> Any:  # noqa: PLR0911 - one for each form
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [_to_vector(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _to_vector(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value):
        kind = {"kind": KINDS[type(value)]} if type(value) in KINDS else {}
        return kind | {each.name: _to_vector(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return _to_vector(value.info) if hasattr(value, "info") else value


def _wanted(value: Any, port: int) -> Any:
    """What the vector wants, as `_to_vector` writes it."""
    if isinstance(value, str):
        return value.replace("$port", str(port))
    if isinstance(value, list):
        return [_wanted(each, port) for each in value]
    if not isinstance(value, dict):
        return value
    members = {key: _wanted(each, port) for key, each in value.items() if key != "$like"}
    return {**OBJECTS[value["$like"]], **members} if "$like" in value else members


def _describe(error: TerpError) -> dict[str, Any]:
    names = (
        "code",
        "detail",
        "status",
        "request_id",
        "retry_after",
        "retryable",
        "fields",
        "stdout",
        "stderr",
        "signal",
    )
    known = {name: getattr(error, name) for name in names if hasattr(error, name)}
    failed = error.failed if isinstance(error, PartialWrite) else {}
    return {
        "type": type(error).__name__,
        **known,
        "failed": {path: type(each).__name__ for path, each in failed.items()},
    }
