"""What sandboxes have used: queries, and the part of the store that it is."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from terpd.model.errors import SandboxNotFound
from terpd.model.ids import SandboxId, TenantId
from terpd.model.usage import MachineTotal, Usage
from terpd.store.engine import Transactions
from terpd.store.queries import of_tenant, select_sandbox
from terpd.store.schema import daily_usage, sandboxes, usage

_EPOCH = dt.date(1970, 1, 1)
_AT_ONCE = 500  # engines bound how many values a statement may have

_bind = sa.bindparam
_of_ids: sa.BindParameter[Sequence[str]] = _bind("ids", expanding=True)
_select_tenants_of_all = sa.select(sandboxes.c.id, sandboxes.c.tenant).where(sandboxes.c.id.in_(_of_ids))
_select_known_of_all = sa.select(usage).where(usage.c.machine.in_(_of_ids))
_insert = sa.insert(usage)
_update = (
    sa.update(usage)
    .where(usage.c.sandbox_id == _bind("of_sandbox"), usage.c.machine == _bind("of_machine"))
    .values(cpu_us=_bind("new_cpu_us"), memory_byte_s=_bind("new_memory_byte_s"))
)
_insert_day = sa.insert(daily_usage)
_increase_day = (
    sa.update(daily_usage)
    .where(of_tenant(daily_usage), daily_usage.c.day == _bind("of_day"))
    .values(
        cpu_us=daily_usage.c.cpu_us + _bind("add_cpu_us"),
        memory_byte_s=daily_usage.c.memory_byte_s + _bind("add_memory_byte_s"),
    )
)
_sum = sa.select(sa.func.sum(usage.c.cpu_us), sa.func.sum(usage.c.memory_byte_s)).where(
    usage.c.sandbox_id == _bind("of_sandbox")
)
_select_days = (
    sa.select(daily_usage)
    .where(of_tenant(daily_usage), daily_usage.c.day.between(_bind("first"), _bind("last")))
    .order_by(daily_usage.c.day)
)


def _add(connection: sa.Connection, totals: Sequence[MachineTotal], at: dt.datetime) -> None:
    """As `Store.add_usage`, of `_AT_ONCE` at most."""
    found = connection.execute(_select_tenants_of_all, {"ids": [total.sandbox_id for total in totals]})
    tenants = {row.id: row.tenant for row in found}
    machines = connection.execute(_select_known_of_all, {"ids": [total.machine for total in totals]})
    known = {(row.sandbox_id, row.machine): (row.cpu_us, row.memory_byte_s) for row in machines}
    added: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for total in totals:
        tenant = tenants.get(total.sandbox_id)
        if tenant is None:
            continue
        was = known.get((total.sandbox_id, total.machine))
        cpu_us, memory = max(total.cpu_us, was[0] if was else 0), max(total.memory_byte_s, was[1] if was else 0)
        if was == (cpu_us, memory):
            continue
        if was is None:
            row = {
                "sandbox_id": total.sandbox_id,
                "machine": total.machine,
                "cpu_us": cpu_us,
                "memory_byte_s": memory,
            }
            connection.execute(_insert, row)
        else:
            values = {
                "of_sandbox": total.sandbox_id,
                "of_machine": total.machine,
                "new_cpu_us": cpu_us,
                "new_memory_byte_s": memory,
            }
            connection.execute(_update, values)
        known[total.sandbox_id, total.machine] = cpu_us, memory
        before = was or (0, 0)
        added[tenant] = added[tenant][0] + cpu_us - before[0], added[tenant][1] + memory - before[1]
    for tenant, (cpu_us, memory) in added.items():
        _count(connection, tenant, (at.astimezone(dt.UTC).date() - _EPOCH).days, cpu_us, memory)


def _count(connection: sa.Connection, tenant: str, day: int, cpu_us: int, memory_byte_s: int) -> None:
    values = {"of_tenant": tenant, "of_day": day, "add_cpu_us": cpu_us, "add_memory_byte_s": memory_byte_s}
    if connection.execute(_increase_day, values).rowcount == 0:
        row = {"tenant": tenant, "day": day, "cpu_us": cpu_us, "memory_byte_s": memory_byte_s}
        connection.execute(_insert_day, row)


class UsageRecords:
    """The usage of a Store."""

    _transactions: Transactions

    async def add_usage(self, totals: Collection[MachineTotal], *, at: dt.datetime) -> None:
        rest = list(totals)

        def work(connection: sa.Connection) -> None:
            for start in range(0, len(rest), _AT_ONCE):
                _add(connection, rest[start : start + _AT_ONCE], at)

        if rest:
            await self._transactions.write(work)

    async def usage(self, tenant: TenantId, sandbox_id: SandboxId) -> Usage:
        def work(connection: sa.Connection) -> tuple[int, int] | None:
            if connection.execute(select_sandbox, {"of_tenant": tenant, "sandbox_id": sandbox_id}).first() is None:
                return None
            cpu_us, memory = connection.execute(_sum, {"of_sandbox": sandbox_id}).one()
            return cpu_us or 0, memory or 0

        found = await self._transactions.read(work)
        if found is None:
            raise SandboxNotFound(f"There is no such sandbox: {sandbox_id}")
        return _usage(*found)

    async def tenant_usage(
        self, tenant: TenantId, *, since: dt.date, until: dt.date
    ) -> Sequence[tuple[dt.date, Usage]]:
        values = {"of_tenant": tenant, "first": (since - _EPOCH).days, "last": (until - _EPOCH).days}
        rows = await self._transactions.read(lambda c: c.execute(_select_days, values).all())
        return [(_EPOCH + dt.timedelta(days=row.day), _usage(row.cpu_us, row.memory_byte_s)) for row in rows]


def _usage(cpu_us: int, memory_byte_s: int) -> Usage:
    return Usage(cpu_us / 1e6, memory_byte_s / 1e9)
