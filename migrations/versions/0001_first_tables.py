"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0001"
down_revision = None
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
}


def upgrade() -> None:
    op.create_table(
        "client",
        sa.Column("id", Id, nullable=False),
        sa.Column("label_key", sa.String(length=512), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("ip", sa.String(length=64), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("cpu_speed", sa.Double(), nullable=False),
        sa.Column("platform", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("machine_json", LongText, nullable=False),
        sa.Column("description", LongText, nullable=False),
        sa.Column("rules_json", LongText, nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("condemned", LongText, nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("terminating", sa.Boolean(), nullable=False),
        sa.Column("forgotten", sa.Boolean(), nullable=False),
        sa.Column("last_heartbeat_at", sa.BigInteger(), nullable=False),
        sa.Column("load", sa.Double(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("refused_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client")),
        sa.UniqueConstraint("label_key", name=op.f("uq_client_label_key")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "client_group",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client_group")),
        sa.UniqueConstraint("name", name=op.f("uq_client_group_name")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counter")),
        **OPTIONS,
    )
    op.create_table(
        "event",
        sa.Column("seq", Id, autoincrement=False, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("message", LongText, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        **OPTIONS,
    )
    op.create_index("ix_event_job_id", "event", ["job_id", "seq"], unique=False)
    op.create_table(
        "note_thread",
        sa.Column("id", Id, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("client_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_note_thread")),
        sa.UniqueConstraint("client_id", name=op.f("uq_note_thread_client_id")),
        sa.UniqueConstraint("job_id", name=op.f("uq_note_thread_job_id")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "requirement",
        sa.Column("id", Id, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("spec_json", LongText, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requirement")),
        sa.UniqueConstraint("digest", name=op.f("uq_requirement_digest")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "resource",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("maximum", sa.BigInteger(), nullable=True),
        sa.Column("per_machine", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource")),
        sa.UniqueConstraint("name", name=op.f("uq_resource_name")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "root_block",
        sa.Column("root_id", Id, autoincrement=False, nullable=False),
        sa.Column("blocked_json", LongText, nullable=False),
        sa.Column("pending", sa.Boolean(), nullable=False),
        sa.Column("recount", sa.Boolean(), nullable=False),
        sa.Column("moved_to", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("root_id", name=op.f("pk_root_block")),
        **OPTIONS,
    )
    op.create_index("ix_root_block_pending", "root_block", ["pending"], unique=False)
    op.create_table(
        "trouble",
        sa.Column("id", Id, nullable=False),
        sa.Column("client_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("latest_at", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("message", LongText, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trouble")),
        sa.UniqueConstraint("client_id", "day", "digest", name=op.f("uq_trouble_client_id_day_digest")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_index("ix_trouble_client_id", "trouble", ["client_id", "id"], unique=False)
    op.create_table(
        "wish",
        sa.Column("id", Id, nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("value_json", LongText, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wish")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "client_group_member",
        sa.Column("group_id", Id, autoincrement=False, nullable=False),
        sa.Column("client_id", Id, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(
            ["client_id"], ["client.id"], name=op.f("fk_client_group_member_client_id_client"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["client_group.id"],
            name=op.f("fk_client_group_member_group_id_client_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "client_id", name=op.f("pk_client_group_member")),
        **OPTIONS,
    )
    op.create_index("ix_client_group_member_client_id", "client_group_member", ["client_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", Id, autoincrement=False, nullable=False),
        sa.Column("root_id", sa.BigInteger(), nullable=False),
        sa.Column("is_root", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("requirement_id", Id, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("has_command", sa.Boolean(), nullable=False),
        sa.Column("command_done", sa.Boolean(), nullable=False),
        sa.Column("pause_wished", sa.Boolean(), nullable=False),
        sa.Column("held_by_wish", sa.Boolean(), nullable=False),
        sa.Column("children_total", sa.Integer(), nullable=False),
        sa.Column("children_unsettled", sa.Integer(), nullable=False),
        sa.Column("children_unsuccessful", sa.Integer(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("tree_exact", sa.Boolean(), nullable=False),
        sa.Column("tree_jobs", sa.Integer(), nullable=False),
        sa.Column("tree_settled", sa.Integer(), nullable=False),
        sa.Column("tree_counted", sa.Integer(), nullable=False),
        sa.Column("tree_progress", sa.Double(), nullable=False),
        sa.Column("tree_waiting", sa.Integer(), nullable=False),
        sa.Column("tree_finished", sa.Integer(), nullable=False),
        sa.Column("tree_finished_ms", sa.BigInteger(), nullable=False),
        sa.Column("tree_started_at", sa.BigInteger(), nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries_left", sa.Integer(), nullable=False),
        sa.Column("rescues", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("progress_numerator", sa.Double(), nullable=True),
        sa.Column("progress_denominator", sa.Double(), nullable=True),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("runnable_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("name", LongText, nullable=False),
        sa.CheckConstraint(
            "(run_id IS NOT NULL) = (status IN ('abandoned', 'ejecting', 'pausing', 'resuming', 'running')) OR status = 'paused'",
            name=op.f("ck_job_holds_run"),
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'failed', 'succeeded')) = (ended_at IS NOT NULL)",
            name=op.f("ck_job_settled_has_end"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'runnable', 'running', 'pausing', 'paused', 'resuming', 'ejecting', 'succeeded', 'failed', 'cancelled', 'abandoned')",
            name=op.f("ck_job_status"),
        ),
        sa.CheckConstraint("children_unsettled >= 0 AND children_unsuccessful >= 0", name=op.f("ck_job_counters")),
        sa.CheckConstraint("tries_left >= 0 AND priority >= 0", name=op.f("ck_job_not_negative")),
        sa.ForeignKeyConstraint(["requirement_id"], ["requirement.id"], name=op.f("fk_job_requirement_id_requirement")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        **OPTIONS,
    )
    op.create_index("ix_job_root_id", "job", ["root_id", "id"], unique=False)
    op.create_index("ix_job_roots", "job", ["is_root", "status", "id"], unique=False)
    op.create_index(
        "ix_job_schedule",
        "job",
        ["status", "requirement_id", sa.literal_column("priority DESC"), "root_id", "id"],
        unique=False,
    )
    op.create_table(
        "note",
        sa.Column("id", Id, nullable=False),
        sa.Column("thread_id", Id, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("text", LongText, nullable=False),
        sa.ForeignKeyConstraint(
            ["thread_id"], ["note_thread.id"], name=op.f("fk_note_thread_id_note_thread"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_note")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_index("ix_note_thread_id", "note", ["thread_id", "id"], unique=False)
    op.create_table(
        "run",
        sa.Column("id", Id, autoincrement=False, nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("open_job_id", sa.BigInteger(), nullable=True),
        sa.Column("client_id", Id, nullable=False),
        sa.Column("requirement_id", Id, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("fenced", sa.Boolean(), nullable=False),
        sa.Column("wish", sa.String(length=8), nullable=False),
        sa.Column("wish_number", sa.Integer(), nullable=False),
        sa.Column("wish_confirmed", sa.Integer(), nullable=False),
        sa.Column("wish_reason", sa.String(length=32), nullable=False),
        sa.Column("assigned_at", sa.BigInteger(), nullable=False),
        sa.Column("listed_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("abandoned_at", sa.BigInteger(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("hosts", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("message", LongText, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("peak_memory_kb", sa.BigInteger(), nullable=True),
        sa.Column("output_bytes", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("wish IN ('run', 'halt', 'die')", name=op.f("ck_run_wish")),
        sa.CheckConstraint("(closed_at IS NULL) = (open_job_id IS NOT NULL)", name=op.f("ck_run_open")),
        sa.CheckConstraint("closed_at IS NOT NULL OR NOT fenced", name=op.f("ck_run_fenced_is_closed")),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_run_client_id_client")),
        sa.ForeignKeyConstraint(["requirement_id"], ["requirement.id"], name=op.f("fk_run_requirement_id_requirement")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("open_job_id", name=op.f("uq_run_open_job_id")),
        sa.UniqueConstraint("token", name=op.f("uq_run_token")),
        **OPTIONS,
    )
    op.create_index("ix_run_client_closed", "run", ["client_id", "closed_at"], unique=False)
    op.create_index("ix_run_fenced", "run", ["fenced", "client_id"], unique=False)
    op.create_index("ix_run_job_id", "run", ["job_id", "id"], unique=False)
    op.create_table(
        "wish_job",
        sa.Column("position", Id, nullable=False),
        sa.Column("wish_id", Id, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("child_cursor", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["wish_id"], ["wish.id"], name=op.f("fk_wish_job_wish_id_wish"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_wish_job")),
        sa.UniqueConstraint("wish_id", "job_id", name=op.f("uq_wish_job_wish_id_job_id")),
        **OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_index("ix_wish_job_job_id", "wish_job", ["job_id"], unique=False)
    op.create_index("ix_wish_job_state", "wish_job", ["wish_id", "state", "position"], unique=False)
    op.create_table(
        "client_failure",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("client_id", Id, autoincrement=False, nullable=False),
        sa.Column("root_id", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_client_failure_client_id_client")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_client_failure_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "client_id", name=op.f("pk_client_failure")),
        **OPTIONS,
    )
    op.create_index("ix_client_failure_root_id", "client_failure", ["root_id", "client_id"], unique=False)
    op.create_table(
        "job_edge",
        sa.Column("parent_id", Id, autoincrement=False, nullable=False),
        sa.Column("child_id", Id, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["child_id"], ["job.id"], name=op.f("fk_job_edge_child_id_job"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["parent_id"], ["job.id"], name=op.f("fk_job_edge_parent_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name=op.f("pk_job_edge")),
        **OPTIONS,
    )
    op.create_index("ix_job_edge_child_id", "job_edge", ["child_id", "parent_id"], unique=False)
    op.create_table(
        "job_spec",
        sa.Column("job_id", Id, autoincrement=False, nullable=False),
        sa.Column("command_json", LongText, nullable=True),
        sa.Column("shell", sa.Text(), nullable=False),
        sa.Column("environment_json", LongText, nullable=False),
        sa.Column("tags_json", LongText, nullable=False),
        sa.Column("inherits_conditions", sa.Boolean(), nullable=False),
        sa.Column("max_time_s", sa.Integer(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("description", LongText, nullable=False),
        sa.Column("submitted_by", LongText, nullable=False),
        sa.Column("email_to", LongText, nullable=False),
        sa.Column("email_reasons", sa.Text(), nullable=False),
        sa.Column("hooks_json", LongText, nullable=True),
        sa.Column("show_blocked_warning", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_spec_job_id_job"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_spec")),
        **OPTIONS,
    )
    op.create_table(
        "reservation",
        sa.Column("run_id", Id, autoincrement=False, nullable=False),
        sa.Column("client_id", Id, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_reservation_client_id_client")),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_reservation_run_id_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "client_id", name=op.f("pk_reservation")),
        **OPTIONS,
    )
    op.create_index("ix_reservation_client_id", "reservation", ["client_id"], unique=False)
    # ### end Alembic commands ###
    op.bulk_insert(
        sa.table("counter", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": name, "value": 0} for name in ("job", "run", "event")],
    )
    # Houdini's licences exist from the start, unlimited until somebody sets a maximum.
    op.bulk_insert(
        sa.table("resource", sa.column("name", sa.String), sa.column("per_machine", sa.Boolean)),
        [
            {"name": name, "per_machine": True}
            for name in ("sidefx.license.houdini", "sidefx.license.render", "sidefx.license.karma")
        ],
    )


def downgrade() -> None:
    op.drop_table("reservation")
    op.drop_table("job_spec")
    op.drop_table("job_edge")
    op.drop_table("client_failure")
    op.drop_table("wish_job")
    op.drop_table("run")
    op.drop_table("note")
    op.drop_table("job")
    op.drop_table("client_group_member")
    op.drop_table("wish")
    op.drop_table("trouble")
    op.drop_table("root_block")
    op.drop_table("resource")
    op.drop_table("requirement")
    op.drop_table("note_thread")
    op.drop_table("event")
    op.drop_table("counter")
    op.drop_table("client_group")
    op.drop_table("client")
