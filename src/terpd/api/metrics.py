"""Figures for monitoring. Labels come from the route table, never from a request, so that their number is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from terpd.model.ports import NodeCapacity

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What others count.

    Attributes:
        saved: Saved states by kind.
        deliveries_waiting: In the outbox of webhooks.
        tries: To deliver, since the start, by outcome.
        cpu_seconds: Of all machines, since the start.
    """

    saved: Mapping[str, int]
    volumes: int = 0
    deliveries_waiting: int = 0
    tries: Mapping[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0


class _Counts(Collector):
    """Counters that are kept elsewhere, by the values of one label, if there is one."""

    def __init__(self, name: str, help_text: str, label: str | None = None) -> None:
        self._name = name
        self._help = help_text
        self._label = label
        self.counts: Mapping[str, float] = {}

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=[self._label] if self._label else [])
        for value, count in self.counts.items():
            family.add_metric([value] if self._label else [], count)
        yield family


class Metrics:
    """One per app; nothing is global, so several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "terp_http_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "terp_http_request_seconds",
            "Time from a request's head to the end of its answer",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._machines = Gauge("terp_node_machines", "Machines on this node", registry=self.registry)
        self._machines_cap = Gauge("terp_node_machines_cap", "Machines admitted at most", registry=self.registry)
        self._warm = Gauge("terp_node_machines_warm", "Machines waiting in pools", registry=self.registry)
        self._memory = Gauge("terp_node_guest_memory_mib", "Guest memory promised, MiB", registry=self.registry)
        self._memory_cap = Gauge("terp_node_guest_memory_cap_mib", "Guest memory at most, MiB", registry=self.registry)
        self._disk_free = Gauge(
            "terp_disk_free_bytes",
            "Room for saved states on disk, above the reserve",
            registry=self.registry,
        )
        self._saved = Gauge("terp_saved_states", "Saved states of this node", ("kind",), registry=self.registry)
        self._volumes = Gauge("terp_volumes", "Volumes of this node", registry=self.registry)
        self._waiting = Gauge("terp_webhook_deliveries_waiting", "Deliveries to be sent", registry=self.registry)
        self._tries = _Counts("terp_webhook_tries", "Tries to deliver by outcome, since the start", "outcome")
        self._cpu = _Counts("terp_node_cpu_seconds", "Processor time of machines, since the start")
        self.registry.register(self._tries)
        self.registry.register(self._cpu)

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self, capacity: NodeCapacity, figures: Figures) -> bytes:
        self._machines.set(capacity.machines_used)
        self._machines_cap.set(capacity.machines_cap)
        self._warm.set(capacity.machines_warm)
        self._memory.set(capacity.memory_used_mib)
        self._memory_cap.set(capacity.memory_cap_mib)
        if capacity.disk_free_bytes is not None:
            self._disk_free.set(capacity.disk_free_bytes)
        for kind, number in figures.saved.items():
            self._saved.labels(kind).set(number)
        self._volumes.set(figures.volumes)
        self._waiting.set(figures.deliveries_waiting)
        self._tries.counts = figures.tries
        self._cpu.counts = {"": figures.cpu_seconds}
        return generate_latest(self.registry)
