"""Saved states: what a sandbox keeps of its pause, data keys, snapshots, receipts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns are added in place and not by a batch, which on SQLite makes the table anew: dropping the old one would
    # cascade to its metadata and idempotency keys.
    added = (
        sa.Column("lease_s", sa.Integer, nullable=False, server_default="600"),
        sa.Column("window_began_at", sa.BigInteger),
        sa.Column("snapshot", sa.String(40)),
        sa.Column("state_id", sa.String(40)),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("paused_expires_at", sa.BigInteger),
        sa.Column("key_id", sa.String(40)),
        sa.Column("sealed_key", sa.LargeBinary),
    )
    for column in added:
        op.add_column("sandboxes", column)
    # Old sandboxes have no data key: they run on, and cannot be saved. Their lease is the whole time they were given.
    op.execute(
        "UPDATE sandboxes SET window_began_at = started_at, lease_s = (expires_at - created_at + 500000) / 1000000"
    )
    op.create_index(
        "ix_sandboxes_node_id_status_paused_expires_at", "sandboxes", ["node_id", "status", "paused_expires_at"]
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("source", sa.String(40), nullable=False),
        sa.Column("template", sa.String(64), nullable=False),
        sa.Column("size", sa.String(32), nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("node_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("for_fork", sa.Boolean, nullable=False),
        sa.Column("ready_at", sa.BigInteger),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.Column("stopped_ms", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("key_id", sa.String(40)),
        sa.Column("sealed_key", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_tenant_id", "snapshots", ["tenant", "id"])
    op.create_index("ix_snapshots_node_id", "snapshots", ["node_id"])
    op.create_table(
        "receipts",
        sa.Column("subject", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("server_key_id", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_receipts"),
    )
    op.create_index("ix_receipts_tenant_at", "receipts", ["tenant", "at"])


def downgrade() -> None:
    op.drop_table("receipts")
    op.drop_table("snapshots")
    op.drop_index("ix_sandboxes_node_id_status_paused_expires_at", "sandboxes")
    for name in (
        "sealed_key",
        "key_id",
        "paused_expires_at",
        "stored_bytes",
        "state_id",
        "snapshot",
        "window_began_at",
        "lease_s",
    ):
        op.drop_column("sandboxes", name)
