"""Cases: what a sandbox uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orkestr import OrkestrClient, Sandbox, SandboxMetrics, SandboxNotFound

from expect import eventually, raises


def _busy(sbx: Sandbox) -> SandboxMetrics:
    found = sbx.metrics()
    return found if (found.cpu.usage_percent or 0) > 5 else None  # type: ignore[return-value]


def processor_and_memory(fresh: Sandbox) -> None:
    """A busy processor shows, sampled once a second; what one poll has seen the next one leaves out."""
    fresh.exec("timeout 120 sh -c 'while :; do :; done' > /dev/null 2>&1 &")
    found = eventually(lambda: _busy(fresh))
    assert (found.sandbox_id, found.sandbox_status) == (fresh.id, "running")
    assert (found.sample_interval_seconds, found.window_seconds) == (1, 60)
    assert (found.cpu.cores, found.memory.limit_bytes) == (1, 1024 << 20)
    assert found.cpu.usage_cores is not None
    assert 0 < found.cpu.usage_percent <= 100  # type: ignore[operator]
    assert found.memory.usage_bytes is not None
    assert 1 << 20 < found.memory.usage_bytes < 2048 << 20
    assert abs(found.as_of - datetime.now(UTC)) < timedelta(minutes=1)
    times = [sample.t for sample in found.samples]
    assert times == sorted(times)
    assert len(times) <= 60
    last = times[-1]
    newer = eventually(lambda: [each for each in fresh.metrics(since=last).samples if each.t > last])
    assert len(newer) < 30


def lifetime_goes_on() -> None:
    """A paused sandbox uses nothing and keeps what it has used; resumed, it adds to it; ended, it keeps all."""
    with Sandbox.create(template="debian-12") as sbx:
        sbx.exec("timeout 2 sh -c 'while :; do :; done'")
        eventually(lambda: sbx.metrics().lifetime.cpu_seconds > 0.5)
        sbx.pause()
        paused = sbx.metrics()
        assert paused.sandbox_status == "paused"
        assert (paused.cpu.usage_cores, paused.cpu.usage_percent) == (None, None)
        assert (paused.memory.usage_bytes, paused.memory.usage_percent) == (None, None)
        assert paused.samples == []
        assert paused.lifetime.cpu_seconds > 0.5
        assert paused.lifetime.gb_seconds > 0
        Sandbox.resume(sbx.id).exec("timeout 2 sh -c 'while :; do :; done'")
        eventually(lambda: sbx.metrics().lifetime.cpu_seconds > paused.lifetime.cpu_seconds + 0.5)
        before = sbx.metrics().lifetime
    after = sbx.metrics()
    assert after.sandbox_status == "terminated"
    assert after.lifetime.cpu_seconds >= before.cpu_seconds
    assert after.lifetime.gb_seconds >= before.gb_seconds


def other_tenants_figures(sandbox: Sandbox, keys: dict[str, str]) -> None:
    """There is no such sandbox."""
    sandbox._client = OrkestrClient(api_key=keys["stranger"])
    raises(SandboxNotFound, sandbox.metrics)
