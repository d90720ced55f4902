"""Figures for monitoring. Labels come from the route table, never from a request, so that their number is bounded."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from terpd.model.ports import NodeCapacity

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


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

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self, capacity: NodeCapacity, saved: Mapping[str, int]) -> bytes:
        """*saved* are numbers of saved states by kind."""
        self._machines.set(capacity.machines_used)
        self._machines_cap.set(capacity.machines_cap)
        self._warm.set(capacity.machines_warm)
        self._memory.set(capacity.memory_used_mib)
        self._memory_cap.set(capacity.memory_cap_mib)
        if capacity.disk_free_bytes is not None:
            self._disk_free.set(capacity.disk_free_bytes)
        for kind, number in saved.items():
            self._saved.labels(kind).set(number)
        return generate_latest(self.registry)
