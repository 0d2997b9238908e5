"""The tables of the outbox: what is to be told, and the letters that tell it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table

from hqueue.schema.columns import OPTIONS, Id, LongText, metadata

# What happened, for one address each: written with the change itself. The outbox makes letters of it.
news = Table(
    "news",
    metadata,
    Column("id", Id, primary_key=True),
    Column("channel", String(8), nullable=False),  # mail, webhook
    Column("address", LongText, nullable=False),  # "": the farm's own
    Column("job_id", BigInteger, nullable=False),  # 0: of the farm
    Column("root_id", BigInteger, nullable=False),
    Column("name", LongText, nullable=False),
    Column("submitter", LongText, nullable=False),
    Column("reason", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", LongText, nullable=False),
    Column("at", BigInteger, nullable=False),
    # By a clock that never jumps: when it happened, and when to look whether it is to be told now.
    Column("noted_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Index("ix_news_due", "channel", "due_ms"),
    Index("ix_news_root_id", "root_id"),
    **OPTIONS,
)

# A mail or a call, as it is sent again and again until it is taken. Those taken stay for an hour, to be counted.
letter = Table(
    "letter",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),  # the same each time it is sent
    Column("channel", String(8), nullable=False),
    Column("address", LongText, nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("root_id", BigInteger, nullable=False),
    Column("submitter", LongText, nullable=False),
    Column("kind", String(8), nullable=False),  # job, farm, limit
    Column("subject", LongText, nullable=False),
    Column("body", LongText, nullable=False),
    Column("at", BigInteger, nullable=False),
    # By a clock that never jumps:
    Column("made_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("sent_ms", BigInteger),
    Column("attempts", Integer, nullable=False),
    Index("ix_letter_due", "channel", "sent_ms", "due_ms"),
    **OPTIONS,
)
