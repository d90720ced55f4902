"""Recording connections: part of its caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from terpd.model.ids import SandboxId
from terpd.model.network import MAX_EGRESS_RECORDS, Decision, EgressRecord
from terpd.store import queries
from terpd.store.rows import egress_to_row, traffic_from_row

THIN_EVERY = 1000  # new records of one sandbox: counting them costs a millisecond
_IDS_AT_ONCE = 500  # engines bound how many values a statement may have


def add_egress(connection: sa.Connection, records: Sequence[EgressRecord]) -> None:
    """As `Store.add_egress`."""
    new = {record.id: record for record in records}
    ids = list(new)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        values = {"ids": ids[start : start + _IDS_AT_ONCE]}
        for known in connection.execute(queries.select_known_egress_of_all, values).scalars():
            del new[known]
    if not new:
        return
    connection.execute(queries.insert_egress, [egress_to_row(record) for record in new.values()])
    of_sandbox: defaultdict[SandboxId, list[EgressRecord]] = defaultdict(list)
    for record in new.values():
        of_sandbox[record.sandbox_id].append(record)
    for sandbox_id, its in of_sandbox.items():
        _meter(connection, sandbox_id, its)


def _meter(connection: sa.Connection, sandbox_id: SandboxId, new: Collection[EgressRecord]) -> None:
    blocked = sum(record.decision is Decision.BLOCKED for record in new)
    added = {
        "bytes_out": sum(record.bytes_out for record in new),
        "bytes_in": sum(record.bytes_in for record in new),
        "connections": len(new) - blocked,
        "blocked": blocked,
    }
    values = {"of_sandbox": sandbox_id, **{f"add_{name}": value for name, value in added.items()}}
    if connection.execute(queries.add_traffic_of_all, values).rowcount == 0:
        connection.execute(queries.insert_traffic, {"sandbox_id": sandbox_id, **added})
    total = traffic_from_row(connection.execute(queries.select_traffic_of_all, {"of_sandbox": sandbox_id}).one())
    ever = total.connections + total.blocked
    if ever > MAX_EGRESS_RECORDS and ever // THIN_EVERY != (ever - len(new)) // THIN_EVERY:
        _thin(connection, sandbox_id)


def _thin(connection: sa.Connection, sandbox_id: SandboxId) -> None:
    count = connection.execute(queries.count_egress_of_all, {"of_sandbox": sandbox_id}).scalar_one()
    if count > MAX_EGRESS_RECORDS:
        values = {"of_sandbox": sandbox_id, "excess": count - MAX_EGRESS_RECORDS}
        connection.execute(queries.thin_egress_of_all, values)
