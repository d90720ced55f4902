"""All use cases of one server, wired to one store and one node: what the faces (HTTP, commands) are given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from terpd.control.alarm import Alarm
from terpd.control.at_work import AtWork
from terpd.control.awake import Awake
from terpd.control.builds import Builds
from terpd.control.clock import Clock, SystemClock
from terpd.control.code import Code
from terpd.control.collect import Collector
from terpd.control.commands import Commands
from terpd.control.create import CreateSandbox
from terpd.control.credentials import Credentials
from terpd.control.deliveries import Deliveries
from terpd.control.egress import Egress
from terpd.control.environment import Environment
from terpd.control.exec import RunCommand
from terpd.control.files import Files
from terpd.control.fork import ForkSandbox
from terpd.control.keys import Keys
from terpd.control.leases import Leases
from terpd.control.lookup import Lookup
from terpd.control.network import Networks, SetNetworkPolicy
from terpd.control.pause import PauseSandbox
from terpd.control.policy import Policy
from terpd.control.presign import Presign
from terpd.control.previews import Previews
from terpd.control.ptys import Ptys
from terpd.control.receipts import Receipts
from terpd.control.reconcile import Reconcile
from terpd.control.renew import RenewLease
from terpd.control.resume import ResumeSandbox
from terpd.control.shielded import Shielded
from terpd.control.snapshots import Snapshots
from terpd.control.terminate import TerminateSandbox
from terpd.control.trees import Trees
from terpd.control.usage import UsageMeter
from terpd.control.volumes import Volumes
from terpd.control.webhooks import Webhooks
from terpd.model.ports import Courier, Node, Store
from terpd.sealing.keyring import KeyRing

DRAIN_S = 10.0  # for what is under way when the server stops; a restart reaps what is left
RESTART_S = 1.0

_log = structlog.get_logger(__name__)


class Services:
    """
    Args:
        keys: The server's keys, which wrap the data key of each sandbox and snapshot.
        courier: Brings events to webhooks.
    """

    def __init__(
        self, store: Store, node: Node, policy: Policy, keys: KeyRing, courier: Courier, clock: Clock | None = None
    ) -> None:
        clock = clock or SystemClock()
        alarm = Alarm(clock)
        at_work = AtWork()
        shielded = self._shielded = Shielded()
        collector = self.collector = Collector(store, node, clock)
        changing = (store, node, policy, keys, clock, alarm, at_work, collector, shielded)
        self.store = store
        self.node = node
        credentials = Credentials()
        networks = Networks(store, node, credentials)
        volumes = self.volumes = Volumes(store, node, policy, keys, clock, shielded)
        self.create = CreateSandbox(*changing, networks, volumes)
        self.pause = PauseSandbox(*changing)
        self.resume = ResumeSandbox(*changing, networks, volumes)
        self.fork = ForkSandbox(*changing, networks)
        self.snapshots = Snapshots(store, node, policy, keys, clock, at_work, collector, shielded)
        self.terminate = TerminateSandbox(store, node, clock, collector, shielded, credentials)
        self.renew = RenewLease(store, policy, clock, alarm)
        self.leases = Leases(store, self.terminate, self.pause, clock, alarm, shielded, node.node_id)
        awake = Awake(store, self.resume, at_work, clock)
        self.exec = RunCommand(store, node, policy, awake, shielded)
        self.commands = Commands(store, node, policy, awake, clock, shielded)
        self.ptys = Ptys(store, node, awake, self.exec, clock, shielded)
        self.code = Code(store, node, policy, awake)
        self.environment = Environment(store, node, awake)
        self.files = Files(store, node, awake)
        self.trees = Trees(store, node, awake)
        self.presign = Presign(store, self.files, policy, keys, clock)
        self.network = SetNetworkPolicy(store, networks, at_work, shielded)
        self.egress = Egress(store, node, policy, clock)
        self.previews = Previews(store, node, policy, keys, awake)
        self.keys = Keys(store, clock)
        self.lookup = Lookup(store, node, policy)
        self.receipts = Receipts(store)
        self.webhooks = Webhooks(store, courier, keys, clock)
        self.deliveries = Deliveries(store, courier, keys, clock)
        self.usage = UsageMeter(store, node, clock)
        self.builds = Builds(store, node, clock)
        self.reconcile = Reconcile(store, node, policy, clock, alarm, at_work, collector, shielded, networks)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Reconcile, then watch leases and machines until the end of the block. Serve requests inside of it only.

        Sandboxes live on after the block: the next start adopts them.

        Raises:
            TerpError: Records or machines cannot be read.
        """
        await self.reconcile.at_start()
        await self.volumes.at_start()
        tasks = [
            asyncio.create_task(_kept_alive(name, loop), name=name)
            for name, loop in (
                ("leases", self.leases.run),
                ("exits", self.reconcile.watch_exits),
                ("sweeps", self.reconcile.run_sweeps),
                ("collections", self.collector.run),
                ("volumes", self.volumes.run),
                ("egress", self.egress.record),
                ("egress_pruning", self.egress.run_pruning),
                ("deliveries", self.deliveries.run),
                ("delivery_pruning", self.deliveries.run_pruning),
                ("usage", self.usage.run),
                ("builds", self.builds.run),
            )
        ]
        try:
            yield
        finally:
            await self._shielded.drain(DRAIN_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.usage.record()


async def _kept_alive(name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start a loop again that died of a bug: leases must end even then."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - a bug: logged, and the server goes on
            _log.exception("background_loop_died", loop=name)
        await asyncio.sleep(RESTART_S)
