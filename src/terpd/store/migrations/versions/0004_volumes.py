"""Volumes, and who holds them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("volume", sa.Text))
    op.add_column("sandboxes", sa.Column("volume_id", sa.String(40)))
    op.create_table(
        "volumes",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("size_mib", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("node_id", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("attached_to", sa.String(40)),
        sa.Column("lifetime_days", sa.Integer),
        sa.Column("lifetime_hours", sa.Integer),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("key_id", sa.String(40)),
        sa.Column("sealed_key", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_volumes"),
        sa.UniqueConstraint("tenant", "name", name="uq_volumes_tenant"),
    )
    op.create_index("ix_volumes_tenant_id", "volumes", ["tenant", "id"])
    op.create_index("ix_volumes_attached_to", "volumes", ["attached_to"])
    op.create_index("ix_volumes_node_id", "volumes", ["node_id"])


def downgrade() -> None:
    op.drop_table("volumes")
    for name in ("volume_id", "volume"):
        op.drop_column("sandboxes", name)
