"""Bulk actions have tables of that name; a wish is what a run is asked."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LongText = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "sqlite_autoincrement": True,
}


def upgrade() -> None:
    _move("wish", "bulk")
    op.execute("ALTER TABLE job RENAME COLUMN held_by_wish TO held_by_bulk")


def downgrade() -> None:
    op.execute("ALTER TABLE job RENAME COLUMN held_by_bulk TO held_by_wish")
    _move("bulk", "wish")


def _move(old: str, new: str) -> None:
    """Make both tables anew under their new names and take their rows along: SQLite renames no constraints."""
    op.create_table(
        new,
        sa.Column("id", Id, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("value_json", LongText, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{new}")),
        **OPTIONS,
    )
    op.create_table(
        f"{new}_job",
        sa.Column("position", Id, nullable=False),
        sa.Column(f"{new}_id", Id, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("child_cursor", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            [f"{new}_id"], [f"{new}.id"], name=op.f(f"fk_{new}_job_{new}_id_{new}"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("position", name=op.f(f"pk_{new}_job")),
        sa.UniqueConstraint(f"{new}_id", "job_id", name=op.f(f"uq_{new}_job_{new}_id_job_id")),
        **OPTIONS,
    )
    op.create_index(f"ix_{new}_job_job_id", f"{new}_job", ["job_id"], unique=False)
    op.create_index(f"ix_{new}_job_state", f"{new}_job", [f"{new}_id", "state", "position"], unique=False)
    actions, jobs = "id, action, phase, value_json, created_at", "job_id, state, child_cursor"
    op.execute(f"INSERT INTO {new} ({actions}) SELECT {actions} FROM {old} ORDER BY id")  # noqa: S608 - our own names
    op.execute(
        f"INSERT INTO {new}_job ({new}_id, {jobs}) SELECT {old}_id, {jobs} FROM {old}_job ORDER BY position"  # noqa: S608 - same
    )
    if op.get_bind().dialect.name == "postgresql":  # the others go on behind the highest id by themselves
        op.execute(f"SELECT setval(pg_get_serial_sequence('{new}', 'id'), (SELECT max(id) FROM {new}))")  # noqa: S608 - same
    op.drop_table(f"{old}_job")
    op.drop_table(old)
