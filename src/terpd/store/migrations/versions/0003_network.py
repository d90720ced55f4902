"""Networks: a sandbox's policy, its connections, its traffic."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # In place, as 0002 says.
    for column in (
        sa.Column("allow_domains", sa.Text),
        sa.Column("report_only", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("preview_auth", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("credentials", sa.Text),
    ):
        op.add_column("sandboxes", column)
    op.add_column("snapshots", sa.Column("allow_domains", sa.Text))
    op.add_column("snapshots", sa.Column("report_only", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "egress",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("sandbox_id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_egress"),
    )
    op.create_index("ix_egress_sandbox_id_id", "egress", ["sandbox_id", "id"])
    op.create_index("ix_egress_at", "egress", ["at"])
    op.create_table(
        "traffic",
        sa.Column("sandbox_id", sa.String(40), nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("connections", sa.BigInteger, nullable=False),
        sa.Column("blocked", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("sandbox_id", name="pk_traffic"),
    )


def downgrade() -> None:
    op.drop_table("traffic")
    op.drop_table("egress")
    for name in ("report_only", "allow_domains"):
        op.drop_column("snapshots", name)
    for name in ("credentials", "preview_auth", "report_only", "allow_domains"):
        op.drop_column("sandboxes", name)
