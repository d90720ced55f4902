"""The figures for monitoring: what a node says of itself reaches the text."""

from __future__ import annotations

from terpd.api.metrics import Metrics
from terpd.model.ports import NodeCapacity


def test_saved_states_and_room() -> None:
    """By kind, and as they are now: not added up over the times that were asked."""
    metrics = Metrics()
    capacity = NodeCapacity(1, 2, 3, 4, disk_free_bytes=1 << 30)

    metrics.render(capacity, {"paused": 5, "snapshot": 1})
    text = metrics.render(capacity, {"paused": 2, "snapshot": 0}).decode()

    assert 'terp_saved_states{kind="paused"} 2.0' in text
    assert 'terp_saved_states{kind="snapshot"} 0.0' in text
    assert "terp_disk_free_bytes 1.073741824e+09" in text
