"""Requests that are wrong in every way: a clear 4xx with a body of our form, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from support.server import Server
from support.watch import unaffected
from terp import InvalidRequest, LimitExceeded, Sandbox, TemplateNotFound

pytestmark = pytest.mark.vm


@pytest.fixture(autouse=True)
def others_are_unaffected(shared: Sandbox) -> Iterator[None]:
    with unaffected(shared):
        yield


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def _is_clear(response: httpx.Response, *statuses: int) -> None:
    assert response.status_code in statuses, response.text[:500]
    body = response.json()
    assert body["code"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert response.headers["x-request-id"]


_GOOD: dict[str, Any] = {"template": "debian-12", "size": "small"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'"text"',
        b"1e999",
        b"[" * 100_000,
        b'{"template":' * 50_000,
        b'{"template": "debian-12", "timeout_seconds": NaN}',
        b'{"template": "debian-12", "timeout_seconds": 1' + b"0" * 5000 + b"}",
        b'{"template": "\\ud800"}',
        b'{"template": "debian-12", "metadata": {"a": "\\ud800"}}',
    ],
)
def test_broken_json(http: httpx.Client, body: bytes) -> None:
    """A body that is no JSON object, or holds what no field can hold, is refused."""
    for path in ("/v1/sandboxes", "/v1/sandboxes/sbx_01ARZ3NDEKTSV4RRFFQ69G5FAV/exec"):
        response = http.post(path, content=body, headers={"content-type": "application/json"})
        _is_clear(response, 400, 404, 413, 422)


@pytest.mark.parametrize(
    "wrong",
    [
        {"template": None},
        {"template": 7},
        {"template": ""},
        {"template": "../../etc/passwd"},
        {"template": "a" * 100_000},
        {"size": "gigantic"},
        {"size": None},
        {"network": "wide"},
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"timeout_seconds": 10**12},
        {"timeout_seconds": 1.5},
        {"timeout_seconds": "60"},
        {"timeout_seconds": True},
        {"env": []},
        {"env": {"A": None}},
        {"env": {"": "x"}},
        {"env": {"A": "x" * 10_000_000}},
        {"env": {str(n): "x" for n in range(100_000)}},
        {"metadata": {"k": {"deep": 1}}},
        {"metadata": {str(n): "x" for n in range(10_000)}},
        {"unknown_field": 1},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_wrong_fields(server: Server, http: httpx.Client, wrong: dict[str, Any]) -> None:
    """A create with a wrong value is refused and leaves no sandbox; what we do not know we do not ignore."""
    before = {sandbox.id for sandbox in server.list()}

    response = http.post("/v1/sandboxes", json={**_GOOD, **wrong})

    _is_clear(response, 400, 404, 413, 422)
    assert {sandbox.id for sandbox in server.list()} == before


def test_huge_body(http: httpx.Client, server: Server) -> None:
    """A body far above any limit is refused before it is read whole, with and without its length told."""
    piece = b"x" * (1 << 20)

    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield piece

    for headers in ({}, {"content-length": str(300 << 20)}):
        try:
            response = http.post("/v1/sandboxes", content=endless(), headers=headers)
        except httpx.TransportError:
            continue  # hung up on while sending: as good
        _is_clear(response, 413)
    assert int(server.process_status()["VmRSS"].split()[0]) // 1024 < 600


def test_wrong_addresses(http: httpx.Client) -> None:
    """Unknown paths, ids of no form and wrong methods have bodies of our form too."""
    for path in ("/v1/nothing", "/v1/sandboxes/", "/v1/sandboxes/x/y/z", "/v1/sandboxes/%00", "/v1/sandboxes/%2e%2e"):
        _is_clear(http.get(path), 400, 404, 405)
    _is_clear(http.patch("/v1/sandboxes"), 404, 405)
    _is_clear(http.get("/v1/sandboxes", params={"limit": "many"}), 400, 422)
    _is_clear(http.get("/v1/sandboxes", params={"limit": "0"}), 400, 422)
    _is_clear(http.get("/v1/sandboxes", params={"cursor": "garbage"}), 400, 422)
    _is_clear(http.get("/v1/sandboxes", params={"status": "happy"}), 400, 422)


def test_without_a_key(server: Server, shared: Sandbox) -> None:
    """Without a key nothing is told but that one is needed."""
    for path in ("/v1/sandboxes", f"/v1/sandboxes/{shared.id}", "/v1/sandboxes/limits"):
        _is_clear(httpx.get(server.url + path), 401)
        _is_clear(httpx.get(server.url + path, headers={"authorization": "Basic eDp5"}), 401)


def test_not_http_at_all(server: Server) -> None:
    """Garbage on the socket and connections that say nothing are dropped or answered, and do no harm."""
    address = (urlsplit(server.url).hostname, urlsplit(server.url).port)
    silent = [socket.create_connection(address) for _ in range(50)]
    with socket.create_connection(address) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00garbage\r\n\r\n")
        assert b"200" not in connection.recv(4096)
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000)
    for connection in silent:
        connection.close()
    assert server.running


def test_command_of_a_megabyte(shared: Sandbox) -> None:
    """A command line longer than Linux allows is refused with the limit and what to do instead."""
    with pytest.raises((InvalidRequest, LimitExceeded)) as caught:
        shared.exec("echo " + "x" * (1 << 20))

    assert "command" in caught.value.detail
    assert caught.value.status in (400, 413, 422)


def test_command_at_the_limit(shared: Sandbox) -> None:
    """The longest command that is accepted also runs."""
    command = "echo " + "x" * (100 * 1024 - 5)

    assert shared.exec(command).stdout == "x" * (100 * 1024 - 5) + "\n"


def test_unknown_template_and_size(server: Server) -> None:
    """An unknown template or size is said to be that."""
    with pytest.raises(TemplateNotFound, match="no-such-template"):
        server.create("no-such-template")
    with pytest.raises(InvalidRequest, match="size"):
        server.create(size="tiny")


def test_errors_are_ascii_json(http: httpx.Client) -> None:
    """Whatever a caller writes comes back escaped: error bodies are ASCII and quote in bounds."""
    response = http.post("/v1/sandboxes", json={**_GOOD, "size": "grüße\u2028" * 10_000})

    _is_clear(response, 400, 413, 422)
    assert response.content.isascii()
    assert len(response.content) < 4096
    json.loads(response.content)
