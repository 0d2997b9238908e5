"""Whose fault a refusal is: why a client rests, when jobs failed on clients, which shells were run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("client", sa.Column("rest_reason", sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")))
    op.add_column("client_failure", sa.Column("failed_at", sa.BigInteger()))  # the next start takes them for fresh ones
    op.create_index("ix_client_failure_failed_at", "client_failure", ["failed_at"])
    op.create_table(
        "shell",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("ran_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_shell")),
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mysql_engine="InnoDB",
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
        mariadb_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("shell")
    op.drop_index("ix_client_failure_failed_at", "client_failure")
    op.drop_column("client_failure", "failed_at")
    op.drop_column("client", "rest_reason")
