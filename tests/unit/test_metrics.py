"""The figures for monitoring: what a node says of itself reaches the text."""

from __future__ import annotations

from terpd.api.metrics import Figures, Metrics
from terpd.model.ports import NodeCapacity


def test_saved_states_and_room() -> None:
    """By kind, and as they are now: not added up over the times that were asked."""
    metrics = Metrics()
    capacity = NodeCapacity(1, 2, 3, 4, disk_free_bytes=1 << 30)

    metrics.render(capacity, Figures({"paused": 5, "snapshot": 1}))
    text = metrics.render(capacity, Figures({"paused": 2, "snapshot": 0})).decode()

    assert 'terp_saved_states{kind="paused"} 2.0' in text
    assert 'terp_saved_states{kind="snapshot"} 0.0' in text
    assert "terp_disk_free_bytes 1.073741824e+09" in text


def test_counts_of_others() -> None:
    """As they are, by outcome; a counter that is kept elsewhere is not added up here."""
    metrics = Metrics()
    figures = Figures({}, volumes=3, deliveries_waiting=4, tries={"delivered": 2, "retried": 1}, cpu_seconds=1.5)

    metrics.render(NodeCapacity(1, 2, 3, 4), figures)
    text = metrics.render(NodeCapacity(1, 2, 3, 4), figures).decode()

    assert "terp_volumes 3.0" in text
    assert "terp_webhook_deliveries_waiting 4.0" in text
    assert 'terp_webhook_tries_total{outcome="delivered"} 2.0' in text
    assert "terp_node_cpu_seconds_total 1.5" in text
