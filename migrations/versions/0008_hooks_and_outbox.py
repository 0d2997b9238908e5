"""Hooks are runs of their own; the outbox; jobs say whether anything follows what happens to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LongText = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS = {
    f"{dialect}_{name}": value
    for dialect in ("mysql", "mariadb")
    for name, value in {"charset": "utf8mb4", "collate": "utf8mb4_bin", "engine": "InnoDB"}.items()
}
# As in 0007: each is looked up once for a whole query.
_HIDDEN = "(SELECT first_id FROM incoming WHERE lane = {0}) AND (SELECT last_id FROM incoming WHERE lane = {0})"


def upgrade() -> None:
    op.create_table(
        "hook",
        sa.Column("id", Id, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("command_json", LongText, nullable=False),
        sa.Column("max_time_s", sa.Double(), nullable=False),
        sa.Column("refused_json", LongText, nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_hook_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hook")),
        sa.UniqueConstraint("run_id", name=op.f("uq_hook_run_id")),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("ix_hook_job_id", "hook", ["job_id"])
    _make_outbox()
    op.add_column("job_spec", sa.Column("webhook", LongText))
    op.add_column("run", sa.Column("hook", sa.String(16), nullable=False, server_default=""))
    op.add_column("run", sa.Column("line", LongText))
    op.execute("DROP VIEW visible_job")
    op.add_column("job", sa.Column("watched", sa.Boolean(), nullable=False, server_default=sa.false()))
    job = sa.table("job", sa.column("id"), sa.column("watched"))
    spec = sa.table("job_spec", *map(sa.column, ("job_id", "hooks_json", "email_to", "email_reasons")))
    followed = sa.select(spec.c.job_id).where(
        sa.or_(spec.c.hooks_json.is_not(None), sa.and_(spec.c.email_to != "", spec.c.email_reasons != ""))
    )
    op.execute(sa.update(job).where(job.c.id.in_(followed)).values(watched=sa.true()))
    _make_view()


def downgrade() -> None:
    op.execute("DELETE FROM run WHERE hook <> ''")
    op.execute("DROP VIEW visible_job")
    op.drop_column("job", "watched")
    _make_view()
    op.drop_column("run", "line")
    op.drop_column("job_spec", "webhook")
    op.drop_table("letter")
    op.drop_table("news")
    op.drop_column("run", "hook")
    op.drop_table("hook")


def _make_outbox() -> None:
    op.create_table(
        "news",
        sa.Column("id", Id, nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("address", LongText, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("root_id", sa.BigInteger(), nullable=False),
        sa.Column("name", LongText, nullable=False),
        sa.Column("submitter", LongText, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("message", LongText, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("noted_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_news")),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("ix_news_due", "news", ["channel", "due_ms"])
    op.create_index("ix_news_root_id", "news", ["root_id"])
    op.create_table(
        "letter",
        sa.Column("id", Id, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(8), nullable=False),
        sa.Column("address", LongText, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("root_id", sa.BigInteger(), nullable=False),
        sa.Column("submitter", LongText, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("subject", LongText, nullable=False),
        sa.Column("body", LongText, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_letter")),
        sa.UniqueConstraint("key", name=op.f("uq_letter_key")),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    op.create_index("ix_letter_due", "letter", ["channel", "sent_ms", "due_ms"])


def _make_view() -> None:
    columns = [column["name"] for column in sa.inspect(op.get_bind()).get_columns("job")]
    op.execute(
        f"CREATE VIEW visible_job AS SELECT {', '.join(columns)} FROM job "  # noqa: S608 - names of our own
        f"WHERE id NOT BETWEEN {_HIDDEN.format(1)} AND id NOT BETWEEN {_HIDDEN.format(2)}"
    )
