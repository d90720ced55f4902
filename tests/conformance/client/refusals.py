"""Cases: what is refused, and as which exception of the client."""

from __future__ import annotations

import threading
from typing import Any

from orkestr import (
    APIError,
    AuthError,
    FleetFull,
    OrkestrClient,
    OrkestrError,
    PlanLimitError,
    Sandbox,
    SandboxNotFound,
    Snapshot,
)

from expect import eventually, raises


def unknown_key() -> None:
    """A key nobody has issued, or none of our form, is a 401."""
    for key in ("terp_" + "A" * 40, "x", "a b"):
        error = raises(AuthError, lambda key=key: Sandbox.list(client=OrkestrClient(api_key=key)))
        assert error.status_code == 401
        assert error.request_id


def missing_scope(sandbox: Sandbox, keys: dict[str, str]) -> None:
    """A key that may only read reads, and is refused any change with a 403 that names the scope."""
    reader = OrkestrClient(api_key=keys["read"])
    found = Sandbox.get(sandbox.id, client=reader)
    assert found.id in {each.id for each in Sandbox.list(client=reader)}
    assert found.files.read("/etc/debian_version")
    assert Snapshot.list(client=reader) is not None
    for call in (
        lambda: Sandbox.create(template="debian-12", client=reader),
        found.terminate,
        found.pause,
        lambda: Sandbox.resume(found.id, client=reader),
        found.snapshot,
        lambda: Snapshot.delete("snap_01ARZ3NDEKTSV4RRFFQ69G5FAV", client=reader),
        lambda: found.set_timeout(60),
        lambda: found.exec("true"),
        lambda: list(found.exec_stream("true")),
        lambda: found.files.write("/tmp/a", "a"),
        lambda: found.files.delete("/etc/passwd"),
    ):
        error = raises(AuthError, call)
        assert error.status_code == 403
        assert "sandboxes:write" in str(error)
    writer = OrkestrClient(api_key=keys["write"])
    assert raises(AuthError, lambda: Sandbox.list(client=writer)).status_code == 403


def other_tenants_sandbox(sandbox: Sandbox, keys: dict[str, str]) -> None:
    """Another tenant's sandbox does not exist: every call says not found, and no list shows it."""
    stranger = OrkestrClient(api_key=keys["stranger"])
    assert sandbox.id not in {each.id for each in Sandbox.list(client=stranger)}
    raises(SandboxNotFound, lambda: Sandbox.get(sandbox.id, client=stranger))
    sandbox._client = stranger
    for call in (
        lambda: sandbox.exec("true"),
        lambda: list(sandbox.exec_stream("true")),
        lambda: sandbox.files.read("/etc/passwd"),
        lambda: sandbox.files.write("/tmp/a", "a"),
        lambda: sandbox.set_timeout(60),
        sandbox.pause,
        lambda: Sandbox.resume(sandbox.id, client=stranger),
        sandbox.snapshot,
        sandbox.terminate,
    ):
        raises(SandboxNotFound, call)


def unknown_sandbox() -> None:
    """Ids that never were, well formed or not, are not found."""
    for sandbox_id in ("sbx_01ARZ3NDEKTSV4RRFFQ69G5FAV", "sbx_x", "nonsense", "..%2f..%2fetc", "sbx_" + "0" * 3000):
        error = raises(SandboxNotFound, lambda sandbox_id=sandbox_id: Sandbox.get(sandbox_id))
        assert error.status_code == 404


def bad_create() -> None:
    """A create with a wrong value is a clear 4xx that names it, and creates nothing."""
    before = len(Sandbox.list())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"size": "enormous"}, "size"),
        ({"network": "sideways"}, "network"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": -5}, "timeout_seconds"),
        ({"timeout_seconds": 10**9}, "timeout_seconds"),
        ({"timeout_seconds": "soon"}, "timeout_seconds"),
        ({"on_timeout": "explode"}, "on_timeout"),
        ({"env": {"A": 1}}, "env"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"A": "nul\0"}}, "env"),
        ({"metadata": {"k": ["list"]}}, "metadata"),
        ({"region": "atlantis"}, "region"),
    ]
    for options, named in wrong:
        arguments = {"template": "debian-12", **options}
        error = raises(APIError, lambda arguments=arguments: Sandbox.create(**arguments))
        assert error.status_code in (400, 422), (options, error)
        assert named in str(error), (options, error)
        assert error.request_id
    assert raises(SandboxNotFound, lambda: Sandbox.create(template="no-such-template")).status_code == 404
    assert len(Sandbox.list()) == before


def bad_exec(sandbox: Sandbox) -> None:
    """A command that cannot be started is a clear 4xx, buffered and streamed."""
    wrong: list[dict[str, Any]] = [
        {"command": ""},
        {"command": "true", "cwd": "/no/such/directory"},
        {"command": "true", "cwd": "relative"},
        {"command": "true", "timeout_seconds": 0},
        {"command": "true", "timeout_seconds": -1},
        {"command": "true", "env": {"A=B": "1"}},
        {"command": "nul\0"},
        {"command": "true " + "x" * (1 << 20)},
    ]
    for arguments in wrong:
        for call in (
            lambda arguments=arguments: sandbox.exec(**arguments),
            lambda arguments=arguments: list(sandbox.exec_stream(**arguments)),
        ):
            error = raises(APIError, call)
            assert error.status_code in (400, 413, 422), (str(arguments)[:80], error)
    assert sandbox.exec("echo fine").stdout == "fine\n"


def _tenants(tight: dict[str, Any]) -> list[OrkestrClient]:
    """Three tenants of a server with room for two machines, and for one of each tenant."""
    return [OrkestrClient(api_key=key, base_url=tight["url"]) for key in tight["tenants"]]


def plan_limit(tight: dict[str, Any]) -> None:
    """Above its number of live sandboxes a tenant gets PlanLimitError at once, and can create again when one ended."""
    client = _tenants(tight)[0]
    most = Sandbox.limits(client=client).max_concurrent
    assert most == 1
    with Sandbox.create(template="debian-12", client=client) as sbx:
        error = raises(PlanLimitError, lambda: Sandbox.create(template="debian-12", client=client))
        assert error.status_code in (402, 403)
        assert len(Sandbox.list(client=client, status="running")) == 1
        assert sbx.exec("echo fine").stdout == "fine\n"
    Sandbox.create(template="debian-12", client=client).terminate()


def fleet_full(tight: dict[str, Any]) -> None:
    """On a full node FleetFull comes with a time to wait, and nothing was created."""
    *others, client = _tenants(tight)
    made = [Sandbox.create(template="debian-12", client=other, max_retries=0) for other in others]
    try:
        error = raises(FleetFull, lambda: Sandbox.create(template="debian-12", client=client, max_retries=0))
        assert error.status_code == 503
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 30
        assert Sandbox.list(client=client) == []
    finally:
        for sbx in made:
            sbx.terminate()


def fleet_full_then_room(tight: dict[str, Any]) -> None:
    """The client's own retries succeed as soon as there is room."""
    *others, client = _tenants(tight)
    made = [Sandbox.create(template="debian-12", client=other, max_retries=0) for other in others]
    refused = threading.Event()
    post = client.post

    def watched_post(*args: Any, **kwargs: Any) -> Any:
        try:
            return post(*args, **kwargs)
        except FleetFull:
            refused.set()
            raise

    client.post = watched_post  # type: ignore[method-assign]  # to know when the first refusal has come
    late: list[Sandbox] = []
    thread = threading.Thread(target=lambda: late.append(Sandbox.create(template="debian-12", client=client)))
    thread.start()
    try:
        assert refused.wait(timeout=30)
        made.pop().terminate()
        thread.join()
        assert late[0].exec("echo made it").stdout == "made it\n"
    finally:
        thread.join()
        for sbx in made + late:
            sbx.terminate()
    assert eventually(lambda: not Sandbox.list(client=client, status="running"))


def errors_have_a_request_id(sandbox: Sandbox) -> None:
    """Whatever is refused can be found in the operator's log by its request id, and each has its own."""
    ids = set()
    for call in (
        lambda: Sandbox.get("sbx_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        lambda: sandbox.files.read("/absent"),
        lambda: sandbox.exec(""),
        lambda: list(sandbox.exec_stream("")),
    ):
        try:
            call()
        except OrkestrError as error:
            assert error.request_id
            ids.add(error.request_id)
    assert len(ids) == 4
