"""What only the asynchronous client has: cancellation, event loops."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from terp import AsyncSandbox, AsyncTerp


async def test_cancelled_block_terminates_its_sandbox(server):
    """The sandbox ends and the cancellation goes on."""
    server.reply(201, server.sandbox)
    server.reply(204)
    inside = asyncio.Event()

    async def work() -> None:
        async with (
            AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client,
            await AsyncSandbox.create(client=client),
        ):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.calls[-1] == f"DELETE /v1/sandboxes/{server.sandbox['id']}"


async def test_cancelled_twice_still_terminates(server):
    """A scope that cancels again at the next await, as those of other libraries do, does not stop the clean-up."""
    terminating, ended = asyncio.Event(), asyncio.Event()
    server.reply(201, server.sandbox)

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method != "DELETE":
            return server._answer(request)
        terminating.set()
        await asyncio.sleep(0)
        ended.set()
        return httpx.Response(204)

    client = AsyncTerp(api_key="k", base_url="http://server.test", transport=httpx.MockTransport(answer))
    inside = asyncio.Event()

    async def work() -> None:
        async with await AsyncSandbox.create(client=client):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await terminating.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 20)
    await client.aclose()


async def test_cancelled_command_closes_its_connection(wire):
    """Cancelling is never swallowed, and the server learns of it."""
    started = asyncio.Event()

    def script(peer) -> None:
        peer.request()
        peer.reply(wire.sandbox)
        peer.request()
        peer.head()
        peer.chunk(wire.sse(wire.started, wire.chunk(b"x")))
        assert peer.left()

    wire.serve(script)
    async with AsyncTerp(api_key="k", base_url=wire.url) as client:
        sandbox = await AsyncSandbox.get("sbx_1", client=client)
        task = asyncio.create_task(sandbox.exec("sleep 100", on_stdout=lambda _text: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wire.join)


async def test_callback_may_be_a_coroutine_function(server):
    """It is awaited before the next event."""
    server.reply(200, server.sandbox)
    server.exec(server.started, server.chunk(b"a"), server.chunk(b"b"), server.exited())
    seen: list[str] = []

    async def keep(text: str) -> None:
        await asyncio.sleep(0)
        seen.append(text)

    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        sandbox = await AsyncSandbox.get("sbx_1", client=client)
        await sandbox.exec("true", on_stdout=keep)

    assert seen == ["a", "b"]


async def test_chunks_may_come_from_an_asynchronous_source(server):
    """As well as from a plain one."""
    server.reply(200, server.sandbox)
    server.reply(200, {})

    async def chunks():
        yield b"a"
        yield b"b"

    async with AsyncTerp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        sandbox = await AsyncSandbox.get("sbx_1", client=client)
        await sandbox.files.write_stream("/tmp/a", chunks())

    assert server.requests[-1].content == b"ab"


def test_default_client_ends_with_its_loop(wire, monkeypatch):
    """Each `asyncio.run` has a client of its own, closed with it: nothing is left for the garbage collector."""
    monkeypatch.setenv("TERP_API_KEY", "k")
    monkeypatch.setenv("TERP_BASE_URL", wire.url)
    closed = threading.Semaphore(0)

    def script(peer) -> None:
        peer.request()
        peer.reply(wire.sandbox)
        assert peer.left()
        closed.release()

    wire.serve(script, script)

    for _ in range(2):
        asyncio.run(_get())
        assert closed.acquire(timeout=20)


async def _get() -> None:
    await AsyncSandbox.get("sbx_1")
