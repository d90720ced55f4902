"""
Whatever fits the description, and what nearly does: no call breaks the server, and every answer is described.

Requests are made from the description itself. Ids are of things that exist as often as not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.api import POLICY, RunningApi, running_api
from support.simulated_node import SimulatedNode

from terpd.api.app import describe_app

EXAMPLES = 10  # of each call, right ones and wrong ones each
ANSWER_S = 20.0
ENDLESS = {"watch_files"}  # their answers end when the client goes
CHECKS: list[CheckFunction] = [status_code_conformance, content_type_conformance, response_schema_conformance]

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")

SCHEMA = schemathesis.openapi.from_dict(describe_app().openapi())
OPERATIONS = {
    found.ok().definition.raw["operationId"]: found.ok()
    for found in SCHEMA.get_all_operations()
    if found.ok().definition.raw["operationId"] not in ENDLESS
}


@dataclass(frozen=True)
class Target:
    """A server in a thread of its own, and what there is by the names of path parameters."""

    url: str
    headers: dict[str, str]
    there: dict[str, str]


async def _serve(directory: Path, ready: threading.Event, told: dict[str, Any]) -> None:
    policy = replace(POLICY, max_concurrent=100_000, max_snapshots=100_000, max_named_snapshots=100_000)
    async with running_api(directory, policy=policy, node=SimulatedNode(machines_cap=100_000)) as api:
        told["target"] = Target(api.url, {"authorization": api.client.headers["authorization"]}, await _fill(api))
        told["stop"] = stop = asyncio.Event()
        told["loop"] = asyncio.get_running_loop()
        ready.set()
        await stop.wait()


async def _fill(api: RunningApi) -> dict[str, str]:
    sandbox = await api.create()
    snapshot = await api.client.post(f"/v1/sandboxes/{sandbox}/snapshots")
    webhook = await api.client.post("/v1/sandboxes/webhooks", json={"url": "https://example.com/"})
    return {"sandbox_id": sandbox, "snapshot_id": snapshot.json()["id"], "webhook_id": webhook.json()["id"]}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    ready, told = threading.Event(), dict[str, Any]()
    directory = tmp_path_factory.mktemp("fuzz")
    thread = threading.Thread(target=lambda: asyncio.run(_serve(directory, ready, told)))
    thread.start()
    assert ready.wait(60)
    yield told["target"]
    told["loop"].call_soon_threadsafe(told["stop"].set)
    thread.join()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_described(target: Target, operation: str, mode: schemathesis.GenerationMode) -> None:
    """Neither a 5xx nor a status, a type or a body that the description does not have."""
    turn = 0

    @given(case=OPERATIONS[operation].as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,  # the same requests in every run: whoever broke it sees it
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: schemathesis.Case) -> None:
        nonlocal turn
        turn += 1
        if turn % 2 and not operation.startswith(("terminate", "delete")):  # those that exist are for all
            for name in set(case.path_parameters or ()) & set(target.there):
                case.path_parameters[name] = target.there[name]
        answer = case.call(base_url=target.url, headers=target.headers, timeout=ANSWER_S)
        assert answer.status_code < 500, (answer.status_code, answer.text[:500])
        case.validate_response(answer, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # a call without anything that could be wrong
        run()
