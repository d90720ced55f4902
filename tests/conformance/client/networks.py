"""Cases: what a sandbox reaches, and its previews. They run where nothing but a few servers can be reached."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import httpx
from orkestr import NetworkPolicyError, OrkestrError, Sandbox, SandboxNotReady

from expect import eventually, raises

_TEMPLATE = "python-3.12-bare"
_PORT = 8000


def _answer(sbx: Sandbox, url: str) -> str:
    """What a GET from inside gives; empty when it fails. Certificates are the test's own."""
    program = (
        "import ssl, sys, urllib.request as r; c = ssl._create_unverified_context();"
        " print(r.urlopen(sys.argv[1], timeout=20, context=c).read().decode())"
    )
    result = sbx.exec(f"python3 -c '{program}' {url}")
    return result.stdout.strip() if result.exit_code == 0 else ""


def _serve(sbx: Sandbox) -> None:
    """Let a program inside serve /workspace over HTTP."""
    sbx.files.write("/workspace/index.html", "from inside")
    sbx.exec(f"setsid python3 -m http.server {_PORT} --bind 0.0.0.0 > /dev/null 2>&1 &")
    probe = f'import socket; socket.create_connection(("127.0.0.1", {_PORT}))'
    eventually(lambda: sbx.exec(f"python3 -c '{probe}'").exit_code == 0)


def _visit(server: dict[str, str], host: str, query: str = "", **options: Any) -> httpx.Response:
    """A GET of the preview at *host*; its name leads nowhere here, so the server is addressed directly."""
    headers = {"host": host, **options.pop("headers", {})}
    with httpx.Client(base_url=server["base_url"], trust_env=False, timeout=60) as client:
        return client.get(f"/{query}", headers=headers, **options)


def off_reaches_nothing(server: dict[str, str]) -> None:
    """Without a network there is no device, and there are no previews."""
    with Sandbox.create(template=_TEMPLATE) as sbx:
        assert sbx.network == "off"
        assert sbx.exec("ls /sys/class/net").stdout.split() == ["lo"]
        assert _answer(sbx, "https://allowed.example/") == ""
        raises(NetworkPolicyError, lambda: sbx.get_host(_PORT))
        raises(NetworkPolicyError, lambda: sbx.preview_url(_PORT))
        ulid = sbx.id.removeprefix("sbx_").lower()
        assert _visit(server, f"{_PORT}-{ulid}.localhost").status_code == 404


def restricted_reaches_what_is_allowed() -> None:
    """Names on the list and those below them, over HTTPS; other names, plain HTTP and bare addresses are refused."""
    with Sandbox.create(template=_TEMPLATE, network="restricted", allow_domains=["allowed.example"]) as sbx:
        assert sbx.network == "restricted"
        assert Sandbox.get(sbx.id).network == "restricted"
        assert _answer(sbx, "https://allowed.example/") == "reached"
        assert _answer(sbx, "https://sub.allowed.example/") == "reached"
        assert _answer(sbx, "https://denied.example/") == ""
        assert _answer(sbx, "https://default.example/") == ""
        assert _answer(sbx, "http://allowed.example/") == ""
        assert _answer(sbx, "https://203.0.113.7/") == ""


def restricted_has_a_default_list() -> None:
    """Without a list it is the server's, which limits tell."""
    assert Sandbox.limits().default_egress_domains == ["default.example"]
    assert Sandbox.limits().custom_egress_allowlist is True
    with Sandbox.create(template=_TEMPLATE, network="restricted") as sbx:
        assert _answer(sbx, "https://default.example/") == "reached"
        assert _answer(sbx, "https://allowed.example/") == ""


def open_reaches_all_names() -> None:
    """Any name and any port; private addresses stay out of reach."""
    with Sandbox.create(template=_TEMPLATE, network="open") as sbx:
        assert sbx.network == "open"
        assert _answer(sbx, "https://denied.example/") == "reached"
        assert _answer(sbx, "http://allowed.example/") == "reached"
        assert _answer(sbx, "http://169.254.169.254/") == ""


def wrong_names_are_refused() -> None:
    """A list that is none is a clear 4xx, and creates nothing."""
    before = len(Sandbox.list())
    for domains in (["https://example.com"], ["*"], ["a" * 300], [""]):
        try:
            Sandbox.create(template=_TEMPLATE, network="restricted", allow_domains=domains)
        except OrkestrError as error:
            assert error.status_code in (400, 422), (domains, error)
            assert "allow_domains" in str(error), (domains, error)
        else:
            raise AssertionError(f"it was taken: {domains}")
    assert len(Sandbox.list()) == before


def previews_are_served(server: dict[str, str]) -> None:
    """A port has a host name that stays, and whoever knows it sees what listens there."""
    with Sandbox.create(template=_TEMPLATE, network="restricted", allow_domains=[]) as sbx:
        _serve(sbx)
        host = sbx.get_host(_PORT)
        ulid = sbx.id.removeprefix("sbx_").lower()
        assert re.fullmatch(rf"{_PORT}-{ulid}\.[a-z0-9.-]+", host)
        assert sbx.get_host(_PORT) == host
        assert sbx.preview_url(_PORT) == f"https://{host}"
        answer = _visit(server, host)
        assert (answer.status_code, answer.text) == (200, "from inside")
        assert _visit(server, host.replace(str(_PORT), "8001")).status_code >= 500
    assert _visit(server, host).status_code >= 400
    raises(SandboxNotReady, lambda: sbx.get_host(_PORT))


def previews_ask_for_their_token(server: dict[str, str]) -> None:
    """With preview_auth only who has the token sees it: in a header, or in the URL, which becomes a cookie."""
    with Sandbox.create(template=_TEMPLATE, network="restricted", preview_auth=True) as sbx:
        assert sbx.preview_auth is True
        token = sbx.preview_auth_token
        assert token
        assert Sandbox.get(sbx.id).preview_auth_token == token
        _serve(sbx)
        url = urlsplit(sbx.preview_url(_PORT))
        host = sbx.get_host(_PORT)
        assert url.hostname == host
        assert url.query == f"ork_preview_token={token}"
        assert _visit(server, host).status_code == 401
        assert _visit(server, host, headers={"x-orkestr-preview-token": token[:-1] + "_"}).status_code == 401
        assert _visit(server, host, headers={"x-orkestr-preview-token": token}).text == "from inside"
        first = _visit(server, host, f"?{url.query}", headers={"accept": "text/html"})
        assert first.is_redirect
        assert token not in first.headers["location"]
        cookie = first.headers["set-cookie"].partition(";")[0]
        assert _visit(server, host, headers={"cookie": cookie}).text == "from inside"


def previews_wake_a_paused_sandbox(server: dict[str, str]) -> None:
    """With auto_resume a visit resumes it; without, it serves nothing."""
    for auto_resume in (True, False):
        with Sandbox.create(template=_TEMPLATE, network="restricted", auto_resume=auto_resume) as sbx:
            _serve(sbx)
            host = sbx.get_host(_PORT)
            sbx.pause()
            assert sbx.get_host(_PORT) == host
            answer = _visit(server, host)
            assert (answer.text == "from inside") is auto_resume, answer.text
            assert sbx.refresh().status == ("running" if auto_resume else "paused")
