"""The tables.

Columns that end in `_at` are moments: whole milliseconds since 1970, UTC (BIGINT on every database, so that they
sort, compare and copy alike). Columns that end in `_json` hold compact JSON text.
"""

from __future__ import annotations

from typing import Final

from hqueue.schema.columns import LongText, metadata
from hqueue.schema.farm import client, client_group, client_group_member, counter, note, note_thread, resource, trouble
from hqueue.schema.jobs import (
    bulk,
    bulk_job,
    client_failure,
    event,
    hook,
    incoming,
    job,
    job_edge,
    job_row,
    job_spec,
    requirement,
    reservation,
    root_block,
    run,
    shell,
    submission,
)
from hqueue.schema.outbox import letter, news

__all__ = [
    "OUR_TABLES",
    "LongText",
    "bulk",
    "bulk_job",
    "client",
    "client_failure",
    "client_group",
    "client_group_member",
    "counter",
    "event",
    "hook",
    "incoming",
    "job",
    "job_edge",
    "job_row",
    "job_spec",
    "letter",
    "metadata",
    "news",
    "note",
    "note_thread",
    "requirement",
    "reservation",
    "resource",
    "root_block",
    "run",
    "shell",
    "submission",
    "trouble",
]

# What a store of any release may hold, "wish" and "wish_job" those of 0.1.0.
OUR_TABLES: Final = frozenset({*metadata.tables, "alembic_version", "wish", "wish_job"})
