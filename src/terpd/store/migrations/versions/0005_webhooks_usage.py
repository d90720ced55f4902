"""Webhooks with their outbox, and what sandboxes use."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("event_types", sa.Text),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_delivery_at", sa.BigInteger),
        sa.Column("last_error", sa.Text),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_tenant_id", "webhooks", ["tenant", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("webhook_id", sa.String(40), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("next_try_at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("response_status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id", ondelete="CASCADE"),
    )
    op.create_index("ix_deliveries_webhook_id_id", "deliveries", ["webhook_id", "id"])
    op.create_index("ix_deliveries_webhook_id_status_id", "deliveries", ["webhook_id", "status", "id"])
    op.create_index("ix_deliveries_status_next_try_at", "deliveries", ["status", "next_try_at"])
    op.create_index("ix_deliveries_finished_at", "deliveries", ["finished_at"])
    op.create_table(
        "usage",
        sa.Column("sandbox_id", sa.String(40), nullable=False),
        sa.Column("machine", sa.String(64), nullable=False),
        sa.Column("cpu_us", sa.BigInteger, nullable=False),
        sa.Column("memory_byte_s", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sandbox_id", "machine", name="pk_usage"),
    )
    op.create_table(
        "daily_usage",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("cpu_us", sa.BigInteger, nullable=False),
        sa.Column("memory_byte_s", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", name="pk_daily_usage"),
    )


def downgrade() -> None:
    for name in ("daily_usage", "usage", "deliveries", "webhooks"):
        op.drop_table(name)
