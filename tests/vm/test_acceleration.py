"""The probe that decides on hardware virtualisation, with the kernel that machines boot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from terpd.daemon.config import default_home
from terpd.daemon.node import AGENT, LAUNCHER
from terpd.node.jail.root import prepare_root
from terpd.node.template.initrd import ensure_initrd
from terpd.node.template.kernel import find_kernel
from terpd.node.vmm.accel import MonitorEnded, Trial, boot_failure, probe
from terpd.node.vmm.tsc import host_khz

pytestmark = pytest.mark.vm

_UID = 865_001


@pytest.fixture(scope="module")
def trial() -> Trial:
    home = Path(os.environ.get("TERP_HOME") or default_home())
    kernel = find_kernel(home, "current")
    assert kernel is not None, "build a template first: make templates"
    return Trial(prepare_root(home), LAUNCHER, kernel.vmlinux, ensure_initrd(home, kernel, AGENT), _UID)


async def test_a_guest_that_boots(trial: Trial, tmp_path: Path) -> None:
    """The probe sees a boot that works: under emulation this kernel always does."""
    khz = host_khz(tmp_path)
    timing = f"tsc=reliable tsc_early_khz={khz} lpj={khz * 4} no_timer_check"

    assert await boot_failure(trial, accel="tcg", cmdline=timing, time_limit_s=90) is None


async def test_a_guest_that_does_not_boot(trial: Trial) -> None:
    """When the time is over, what the guest had said is told."""
    failure = await boot_failure(trial, accel="tcg", time_limit_s=0.01)

    assert failure is not None
    assert failure.startswith("a guest did not boot within")


async def test_a_monitor_that_refuses(trial: Trial) -> None:
    """QEMU's own words are told when it does not even start."""
    with pytest.raises(MonitorEnded, match="nonsense"):
        await boot_failure(trial, accel="nonsense")


async def test_a_host_without_kvm(trial: Trial, tmp_path: Path) -> None:
    """Without the device there is nothing to try and nothing to remember."""
    result = await probe(tmp_path, trial, device=tmp_path / "kvm")

    assert result.name == "tcg"
    assert os.listdir(tmp_path) == []  # noqa: PTH208  a pathlib call would count as blocking
    assert "No such file" in result.reason


async def test_the_answer_stays(trial: Trial, tmp_path: Path) -> None:
    """Asked twice, the probe answers alike, whatever this host is."""
    assert await probe(tmp_path, trial) == await probe(tmp_path, trial)
