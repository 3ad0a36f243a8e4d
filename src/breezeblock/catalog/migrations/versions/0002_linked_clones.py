"""Volumes that share: how deep each chain is, what could be given back, and who rests on whom."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "kept_volumes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kept_volumes")),
    )
    with op.batch_alter_table("kept_volumes") as batch_op:
        batch_op.create_index(batch_op.f("ix_kept_volumes_parent_id"), ["parent_id"], unique=False)
    with op.batch_alter_table("pools") as batch_op:
        batch_op.add_column(sa.Column("used_ratio", sa.Float(), server_default="1.0", nullable=False))
        batch_op.add_column(sa.Column("max_chain_depth", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("volumes") as batch_op:
        batch_op.add_column(sa.Column("depth", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("hidden_layers", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(
            sa.Column("reclaimable_bytes", sa.BigInteger(), server_default="0", nullable=False)
        )
        batch_op.add_column(sa.Column("parent_id", sa.Text(), nullable=True))
        batch_op.create_index(batch_op.f("ix_volumes_parent_id"), ["parent_id"], unique=False)
