"""
The rate of this host's time-stamp counter.

Under TCG a guest reads the host's TSC. Telling its kernel the rate saves the boot-time calibration, which hangs one
boot in eight when the emulated timers are late (docs/adr/0002-machine.md).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import time
from pathlib import Path

# rdtsc; shl rdx,32; or rax,rdx; ret: reads the counter into the return register (Intel SDM vol. 2B, RDTSC).
_READ_TSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def measure_khz(window_s: float = 0.2) -> int:
    """
    Measure the counter against CLOCK_MONOTONIC_RAW.

    Args:
        window_s: How long to measure, in seconds; 0.2 is good for about 10 parts per million.

    Returns:
        Kilohertz, rounded to 1.
    """
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ_TSC)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
        ticks, ns = int(read()), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        time.sleep(window_s)
        ticks_after, ns_after = int(read()), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        del read
    return round((ticks_after - ticks) * 1_000_000 / (ns_after - ns))


def host_khz(home: Path) -> int:
    """
    Return this host's rate, measured once a boot and remembered in `tsc.json` under *home*.

    Snapshots are bound to the rate; measuring anew each time would differ by a few parts per million.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    remembered = home / "tsc.json"
    try:
        found = json.loads(remembered.read_text())
        if found["boot_id"] == boot_id:
            return int(found["khz"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    khz = measure_khz()
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".tsc.json.{os.getpid()}"  # several daemons may start at once
    temporary.write_text(json.dumps({"boot_id": boot_id, "khz": khz}))
    temporary.rename(remembered)
    return khz
