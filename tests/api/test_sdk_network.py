"""Our client against our server: what the one sends of networks, secrets and previews is what the other reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest
from support.api import RunningApi
from support.egress import make_egress
from terp import AsyncSandbox, AsyncTerp, Connection, InvalidRequest, NetworkBlocked, Secret, StateConflict, Traffic

from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Decision, Reason


@pytest.fixture
async def client(api: RunningApi) -> AsyncIterator[AsyncTerp]:
    async with AsyncTerp(api_key=await api.key(), base_url=api.url, wait_for_capacity=0) as client:
        yield client


async def test_policy_goes_there_and_back(client: AsyncTerp) -> None:
    """What is asked for at the create, and what is changed later, is what another one is told."""
    sandbox = await AsyncSandbox.create(allow_domains=["Example.com."], report_only=True, client=client)
    created = sandbox.info
    await sandbox.set_network(allow_domains=[], report_only=False)
    emptied = (await AsyncSandbox.get(sandbox.id, client=client)).info
    await sandbox.set_network("open", allow_domains="default")
    opened = (await AsyncSandbox.get(sandbox.id, client=client)).info

    assert (created.network, created.allow_domains, created.report_only) == ("restricted", ("example.com",), True)
    assert (emptied.network, emptied.allow_domains, emptied.report_only) == ("restricted", (), False)
    assert (opened.network, opened.allow_domains) == ("open", None)
    assert sandbox.info == opened


async def test_network_device_is_for_good(client: AsyncTerp) -> None:
    """There is no way to `off`, and none from it."""
    without, sandbox = [await AsyncSandbox.create(network=mode, client=client) for mode in ("off", "restricted")]

    with pytest.raises(StateConflict):
        await without.set_network("restricted")
    with pytest.raises(InvalidRequest, match="restricted"):
        await sandbox.set_network("off")


async def test_secret_arrives_at_the_node_alone(client: AsyncTerp, api: RunningApi) -> None:
    """The sandbox has a placeholder, the description a name, the node the value."""
    secret = Secret("EXAMPLE_KEY", "api.example.com", "v4lue", header="X-Api-Key")
    sandbox = await AsyncSandbox.create(secrets=[secret], client=client)

    machine = api.node.machines[SandboxId(sandbox.id)]
    assert machine.network is not None
    (held,) = machine.network.credentials
    assert (held.name, held.hosts, held.value, held.header) == (
        *("EXAMPLE_KEY", ("api.example.com",), "v4lue", "x-api-key"),
    )
    assert machine.memory.env["EXAMPLE_KEY"] == held.placeholder
    assert sandbox.info.secrets == ("EXAMPLE_KEY",)


async def test_refused_secret_is_not_repeated(client: AsyncTerp) -> None:
    """No error holds a value."""
    with pytest.raises(InvalidRequest) as caught:
        await AsyncSandbox.create(secrets=[Secret("A", "api.example.com", "v4lue\n")], client=client)

    assert "v4lue" not in str(caught.value) + repr(caught.value.fields)


async def test_connections_and_traffic(client: AsyncTerp, api: RunningApi) -> None:
    """All that is recorded, over pages, newest first, and the same filtered."""
    sandbox = await AsyncSandbox.create(network="restricted", client=client)
    record = await api.store.get_sandbox(TenantId("acme"), SandboxId(sandbox.id))
    records = [make_egress(record, bytes_out=n) for n in range(205)]
    blocked = make_egress(
        record, name="no.example", address=None, decision=Decision.BLOCKED, reason=Reason.NAME_NOT_ALLOWED
    )
    await api.store.add_egress([*records, blocked])

    found = [each async for each in sandbox.egress()]
    refused = [each async for each in sandbox.egress(decision="blocked", name="no.example")]
    later = [each async for each in sandbox.egress(since=blocked.at + dt.timedelta(seconds=1))]

    assert [each.id for each in found] == sorted((each.id for each in [*records, blocked]), reverse=True)
    (only,) = refused
    assert isinstance(only, Connection)
    assert (only.id, only.at, only.reason, only.address) == (blocked.id, blocked.at, "name_not_allowed", None)
    assert later == []
    assert await sandbox.traffic() == Traffic(
        bytes_out=sum(range(205)) + 100, bytes_in=206 * 2000, connections=205, blocked=1
    )


async def test_preview_s_address(client: AsyncTerp, api: RunningApi) -> None:
    """It is the server's, under the sandbox's host, with its token unless it is public."""
    private = await AsyncSandbox.create(network="restricted", client=client)
    public = await AsyncSandbox.create(network="open", preview_auth=False, client=client)
    closed = await AsyncSandbox.create(client=client)

    url = urlsplit(await private.preview_url(8000))

    ulid = private.id.removeprefix("sbx_").lower()
    assert (url.scheme, url.hostname, url.port) == ("http", f"8000-{ulid}.localhost", urlsplit(api.url).port)
    assert parse_qs(url.query) == {"terp_preview_token": [private.info.preview_auth_token]}
    assert url.hostname == await private.host(8000)
    assert urlsplit(await public.preview_url(8000)).query == ""
    with pytest.raises(NetworkBlocked, match="restricted"):
        await closed.preview_url(8000)
