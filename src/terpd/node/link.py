"""
The link to one machine's guest: a session, made again when it breaks, and taken away while the machine is captured.

    apart ──connect──► linked ──lost──► linked again, after some attempts
      ▲                  │
      └──── part ────────┘          (nobody is connected, and nobody tries)
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from terpd.model.errors import GuestFault, TerpError
from terpd.node.guest.client import GuestClient, WakeUp

log = structlog.get_logger()

WAKE_TIMEOUT_S = 25.0  # 30-40 ms under emulation on an idle host; below the 30 s after which clients hang up
_RECONNECT_S = (0.1, 0.5, 2.0, 5.0)  # between attempts to reach a guest that broke off; the last repeats
_STABLE_S = 10.0  # a session that lasted this long starts the attempts anew
_RETURN_S = 10.0  # how long a command's stream waits for its guest


def going_on(withheld: Mapping[str, str] | None = None) -> WakeUp:
    """
    What a guest needs that goes on as the one it was: new entropy, the clock of now, and the variables that a freeze
    *withheld*.
    """
    return WakeUp(secrets.token_bytes(64), time.time_ns(), keep_env=True, ephemeral_env=withheld or {})


class Parted(GuestFault):
    """Nobody is to be connected now."""


class Link:
    """
    Args:
        wanted: Asked when the guest was lost; False leaves it so.
    """

    def __init__(self, machine: str, agent_socket: Path, wanted: Callable[[], bool]) -> None:
        self._machine = machine
        self._socket = agent_socket
        self._wanted = wanted
        self._guest: GuestClient | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._parted = False
        self._over = False

    @property
    def answers(self) -> bool:
        """Whether the guest can be reached, as far as is known."""
        return self._guest is not None and not self._guest.lost.done()

    @property
    def guest(self) -> GuestClient:
        """Raises GuestFault while the guest cannot be reached."""
        if self._guest is None or self._guest.lost.done():
            raise GuestFault("The sandbox's guest agent does not answer; terminate the sandbox if this goes on")
        return self._guest

    async def connect(self, wake: WakeUp | None, *, fresh: bool, timeout_s: float = WAKE_TIMEOUT_S) -> GuestClient:
        """
        Connect a link that is apart and, with *wake*, wake the guest. See `GuestClient.connect` for *fresh*.

        Raises:
            GuestFault: It did not answer, or did not confirm its wake-up. The link is apart as before.
        """
        if wake is None:
            guest = await GuestClient.connect(self._socket, fresh=fresh, timeout_s=timeout_s)
        else:
            guest = await GuestClient.connect_and_wake(self._socket, wake, fresh=fresh, timeout_s=timeout_s)
        self.take(guest)
        return guest

    def take(self, guest: GuestClient | None) -> None:
        """Go on with a session at hand or, without one, try to make one."""
        self._guest = guest
        self._parted = False
        self._notify()
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name=f"guest of {self._machine}")

    async def part(self) -> None:
        """End the session, if there is one, and make no other until `connect`."""
        self._parted = True
        self._notify()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        if self._guest is not None:
            await self._guest.close()
            self._guest = None

    async def end(self) -> None:
        """As `part`, for good: the machine is gone, or another daemon's from here on."""
        self._over = True
        await self.part()
        self._notify()

    async def next(self, lost: GuestClient) -> GuestClient:
        """
        Return the session that follows a lost one.

        Raises:
            Parted: The link is apart.
            GuestFault: There is none after some seconds, or there will be none.
        """
        deadline = asyncio.get_running_loop().time() + _RETURN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self._over:
                    if self._parted:
                        raise Parted("The sandbox's guest is not connected while the sandbox is being saved")
                    if self._guest is not None and self._guest is not lost and not self._guest.lost.done():
                        return self._guest
                    self._changed.clear()
                    await self._changed.wait()
        fault = lost.lost.result() if lost.lost.done() else GuestFault("The guest is lost")
        raise GuestFault(fault.detail, context=fault.context)

    def _notify(self) -> None:
        self._changed.set()

    async def _keep(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            if self._guest is not None:
                await asyncio.wait([self._guest.lost])
            if not self._wanted():
                return
            if time.monotonic() - began > _STABLE_S:
                attempt = 0
            await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
            attempt += 1
            with contextlib.suppress(TerpError, OSError):
                guest = await GuestClient.connect(self._socket, fresh=False, timeout_s=WAKE_TIMEOUT_S)
                try:
                    if guest.greeting.state != "awake":  # it was frozen and never heard, or confirmed, its wake-up
                        await guest.wake(going_on(), timeout_s=WAKE_TIMEOUT_S)
                except BaseException:
                    await guest.close()
                    raise
                self._guest = guest
                self._notify()
                log.info("guest reconnected", machine=self._machine, attempt=attempt)
