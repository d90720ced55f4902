"""
The tables. Portable SQL only: a time is an integer of microseconds since the epoch, a mapping or list is JSON text.

`sandbox_metadata` repeats the sandbox's metadata row by row, because that is what a filter can be answered from
with an index on every engine; `sandboxes.metadata` is what is shown.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import sqlalchemy as sa

REVISION = "0005"  # of the migrations; the code refuses a database that is newer

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class UtcTime(sa.types.TypeDecorator[dt.datetime]):
    """An aware time as whole microseconds since the epoch; a naive one is refused."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        if value is None:
            return None
        return (value - _EPOCH) // _MICROSECOND  # raises TypeError for a naive time

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> dt.datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + value * _MICROSECOND


class JsonText(sa.types.TypeDecorator[Any]):
    """A value as JSON text, the same on every engine."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(value)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

sandboxes = sa.Table(
    "sandboxes",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("template", sa.String(64), nullable=False),
    sa.Column("size", sa.String(32), nullable=False),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("memory_mib", sa.Integer, nullable=False),
    sa.Column("network", sa.String(16), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("node_id", sa.String(64), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False),
    sa.Column("on_timeout", sa.String(8), nullable=False),
    sa.Column("auto_resume", sa.Boolean, nullable=False),
    sa.Column("metadata", JsonText, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("ended_at", UtcTime),
    sa.Column("end_reason", sa.String(16)),
    sa.Column("lease_s", sa.Integer, nullable=False, server_default="600"),  # the default is for old rows only
    sa.Column("window_began_at", UtcTime),
    sa.Column("snapshot", sa.String(40)),
    sa.Column("state_id", sa.String(40)),
    sa.Column("stored_bytes", sa.BigInteger),
    sa.Column("paused_expires_at", UtcTime),
    sa.Column("key_id", sa.String(40)),
    sa.Column("sealed_key", sa.LargeBinary),
    sa.Column("allow_domains", JsonText),  # a list of names
    sa.Column("report_only", sa.Boolean, nullable=False, server_default=sa.false()),  # this and the next: as above
    sa.Column("preview_auth", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("credentials", JsonText),  # a list of mappings, without values
    sa.Column("volume", sa.Text),  # the volume's name then
    sa.Column("volume_id", sa.String(40)),
    sa.Index(None, "tenant", "id"),  # pages, newest first
    sa.Index(None, "tenant", "status"),  # those of a tenant that count against its limits
    sa.Index(None, "node_id", "status", "expires_at"),  # leases of those that run, and reconciliation
    sa.Index(None, "node_id", "status", "paused_expires_at"),  # the ends of those that are paused
)

sandbox_metadata = sa.Table(
    "sandbox_metadata",
    metadata,
    sa.Column("sandbox_id", sa.ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String(256), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("scopes", sa.String(256), nullable=False),  # space-separated
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("sandbox_id", sa.ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_at", UtcTime, nullable=False, index=True),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("source", sa.String(40), nullable=False),  # a sandbox; no foreign key, for a snapshot outlives it
    sa.Column("template", sa.String(64), nullable=False),
    sa.Column("size", sa.String(32), nullable=False),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("memory_mib", sa.Integer, nullable=False),
    sa.Column("network", sa.String(16), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("node_id", sa.String(64), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("for_fork", sa.Boolean, nullable=False),
    sa.Column("ready_at", UtcTime),
    sa.Column("stored_bytes", sa.BigInteger),
    sa.Column("stopped_ms", sa.Double),
    sa.Column("error", sa.Text),
    sa.Column("key_id", sa.String(40)),
    sa.Column("sealed_key", sa.LargeBinary),
    sa.Column("allow_domains", JsonText),
    sa.Column("report_only", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index(None, "tenant", "id"),  # newest first
    sa.Index(None, "node_id"),  # what is kept there
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("subject", sa.String(40), primary_key=True),  # has one data key in its life, which is destroyed once
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("key_id", sa.String(40), nullable=False),
    sa.Column("server_key_id", sa.String(40), nullable=False),
    sa.Index(None, "tenant", "at"),  # newest first
)

# No foreign keys: what a sandbox sent stays on record, also if its create was undone.
egress = sa.Table(
    "egress",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("sandbox_id", sa.String(40), nullable=False),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("protocol", sa.String(16), nullable=False),
    sa.Column("name", sa.String(256)),
    sa.Column("address", sa.String(64)),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("bytes_out", sa.BigInteger, nullable=False),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.Column("credential", sa.String(128)),
    sa.Index(None, "sandbox_id", "id"),  # pages, newest first
    sa.Index(None, "at"),  # what is old
)

traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("sandbox_id", sa.String(40), primary_key=True),
    sa.Column("bytes_out", sa.BigInteger, nullable=False),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("connections", sa.BigInteger, nullable=False),
    sa.Column("blocked", sa.BigInteger, nullable=False),
)

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.Text),  # null once it is DELETING, so that the name is free
    sa.Column("size_mib", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("node_id", sa.String(64)),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("attached_to", sa.String(40)),  # a sandbox
    sa.Column("lifetime_days", sa.Integer),
    sa.Column("lifetime_hours", sa.Integer),
    sa.Column("expires_at", UtcTime),
    sa.Column("key_id", sa.String(40)),
    sa.Column("sealed_key", sa.LargeBinary),
    sa.UniqueConstraint("tenant", "name"),
    sa.Index(None, "tenant", "id"),  # newest first
    sa.Index(None, "attached_to"),
    sa.Index(None, "node_id"),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("event_types", JsonText),  # a list of types; null for all
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_delivery_at", UtcTime),
    sa.Column("last_error", sa.Text),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Index(None, "tenant", "id"),
)

# The outbox: what is pending is written in the transaction of what happened.
deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("webhook_id", sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("next_try_at", UtcTime, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("response_status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("finished_at", UtcTime),
    sa.Column("body", sa.LargeBinary, nullable=False),  # last: SQLite reads a row up to the last column asked for
    sa.Index(None, "webhook_id", "id"),  # newest first
    sa.Index(None, "webhook_id", "status", "id"),  # how many wait, and the oldest of them
    sa.Index(None, "status", "next_try_at"),  # what is due
    sa.Index(None, "finished_at"),  # what is old
)

# What each machine of a sandbox has used; one row a machine, so that recording a total twice changes nothing.
usage = sa.Table(
    "usage",
    metadata,
    sa.Column("sandbox_id", sa.String(40), primary_key=True),
    sa.Column("machine", sa.String(64), primary_key=True),
    sa.Column("cpu_us", sa.BigInteger, nullable=False),
    sa.Column("memory_byte_s", sa.BigInteger, nullable=False),
)

# By tenant and day, increased in the transaction that records what a machine has used since.
daily_usage = sa.Table(
    "daily_usage",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),  # since the Unix epoch, UTC
    sa.Column("cpu_us", sa.BigInteger, nullable=False),
    sa.Column("memory_byte_s", sa.BigInteger, nullable=False),
)
