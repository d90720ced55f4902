"""What SQLite reads for webhooks: of all tenants' deliveries only those that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from terpd.store import open_sqlite, webhooks
from terpd.store.engine import sqlite_engine

OF_ONE = "ix_deliveries_webhook_id_status_id (webhook_id=? AND status=?)"
QUERIES: dict[str, tuple[sa.ClauseElement, str]] = {
    "how many wait": (
        webhooks._count_pending.where(webhooks._of_it),
        f"SEARCH deliveries USING COVERING INDEX {OF_ONE}",
    ),
    "the oldest that wait": (webhooks._fail_oldest_pending, f"SEARCH deliveries USING COVERING INDEX {OF_ONE}"),
    "all that wait": (webhooks._fail_all_pending, f"SEARCH deliveries USING INDEX {OF_ONE}"),
    "newest first": (webhooks._select_deliveries, "ix_deliveries_webhook_id_id (webhook_id=?)"),
}


async def plan_of(directory: Path, query: sa.ClauseElement) -> list[Any]:
    await (await open_sqlite(directory / "t.db")).close()
    engine = sqlite_engine(directory / "t.db", writes=False, connections=1)
    with engine.connect() as connection:
        text = str(query.compile(dialect=engine.dialect))
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")).all()
    engine.dispose()
    return list(plan)


@pytest.mark.parametrize("name", QUERIES)
async def test_deliveries_of_a_webhook_are_found_in_an_index(tmp_path: Path, name: str) -> None:
    """However many wait for others: this is part of every change of a sandbox."""
    query, expected = QUERIES[name]
    plan = "\n".join(step.detail for step in await plan_of(tmp_path, query))
    assert expected in plan
    assert "(status=?" not in plan
    assert "SCAN deliveries" not in plan
    assert "TEMP B-TREE" not in plan


async def test_due_ones_are_sorted_without_their_bodies(tmp_path: Path) -> None:
    """Ids alone are ranked and sorted; the bodies are fetched by them, in order."""
    steps = await plan_of(tmp_path, webhooks._select_due_of_all)
    bodies = next(step for step in steps if step.detail.startswith("SEARCH deliveries"))
    assert bodies.parent == 0
    assert bodies.detail.endswith("(id=?)")
    assert "body" not in webhooks._due.c
    assert not any("TEMP B-TREE" in step.detail for step in steps if step.parent == 0)
