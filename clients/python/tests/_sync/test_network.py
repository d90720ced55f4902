# Generated from tests/_async/test_network.py by tools/sync.py: change that one.
"""What a sandbox may reach, what it reached, its previews, and credentials that it never holds."""

from __future__ import annotations

import datetime as dt

import pytest

from terp import (
    BadReply,
    Connection,
    Forbidden,
    InvalidRequest,
    NetworkBlocked,
    Sandbox,
    Secret,
    StateConflict,
    Terp,
    Traffic,
)

TRAFFIC = {"bytes_out": 10, "bytes_in": 20, "connections": 3, "blocked": 4}
ROW = {
    "id": "01JG0000000000000000000002",
    "at": "2026-01-01T00:00:00.500000Z",
    "protocol": "tls",
    "name": "api.example.com",
    "address": "203.0.113.7",
    "port": 443,
    "decision": "allowed",
    "reason": "allowed_name",
    "bytes_out": 100,
    "bytes_in": 2000,
    "duration_ms": 30,
    "credential": "EXAMPLE",
}


def page(*rows: object, cursor: str | None = None) -> dict[str, object]:
    return {"connections": list(rows), "traffic": TRAFFIC, "next_cursor": cursor}


@pytest.fixture
def client(server):
    with Terp(api_key="k", base_url="http://server.test:7070", transport=server.transport) as client:
        yield client


@pytest.fixture
def sandbox(server, client):
    token = {"network": "restricted", "preview_auth": True, "preview_auth_token": "t0ken"}
    server.reply(201, {**server.sandbox, **token})
    return Sandbox.create(network="restricted", client=client)


def test_create_says_what_may_be_reached(server, client):
    """All of it is sent; what the server says of it is there to read."""
    said = {"network": "restricted", "allow_domains": ["example.com"], "report_only": True, "secrets": ["EXAMPLE"]}
    server.reply(201, {**server.sandbox, **said, "preview_auth": True, "preview_auth_token": "t0ken"})

    sandbox = Sandbox.create(
        network="restricted",
        allow_domains=("example.com",),
        report_only=True,
        secrets=[Secret("EXAMPLE", "api.example.com", "v4lue", header="x-api-key", placeholder="p" * 8, env="KEY")],
        client=client,
    )

    sent = server.sent()
    assert (sent["network"], sent["allow_domains"], sent["report_only"]) == ("restricted", ["example.com"], True)
    assert sent["preview_auth"] is True
    assert sent["secrets"] == [
        {
            "name": "EXAMPLE",
            "hosts": ["api.example.com"],
            "value": "v4lue",
            "header": "x-api-key",
            "placeholder": "p" * 8,
            "env": "KEY",
        }
    ]
    info = sandbox.info
    assert (info.allow_domains, info.report_only, info.secrets) == (("example.com",), True, ("EXAMPLE",))
    assert (sandbox.network, info.preview_auth_token) == ("restricted", "t0ken")
    assert "t0ken" not in repr(info)


@pytest.mark.parametrize(
    ("given", "network", "preview_auth"),
    [
        ({}, "off", None),
        ({"network": "off", "allow_domains": ["example.com"]}, "off", None),
        ({"allow_domains": []}, "restricted", True),
        ({"secrets": [Secret("A", ["a.example"], "v")]}, "restricted", True),
        ({"network": "open", "preview_auth": False}, "open", False),
        ({"snapshot": "snap_1", "allow_domains": ["example.com"]}, None, True),
    ],
)
def test_what_is_left_out(server, client, given, network, preview_auth):
    """Who names hosts wants a network; previews are private unless said otherwise; a snapshot brings its network."""
    server.reply(201, server.sandbox)

    Sandbox.create(client=client, **given)

    assert (server.sent().get("network"), server.sent().get("preview_auth")) == (network, preview_auth)
    assert "report_only" not in server.sent()


def test_one_name_is_no_list(client, sandbox):
    """Its letters would be taken for names."""
    with pytest.raises(InvalidRequest, match=r"\['example.com'\]"):
        Sandbox.create(allow_domains="example.com", client=client)
    with pytest.raises(InvalidRequest, match="list"):
        sandbox.set_network(allow_domains="example.com")


def test_set_network_sends_what_changes(server, sandbox):
    """What is not given is not sent; the default list is asked for by its name."""
    for domains, report_only in ((["example.com"], False), (None, True), (None, True)):
        server.reply(200, {"network": "restricted", "allow_domains": domains, "report_only": report_only})
    server.reply(200, {"network": "open", "allow_domains": None, "report_only": False})

    sandbox.set_network(allow_domains=["example.com"])
    first = sandbox.info
    sandbox.set_network(allow_domains="default", report_only=True)
    second = sandbox.info
    sandbox.set_network(allow_domains=[])
    sandbox.set_network("open", report_only=False)

    assert server.calls[1:] == [f"PATCH /v1/sandboxes/{sandbox.id}/network"] * 4
    assert [server.sent(index) for index in range(1, 5)] == [
        {"allow_domains": ["example.com"]},
        {"allow_domains": None, "report_only": True},
        {"allow_domains": []},
        {"network": "open", "report_only": False},
    ]
    assert (first.allow_domains, first.report_only) == (("example.com",), False)
    assert (second.allow_domains, second.report_only) == (None, True)
    assert (sandbox.network, sandbox.info.preview_auth_token) == ("open", "t0ken")


def test_set_network_to_nothing_is_a_mistake(sandbox):
    """Nothing is sent."""
    with pytest.raises(InvalidRequest, match="Nothing to change"):
        sandbox.set_network()


def test_refused_change_leaves_what_is_known(server, sandbox):
    """What the object says is still what the server said last."""
    server.reply(409, {"detail": "for good", "code": "state_conflict"})

    with pytest.raises(StateConflict):
        sandbox.set_network("off")

    assert sandbox.network == "restricted"


def test_egress_goes_through_all_pages(server, sandbox):
    """With the same filters on each."""
    unnamed = {**ROW, "id": "01JG0000000000000000000001", "name": None, "address": None, "credential": None}
    server.reply(200, page(ROW, cursor="c/1"))
    server.reply(200, page(unnamed))
    since = dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))

    found = [each for each in sandbox.egress(decision="blocked", name="a.example", since=since)]

    at = dt.datetime(2026, 1, 1, microsecond=500000, tzinfo=dt.timezone.utc)
    assert found[0] == Connection(**{**ROW, "at": at})
    assert (found[1].id, found[1].name, found[1].credential) == (unnamed["id"], None, None)
    query = "limit=200&decision=blocked&name=a.example&since=2026-01-01T00%3A00%3A00%2B00%3A00"
    path = f"GET /v1/sandboxes/{sandbox.id}/egress"
    assert server.calls[1:] == [f"{path}?{query}", f"{path}?{query}&cursor=c/1"]


def test_egress_asks_for_no_more_than_is_read(server, sandbox):
    """Leaving early is cheap."""
    server.reply(200, page(ROW, ROW, cursor="c"))

    for connection in sandbox.egress():
        assert connection.id == ROW["id"]
        break

    assert len(server.calls) == 2


def test_traffic(server, sandbox):
    """All in all, whatever became of the records."""
    server.reply(200, page(ROW))

    assert sandbox.traffic() == Traffic(**TRAFFIC)
    assert server.calls[1:] == [f"GET /v1/sandboxes/{sandbox.id}/egress?limit=1"]


def test_preview_is_where_the_server_is(server, sandbox):
    """Under another host name, with the token."""
    server.reply(200, {"host": "80-01jg.terp.test"})
    server.reply(200, {"host": "80-01jg.terp.test"})

    host, url = sandbox.host(80), sandbox.preview_url(80)

    assert host == "80-01jg.terp.test"
    assert url == "http://80-01jg.terp.test:7070/?terp_preview_token=t0ken"
    assert server.calls[1:] == [f"GET /v1/sandboxes/{sandbox.id}/host?port=80"] * 2


def test_no_previews_without_a_network(server, sandbox):
    """It has an error of its own."""
    server.reply(403, {"detail": "it is off", "code": "network_policy_blocked"})

    with pytest.raises(NetworkBlocked, match="it is off") as caught:
        sandbox.preview_url(80)

    assert isinstance(caught.value, Forbidden)


@pytest.mark.parametrize("reply", [{}, {"connections": [1], "traffic": 1, "host": 1, "network": "x"}, page({})])
def test_nonsense_is_a_bad_reply(server, sandbox, reply):
    """Whatever comes, what comes out is ours."""
    for _ in range(3):
        server.reply(200, reply)
    server.reply(200, {"traffic": {**TRAFFIC, "blocked": "many"}})

    with pytest.raises(BadReply):
        [each for each in sandbox.egress()]
    with pytest.raises(BadReply):
        sandbox.host(80)
    with pytest.raises(BadReply):
        sandbox.set_network("open")
    with pytest.raises(BadReply):
        sandbox.traffic()


def test_limits_name_the_default_list(server, client):
    """What `restricted` stands for on this server."""
    server.reply(200, {"plan": "enterprise", "max_concurrent": 1, "default_egress_domains": ["example.com"]})

    assert Sandbox.limits(client=client).default_egress_domains == ("example.com",)
