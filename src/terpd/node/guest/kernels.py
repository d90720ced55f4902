"""
What the guest's kernels are asked and what they answer: lines of JSON, each a call or a part of one.

The protocol is described in images/terp_kernels/server.py. Who answers is the guest: lines are bounded, numbers finite,
text valid Unicode, and what was not agreed upon is GuestFault.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from terpd.model.code import CodeRequest
from terpd.model.errors import (
    ContextNotFound,
    GuestFault,
    InterpreterUnavailable,
    InvalidRequest,
    LimitExceeded,
    TerpError,
)
from terpd.model.guest import ExecExited, ExecOutput, ExecRequest, OutputStream
from terpd.model.ids import new_exec_id
from terpd.node.guest.client import GuestClient
from terpd.node.guest.faults import bad_reply, quote
from terpd.node.guest.service import ServiceStream

SERVICE = "kernels"
MAX_LINE_BYTES = 5 * 1024 * 1024  # a result has 4 MiB
MAX_CALL_BYTES = 128 * 1024 * 1024  # of answers; results have 16 MiB a run, and escapes make six bytes of one
_IN_A_THREAD_BYTES = 256 * 1024  # reading more JSON than this would hold up everybody
_MAX_DEPTH = 64
_MAX_CONTAINERS = 500_000  # lists and objects of one line
_ANSWER_S = 25.0
_CANCEL_S = 5.0
_ENV_S = 20.0
_MAX_ENV_BYTES = 512 * 1024

Line = Mapping[str, Any]


class RunForgotten(GuestFault):
    """The kernels know of no such run."""


_REFUSALS: Mapping[str, type[TerpError]] = {
    "invalid": InvalidRequest,
    "context_not_found": ContextNotFound,
    "run_not_found": RunForgotten,
    "limit": LimitExceeded,
    "unavailable": InterpreterUnavailable,
}


async def ask(guest: GuestClient, call: Line) -> Line:
    """
    Make a call of one line and return its answer.

    Raises:
        NotFound: The template has no kernels.
        InvalidRequest, ContextNotFound, LimitExceeded, InterpreterUnavailable: They refuse.
        GuestFault.
    """
    try:
        async with asyncio.timeout(_ANSWER_S), connected(guest) as stream:
            await stream.send(_encode(call))
            await stream.finish()
            async with aclosing(_read(stream)) as lines:
                async for line in lines:
                    return line
    except TimeoutError:
        raise GuestFault(f"The sandbox's kernels have not answered for {_ANSWER_S:.0f} s") from None
    raise GuestFault("The sandbox's kernels did not answer", context={"op": call["op"]})


async def begin(guest: GuestClient, run_id: str, request: CodeRequest, *, with_env: bool) -> AsyncGenerator[Line, None]:
    """
    Run code: yield its lines as they come, one at once when the kernels have it. Closing this early interrupts it.

    Args:
        with_env: Give the kernels the environment that commands have now.

    Raises as `ask`.
    """
    async with connected(guest) as stream:
        call = {
            "op": "run",
            "run": run_id,
            "code": request.code,
            "language": str(request.language),
            "context": request.context_id,
            "timeout_s": request.timeout_s,
            **({"env": await _environment(guest)} if with_env else {}),
        }
        async with aclosing(_run(stream, call)) as lines:
            async for line in lines:
                yield line


async def attach(guest: GuestClient, run_id: str, after: int) -> AsyncGenerator[Line, None]:
    """As `begin`, for a run that was begun: its lines from behind number *after*. Raises RunForgotten too."""
    call = {"op": "attach", "run": run_id, "after": after}
    async with connected(guest) as stream, aclosing(_run(stream, call)) as lines:
        async for line in lines:
            yield line


@asynccontextmanager
async def connected(guest: GuestClient) -> AsyncGenerator[ServiceStream, None]:
    """Raises NotFound: nobody listens, because the template has no kernels or their program is gone."""
    async with guest.connect_service(SERVICE) as stream:
        yield stream


async def _run(stream: ServiceStream, call: Line) -> AsyncGenerator[Line, None]:
    await stream.send(_encode(call))
    try:
        async with aclosing(_read(stream)) as lines:
            async for line in lines:
                yield line
    except (GeneratorExit, asyncio.CancelledError):
        # It has to be said: a connection that breaks lets the code run on, for that is what a capture does to it.
        with contextlib.suppress(TimeoutError, TerpError):
            async with asyncio.timeout(_CANCEL_S):
                await stream.send(_encode({"op": "cancel"}))
        raise


async def _read(stream: ServiceStream) -> AsyncGenerator[Line, None]:
    pending = bytearray()
    received = 0
    while (data := await stream.receive()) is not None:
        received += len(data)
        if received > MAX_CALL_BYTES:
            raise bad_reply("code", f"more than {MAX_CALL_BYTES} bytes in one call")
        start = len(pending)
        pending += data
        while (end := pending.find(b"\n", start)) >= 0:
            raw = bytes(pending[:end])
            del pending[: end + 1]
            start = 0
            yield await asyncio.to_thread(decode, raw) if len(raw) > _IN_A_THREAD_BYTES else decode(raw)
        if len(pending) > MAX_LINE_BYTES:
            raise bad_reply("code", f"a line of more than {MAX_LINE_BYTES} bytes")


def _encode(call: Line) -> bytes:
    return json.dumps(call, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def decode(raw: bytes) -> Line:
    """
    Raises:
        TerpError: The line is a refusal.
        GuestFault: It is no object in JSON.
    """
    if raw.count(b"[") + raw.count(b"{") > _MAX_CONTAINERS:
        return _left_out(raw)
    try:
        line = json.loads(raw, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in raw:  # halves of surrogate pairs have no encoding: what would be told of them could not be sent
            line = json.loads(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
        if not isinstance(line, dict) or _deep(line, _MAX_DEPTH):
            raise ValueError("no object, or too deep")
    except (ValueError, RecursionError) as error:
        raise bad_reply("code", f"no JSON: {error!s:.100}") from error
    refused = line.get("refused")
    if isinstance(refused, dict):
        kind = _REFUSALS.get(str(refused.get("code")), GuestFault)
        raise kind(f"The sandbox's kernels refuse this: {quote(str(refused.get('message')))}")
    return line


def _left_out(raw: bytes) -> Line:
    """
    In place of a line that would take some 50 times its size in memory, and the loop's time: whose turn it was.

    Raises:
        GuestFault: It does not say that at its beginning.
    """
    number = re.match(rb'\{"n":\s?(\d{1,9}),', raw)
    if number is None:
        raise bad_reply("code", f"more than {_MAX_CONTAINERS} lists and objects in a line")
    return {"n": int(number[1]), "left_out": True}


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("a number beyond all bounds")
    return number


def _deep(value: object, depth: int) -> bool:
    """Whether it nests deeper than *depth*."""
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (depth == 0 or any(_deep(part, depth - 1) for part in value))


async def _environment(guest: GuestClient) -> dict[str, str]:
    """What commands have: the agent alone knows it."""
    said = bytearray()
    request = ExecRequest(exec_id=new_exec_id(), argv=("env", "-0"), timeout_s=_ENV_S)
    async for event in guest.exec(request):
        if isinstance(event, ExecOutput) and event.stream is OutputStream.STDOUT:
            said += event.data
            if len(said) > _MAX_ENV_BYTES:
                raise bad_reply("code", "an environment without end")
        elif isinstance(event, ExecExited) and event.exit_code != 0:
            raise GuestFault("The sandbox's environment cannot be read: the program `env` failed in it")
    pairs = (pair.decode("utf-8", "replace").partition("=") for pair in bytes(said).split(b"\0") if pair)
    return {name: value for name, _, value in pairs}
