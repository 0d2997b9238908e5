"""Large submissions come in steps: what is not whole yet is left out of the view that everybody reads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Each is looked up once for a whole query.
_HIDDEN = "(SELECT first_id FROM incoming WHERE lane = {0}) AND (SELECT last_id FROM incoming WHERE lane = {0})"


def upgrade() -> None:
    incoming = op.create_table(
        "incoming",
        sa.Column("lane", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("pk_incoming")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
        mariadb_engine="InnoDB",
    )
    op.bulk_insert(incoming, [{"lane": lane, "first_id": 0, "last_id": 0} for lane in (1, 2)])
    op.add_column("event", sa.Column("jobs", sa.Integer(), nullable=False, server_default="1"))
    columns = [column["name"] for column in sa.inspect(op.get_bind()).get_columns("job")]
    op.execute(
        f"CREATE VIEW visible_job AS SELECT {', '.join(columns)} FROM job "  # noqa: S608 - names of our own
        f"WHERE id NOT BETWEEN {_HIDDEN.format(1)} AND id NOT BETWEEN {_HIDDEN.format(2)}"
    )


def downgrade() -> None:
    # What is not whole is nothing.
    for table, column in (("event", "job_id"), ("job", "id")):
        hidden = f"EXISTS (SELECT 1 FROM incoming WHERE {table}.{column} BETWEEN first_id AND last_id)"  # noqa: S608
        op.execute(f"DELETE FROM {table} WHERE {hidden}")  # noqa: S608 - names of our own
    op.execute("DROP VIEW visible_job")
    op.drop_column("event", "jobs")
    op.drop_table("incoming")
