"""What will trouble a pool later, as its storage told."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("pools") as batch_op:
        batch_op.add_column(sa.Column("health", sa.Text(), server_default="{}", nullable=False))
