"""Bulk actions take turns: what they were asked of, how far they are, and in which trees they are at work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

LongText = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    _add("bulk", sa.Column("named_json", LongText), "'[]'")
    _add("bulk", sa.Column("steps", sa.Integer()), "0")
    op.add_column("bulk", sa.Column("waits_for", sa.BigInteger()))
    # A job that is gone is noted for being the root of others.
    root = "COALESCE((SELECT root_id FROM job WHERE job.id = bulk_job.job_id), job_id)"
    _add("bulk_job", sa.Column("root_id", sa.BigInteger()), root)
    op.create_index("ix_bulk_job_root_id", "bulk_job", ["root_id", "bulk_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_bulk_job_root_id", "bulk_job")
    op.drop_column("bulk_job", "root_id")
    for column in ("waits_for", "steps", "named_json"):
        op.drop_column("bulk", column)


def _add(table: str, column: sa.Column[object], value: str) -> None:
    """Add a column that is never empty, and fill it."""
    local = op.get_bind().dialect.name == "sqlite"
    if local:  # it changes no column later, and to make the table anew would empty those that refer to it
        column.nullable, column.server_default = False, sa.DefaultClause("0")
    op.add_column(table, column)
    op.execute(f"UPDATE {table} SET {column.name} = {value}")  # noqa: S608 - our own names
    if not local:
        op.alter_column(table, column.name, existing_type=column.type, nullable=False)
