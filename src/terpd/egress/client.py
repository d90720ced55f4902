"""
terpd's end of the gateway: starts the process, tells it what to serve, and takes its records.

What was admitted is kept here. When the process dies, nothing passes until another has been told of it all again:
the listening sockets are held here, too, so what guests dial meanwhile waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from terpd.egress.base import Authority, Sockets
from terpd.egress.gateway import wire
from terpd.egress.upstream import Upstream
from terpd.model.errors import Unavailable
from terpd.model.ids import SandboxId
from terpd.model.network import EgressRecord, NetworkSpec

log = structlog.get_logger()

NOBODY = 65534
_READY_S = 20.0  # a start takes 0.4 s; a host that swaps or starves may take very much longer
_ACK_S = 10.0  # a dismissal waits up to 5 s for connections to end
_RESTART_S = (0.1, 0.5, 2.0, 5.0)  # the last repeats
_STABLE_S = 30.0
_MAX_RECORDS = 20_000
_AWAY = "The network gateway of this server is not running; try again, and see the server's log if this goes on"


@dataclass(frozen=True, slots=True)
class _Admitted:
    """*fds* are duplicates: the sandbox's own may be closed any time."""

    fds: tuple[int, int, int]
    network: NetworkSpec | None
    authority: Authority | None


class GatewayClient:
    """
    The port Gateway. `open` it, and `close` it at the end. `admit` and `update` also raise ValueError, for a list of
    domains that cannot be read; all is then as before, or as after a dismissal.

    Args:
        uid: What the process runs as when this one is root; nobody else's, for it can read the credentials.
    """

    def __init__(self, upstream: Upstream, *, uid: int = NOBODY) -> None:
        self._upstream = upstream
        self._uid = uid
        self._admitted: dict[SandboxId, _Admitted] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._acks: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._keeping: asyncio.Task[None] | None = None
        self._records: deque[EgressRecord] = deque(maxlen=_MAX_RECORDS)
        self._recorded = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Start the process. Raises Unavailable when it cannot be started."""
        self._keeping = asyncio.create_task(self._keep(), name="gateway")
        try:
            await self._until_ready()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the process, and with it all connections. `records` ends once all that arrived was taken."""
        self._closed = True
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        for admitted in self._admitted.values():
            _close(admitted.fds)
        self._admitted.clear()
        self._recorded.set()

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    async def admit(
        self, sandbox_id: SandboxId, sockets: Sockets, network: NetworkSpec | None, authority: Authority | None
    ) -> None:
        await self._until_ready()
        fds = (os.dup(sockets.tcp), os.dup(sockets.dns_udp), os.dup(sockets.dns_tcp))
        before = self._admitted.get(sandbox_id)
        self._admitted[sandbox_id] = admitted = _Admitted(fds, network, authority)
        if before is not None:
            _close(before.fds)
        try:
            await self._act(_admission(sandbox_id, admitted), fds)
        except ValueError:
            self._admitted.pop(sandbox_id, None)
            _close(fds)
            raise

    async def update(self, sandbox_id: SandboxId, network: NetworkSpec) -> None:
        admitted = self._admitted.get(sandbox_id)
        if admitted is None:
            raise Unavailable("This sandbox's network is not served here", context={"sandbox": sandbox_id})
        # First here: a gateway that is started from now on is told this.
        self._admitted[sandbox_id] = replace(admitted, network=network)
        await self._until_ready()
        try:
            await self._act({"do": "update", "sandbox": sandbox_id, "network": wire.from_network(network)})
        except ValueError:
            self._admitted[sandbox_id] = admitted
            raise

    async def dismiss(self, sandbox_id: SandboxId) -> None:
        admitted = self._admitted.pop(sandbox_id, None)
        if admitted is None:
            return
        _close(admitted.fds)
        if self._ready.is_set():  # otherwise its connections ended with the process
            with contextlib.suppress(Unavailable):
                await self._act({"do": "dismiss", "sandbox": sandbox_id})

    async def records(self) -> AsyncIterator[Sequence[EgressRecord]]:
        """What was recorded, in batches, until `close`. If nobody takes them the oldest are lost, as the log says."""
        while True:
            await self._recorded.wait()
            self._recorded.clear()
            if self._records:
                batch = list(self._records)
                self._records.clear()
                yield batch
            if self._closed and not self._records:
                return

    async def _until_ready(self) -> None:
        if self._closed:
            raise Unavailable("This server is being stopped")
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise Unavailable(_AWAY) from error

    async def _act(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """
        Raises:
            Unavailable: It was not done, or is no more. A gateway that is silent is ended, so that none that was not
                told serves on.
            ValueError: The gateway refused it.
        """
        number = next(self._numbers)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks[number] = done
        try:
            async with asyncio.timeout(_ACK_S):
                await self._send({**message, "n": number}, fds)
                await done
        except (TimeoutError, OSError) as error:
            self._kill()
            raise Unavailable(_AWAY, context={"act": message["do"], "error": type(error).__name__}) from error
        finally:
            self._acks.pop(number, None)

    async def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        own = [os.dup(fd) for fd in fds]  # whoever closes them while this waits: the numbers stay these sockets'
        try:
            while (control := self._control) is not None:
                try:
                    wire.send(control, message, own)
                except BlockingIOError:
                    await asyncio.sleep(0.01)  # 200 KiB are under way to it: it is busy
                else:
                    return
        finally:
            _close(own)
        raise ConnectionError("there is no gateway")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    # ---- the process -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                began = loop.time()
                try:
                    await self._start()
                    await self._lost.wait()
                    log.error("the gateway ended", status=self._ended())
                except (OSError, EOFError, Unavailable) as error:
                    log.error("the gateway cannot be started", error=repr(error))  # noqa: TRY400  the text says it all
                await self._end()
                failures = 0 if loop.time() - began > _STABLE_S else failures + 1
                await asyncio.sleep(_RESTART_S[min(failures, len(_RESTART_S)) - 1] if failures else _RESTART_S[0])
        finally:
            await self._end()

    async def _start(self) -> None:
        """Start it and tell it everything; it is `_ready` then."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._control = ours
        self._lost.clear()
        with theirs:
            self._process = self._spawn(theirs.fileno())
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks[0] = started
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read, ours)
        try:
            async with asyncio.timeout(_READY_S):
                await self._send({"do": "configure", "upstream": wire.from_upstream(self._upstream)})
                await started
                await self._tell_all()
        finally:
            self._acks.pop(0, None)
        log.info("the gateway serves", pid=self._process.pid, sandboxes=len(self._admitted))
        self._ready.set()

    async def _tell_all(self) -> None:
        """Return when a new gateway knows what there is to know at that moment, whatever changed meanwhile."""
        told: dict[SandboxId, _Admitted] = {}
        while told != self._admitted:
            for sandbox_id in told.keys() - self._admitted.keys():
                del told[sandbox_id]
                await self._act({"do": "dismiss", "sandbox": sandbox_id})
            for sandbox_id, admitted in list(self._admitted.items()):
                if told.get(sandbox_id) == admitted or self._admitted.get(sandbox_id) is not admitted:
                    continue
                told[sandbox_id] = admitted
                try:
                    await self._act(_admission(sandbox_id, admitted), admitted.fds)
                except ValueError as error:
                    log.error("a sandbox was not admitted again", sandbox=sandbox_id, error=str(error))  # noqa: TRY400

    def _spawn(self, control: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # It gives root up itself, once it has read its own code, which others may not be able to read.
            [
                sys.executable,
                "-m",
                "terpd.egress.gateway",
                str(control),
                *([str(self._uid)] if os.geteuid() == 0 else []),
            ],
            pass_fds=(control,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # an operator's Ctrl-C is for terpd, which closes the socket
            cwd="/",
            env=_environment(),
        )

    def _read(self, control: socket.socket) -> None:
        try:
            while True:
                message, _ = wire.receive(control)
                self._take(message)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(control.fileno())
            self._ready.clear()
            for ack in self._acks.values():
                if not ack.done():
                    ack.set_exception(ConnectionError("the gateway ended"))
            self._lost.set()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "records" in message:
            lost = message["dropped"] + max(0, len(self._records) + len(message["records"]) - _MAX_RECORDS)
            if lost:
                log.error("records of connections were lost", count=lost)
            self._records.extend(wire.to_record(each) for each in message["records"])
            self._recorded.set()
            return
        ack = self._acks.get(message.get("ack", 0))
        if ack is None or ack.done():
            return
        if "error" in message:
            ack.set_exception(ValueError(message["error"]))
        else:
            ack.set_result(None)

    def _ended(self) -> int | None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1)
        return None

    async def _end(self) -> None:
        """Let nothing of the process be left."""
        self._ready.clear()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            process.send_signal(signal.SIGKILL)
            await asyncio.shield(asyncio.to_thread(process.wait))


def _admission(sandbox_id: SandboxId, admitted: _Admitted) -> Mapping[str, Any]:
    return {
        "do": "admit",
        "sandbox": sandbox_id,
        "network": wire.from_network(admitted.network),
        "authority": wire.from_authority(admitted.authority),
    }


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _environment() -> Mapping[str, str]:
    """Nothing of terpd's, which holds its keys, but where the interpreter and certificates are."""
    kept = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    # Names are whole: no search list. A server that does not answer is not waited for as long as a person would.
    return {**found, "LOCALDOMAIN": "", "RES_OPTIONS": "timeout:2 attempts:2", "PYTHONDONTWRITEBYTECODE": "1"}
