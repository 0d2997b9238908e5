"""The tables of the farm: clients, groups, resources, troubles and notes; and the counters."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
)

from hqueue.schema.columns import NO_AUTOINCREMENT, OPTIONS, Id, LongText, metadata

# Highest number given out so far, by name: job, run, event. One row each, changed in the transaction that uses the
# numbers, so that no number is ever used again and events are numbered in commit order on every database.
counter = Table(
    "counter",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
    **NO_AUTOINCREMENT,
)

client = Table(
    "client",
    metadata,
    Column("id", Id, primary_key=True),
    Column("label_key", String(512), nullable=False, unique=True),  # lower-case label: two spellings are one machine
    Column("hostname", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("key", String(64), nullable=False),
    Column("incarnation", BigInteger, nullable=False),
    Column("ip", String(64), nullable=False),
    Column("port", Integer, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("cpu_speed", Double, nullable=False),  # MHz
    Column("platform", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("machine_json", LongText, nullable=False),  # memory, installLocation, diskCapacity, gpus
    Column("description", LongText, nullable=False),
    Column("rules_json", LongText, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("condemned", LongText, nullable=False),  # "" or why it takes no more work
    Column("lost", Boolean, nullable=False),
    Column("terminating", Boolean, nullable=False),
    Column("forgotten", Boolean, nullable=False),
    Column("last_heartbeat_at", BigInteger, nullable=False),
    Column("load", Double, nullable=False),
    Column("refusals", Integer, nullable=False),  # in a row; they lengthen the pause
    Column("refused_until", BigInteger, nullable=False),  # by a clock that never jumps
    Column("rest_reason", LongText),  # why it rests until then
    **OPTIONS,
)

client_group = Table(
    "client_group",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    **OPTIONS,
)
client_group_member = Table(
    "client_group_member",
    metadata,
    Column("group_id", Id, ForeignKey("client_group.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("client_id", Id, ForeignKey("client.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Index("ix_client_group_member_client_id", "client_id"),
    **NO_AUTOINCREMENT,
)

resource = Table(
    "resource",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("maximum", BigInteger),  # unset: unlimited
    Column("per_machine", Boolean, nullable=False),
    **OPTIONS,
)

# Errors of the server (client 0) and of clients, by day and message.
trouble = Table(
    "trouble",
    metadata,
    Column("id", Id, primary_key=True),
    Column("client_id", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),  # since 1970, UTC
    Column("digest", String(64), nullable=False),
    Column("latest_at", BigInteger, nullable=False),
    Column("times", Integer, nullable=False),
    Column("message", LongText, nullable=False),
    UniqueConstraint("client_id", "day", "digest"),
    Index("ix_trouble_client_id", "client_id", "id"),
    **OPTIONS,
)

note_thread = Table(
    "note_thread",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", BigInteger, unique=True),
    Column("client_id", BigInteger, unique=True),
    **OPTIONS,
)
note = Table(
    "note",
    metadata,
    Column("id", Id, primary_key=True),
    Column("thread_id", Id, ForeignKey("note_thread.id", ondelete="CASCADE"), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("text", LongText, nullable=False),
    Index("ix_note_thread_id", "thread_id", "id"),
    **OPTIONS,
)
