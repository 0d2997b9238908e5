"""The tables of jobs, of their runs, and of what is carried out on them in steps."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from hqueue.schema.columns import NO_AUTOINCREMENT, OPTIONS, Id, Long, LongText, metadata, one_of
from hqueue.states import HOLDS_RUN, SETTLED, JobStatus

# Everything that decides where a job may go, once per distinct value.
requirement = Table(
    "requirement",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("spec_json", LongText, nullable=False),
    **OPTIONS,
)

_HOLDING: Final = one_of("status", sorted(HOLDS_RUN))
job_row = Table(
    "job",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("root_id", BigInteger, nullable=False),
    Column("is_root", Boolean, nullable=False),  # has no parents now; root_id never changes with it
    Column("status", String(16), nullable=False),
    Column("requirement_id", Id, ForeignKey("requirement.id"), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("has_command", Boolean, nullable=False),
    Column("command_done", Boolean, nullable=False),
    Column("pause_wished", Boolean, nullable=False),
    Column("held_by_bulk", Boolean, nullable=False),  # an unfinished reschedule still has its children in hand
    Column("children_total", Integer, nullable=False),
    Column("children_unsettled", Integer, nullable=False),
    Column("children_unsuccessful", Integer, nullable=False),
    Column("counted", Boolean, nullable=False),  # has a command whose progress is part of the parents' overall progress
    # Sums over this job and its distinct descendants; they mean something while `tree_exact`, and for jobs with
    # children only. See lifecycle/trees.py.
    Column("tree_exact", Boolean, nullable=False),
    Column("tree_jobs", Integer, nullable=False),
    Column("tree_settled", Integer, nullable=False),
    Column("tree_counted", Integer, nullable=False),
    Column("tree_progress", Double, nullable=False),  # of the counted ones that are settled
    Column("tree_waiting", Integer, nullable=False),  # commands that are still to be started
    Column("tree_finished", Integer, nullable=False),  # commands that succeeded
    Column("tree_finished_ms", BigInteger, nullable=False),  # how long these took
    Column("tree_started_at", BigInteger),  # the first start of any of them
    Column("run_id", BigInteger),  # the current run; its token is the only one that may change this job
    Column("attempts", Integer, nullable=False),
    Column("tries_left", Integer, nullable=False),
    Column("rescues", Integer, nullable=False),
    Column("progress", Double, nullable=False),
    Column("progress_numerator", Double),
    Column("progress_denominator", Double),
    Column("queued_at", BigInteger, nullable=False),
    Column("runnable_at", BigInteger),
    Column("started_at", BigInteger),  # first assignment since the last reschedule
    Column("ended_at", BigInteger),
    Column("exit_code", Long),
    Column("name", LongText, nullable=False),
    # Hooks, mail or a webhook follow what happens to it: only then does a change look for them.
    Column("watched", Boolean, nullable=False, server_default=false()),
    CheckConstraint(one_of("status", JobStatus), name="status"),
    CheckConstraint(f"({one_of('status', sorted(SETTLED))}) = (ended_at IS NOT NULL)", name="settled_has_end"),
    CheckConstraint(f"(run_id IS NOT NULL) = ({_HOLDING}) OR status = 'paused'", name="holds_run"),
    CheckConstraint("children_unsettled >= 0 AND children_unsuccessful >= 0", name="counters"),
    CheckConstraint("tries_left >= 0 AND priority >= 0", name="not_negative"),
    **NO_AUTOINCREMENT,
)
# The order in which a tick takes runnable jobs: SPEC 6.1.
Index(
    "ix_job_schedule",
    job_row.c.status,
    job_row.c.requirement_id,
    job_row.c.priority.desc(),
    job_row.c.root_id,
    job_row.c.id,
)
Index("ix_job_roots", job_row.c.is_root, job_row.c.status, job_row.c.id)
Index("ix_job_root_id", job_row.c.root_id, job_row.c.id)

# Large submissions on their way into the store: a row per lane, whose jobs are not there for anybody yet; 0: none.
incoming = Table(
    "incoming",
    metadata,
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("first_id", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    **NO_AUTOINCREMENT,
)
# The jobs that are there: a view, which leaves out those that are on their way. Whoever reads goes by this; whoever
# changes jobs takes their ids from here.
job = Table("visible_job", MetaData(), *(Column(each.name, each.type) for each in job_row.columns))

# What a job was submitted with and a tick never looks at, apart so that the rows above stay short.
job_spec = Table(
    "job_spec",
    metadata,
    Column("job_id", Id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("command_json", LongText),  # a text, or a text per platform
    Column("shell", Text, nullable=False),
    Column("environment_json", LongText, nullable=False),
    Column("tags_json", LongText, nullable=False),
    Column("inherits_conditions", Boolean, nullable=False),
    Column("max_time_s", Integer),
    Column("tries", Integer, nullable=False),
    Column("description", LongText, nullable=False),
    Column("submitted_by", LongText, nullable=False),
    Column("email_to", LongText, nullable=False),
    Column("email_reasons", Text, nullable=False),
    Column("webhook", LongText),
    Column("hooks_json", LongText),  # onSuccess, onError, onCancel, onChildError, as far as given
    Column("show_blocked_warning", Boolean, nullable=False),
    **NO_AUTOINCREMENT,
)

job_edge = Table(
    "job_edge",
    metadata,
    Column("parent_id", Id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("child_id", Id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Index("ix_job_edge_child_id", "child_id", "parent_id"),
    **NO_AUTOINCREMENT,
)

# The submissions of the last day that may be repeated, for their answer may have been lost.
submission = Table(
    "submission",
    metadata,
    Column("digest", String(64), primary_key=True),  # of submissionId and submitter
    Column("content", String(64), nullable=False),  # the digest of what was submitted
    Column("first_id", BigInteger, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_submission_at", "at"),
    **NO_AUTOINCREMENT,
)

# A job's history and the farm's change feed in one. Rows outlive their job: the feed tells of deleted ones.
event = Table(
    "event",
    metadata,
    Column("seq", Id, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", LongText, nullable=False),
    # It tells of so many, from `job_id` on: 1; all of a submission in the line of its first one, 0 in the others.
    Column("jobs", Integer, nullable=False, server_default="1"),
    Index("ix_event_job_id", "job_id", "seq"),
    **NO_AUTOINCREMENT,
)

# One attempt of a job on a client: the truth about the client's capacity.
# A run without `closed_at` is open. A closed run that is `fenced` was given up without proof of death: until its
# client says that it is gone it counts against the client's CPUs, and the client is told to kill it.
# `job_id` is no foreign key: a deleted job's open run stays until its death is proved.
run = Table(
    "run",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("job_id", BigInteger, nullable=False),
    # While open: job_id, so that no job has two open runs of its command; of a hook's run its own id, below 0.
    Column("open_job_id", BigInteger, unique=True),
    Column("client_id", Id, ForeignKey("client.id"), nullable=False),
    Column("requirement_id", Id, ForeignKey("requirement.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("fenced", Boolean, nullable=False),
    Column("wish", String(8), nullable=False),
    Column("wish_number", Integer, nullable=False),
    Column("wish_confirmed", Integer, nullable=False),
    Column("wish_reason", String(32), nullable=False),
    Column("assigned_at", BigInteger, nullable=False),
    Column("listed_at", BigInteger),  # when the client first said that it holds the run on its disk
    Column("started_at", BigInteger),
    Column("closed_at", BigInteger),
    Column("abandoned_at", BigInteger),  # when its client was lost; unset once it is back
    Column("pid", Integer),
    Column("hosts", Integer, nullable=False),  # clients that it takes: 1, and those in `reservation`
    Column("outcome", String(16), nullable=False),  # "" while open
    Column("exit_code", Long),
    Column("signal", Integer),
    Column("message", LongText, nullable=False),
    Column("seconds", Double),  # that it was not halted
    Column("peak_memory_kb", BigInteger),
    Column("output_bytes", BigInteger),
    Column("hook", String(16), nullable=False, server_default=""),  # "": the job's command
    Column("line", LongText),  # of its output, the one that says best how it went
    CheckConstraint(one_of("wish", ("run", "halt", "die")), name="wish"),
    CheckConstraint("(closed_at IS NULL) = (open_job_id IS NOT NULL)", name="open"),
    CheckConstraint("closed_at IS NOT NULL OR NOT fenced", name="fenced_is_closed"),
    Index("ix_run_job_id", "job_id", "id"),
    Index("ix_run_client_closed", "client_id", "closed_at"),
    Index("ix_run_fenced", "fenced", "client_id"),
    **NO_AUTOINCREMENT,
)

# The hooks that are to run, and those that do: a hook's run is closed in the transaction that removes it here.
hook = Table(
    "hook",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", Id, ForeignKey("job.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(16), nullable=False),
    Column("command_json", LongText, nullable=False),
    Column("max_time_s", Double, nullable=False),
    Column("refused_json", LongText, nullable=False),  # the clients that refused it
    Column("run_id", BigInteger, unique=True),
    Index("ix_hook_job_id", "job_id"),
    **OPTIONS,
)

# The other clients of a run that has several: they count as taken as long as the run is open.
reservation = Table(
    "reservation",
    metadata,
    Column("run_id", Id, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("client_id", Id, ForeignKey("client.id"), primary_key=True, autoincrement=False),
    Index("ix_reservation_client_id", "client_id"),
    **NO_AUTOINCREMENT,
)

# How often jobs failed on clients, until they are rescheduled: too many under one root block the client for it.
client_failure = Table(
    "client_failure",
    metadata,
    Column("job_id", Id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("client_id", Id, ForeignKey("client.id"), primary_key=True, autoincrement=False),
    Column("root_id", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("failed_at", BigInteger),  # the last time, by a clock that never jumps
    Index("ix_client_failure_root_id", "root_id", "client_id"),
    Index("ix_client_failure_failed_at", "failed_at"),
    **NO_AUTOINCREMENT,
)
# When clients last ran commands with a shell that a job named: it is no fault of a job that asks for the shell again.
shell = Table(
    "shell",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("ran_at", BigInteger, nullable=False),  # to the hour
    **NO_AUTOINCREMENT,
)
# The clients that are blocked for a root's jobs. Those jobs have requirements that name them; while that is not yet so
# for all of them, `moved_to` is the id of the last job that has been looked at.
root_block = Table(
    "root_block",
    metadata,
    Column("root_id", Id, primary_key=True, autoincrement=False),
    Column("blocked_json", LongText, nullable=False),
    Column("pending", Boolean, nullable=False),  # there is something to do for it: one of these two
    Column("recount", Boolean, nullable=False),
    Column("moved_to", BigInteger),
    Index("ix_root_block_pending", "pending"),
    **NO_AUTOINCREMENT,
)

# What was asked of a job and is to be carried to its relatives, in small steps that a crash may interrupt.
bulk = Table(
    "bulk",
    metadata,
    Column("id", Id, primary_key=True),
    Column("action", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("value_json", LongText),  # what is to be set, where it is no action
    Column("named_json", LongText, nullable=False),  # the jobs that it was asked of
    Column("steps", Integer, nullable=False),  # that it took so far: who took fewer comes first
    Column("waits_for", BigInteger),  # an older action, for its next jobs are in a tree of that
    Column("created_at", BigInteger, nullable=False),
    **OPTIONS,
)
bulk_job = Table(
    "bulk_job",
    metadata,
    Column("position", Id, primary_key=True),
    Column("bulk_id", Id, ForeignKey("bulk.id", ondelete="CASCADE"), nullable=False),
    Column("job_id", BigInteger, nullable=False),  # 0 or below: no job, but a tree in which the action is at work
    Column("root_id", BigInteger, nullable=False),  # the job's, for younger actions to wait in its tree
    Column("state", String(16), nullable=False),
    # Its children up to this id have been looked at; below 0: it is to be changed itself.
    Column("child_cursor", BigInteger, nullable=False),
    UniqueConstraint("bulk_id", "job_id"),
    Index("ix_bulk_job_state", "bulk_id", "state", "position"),
    Index("ix_bulk_job_job_id", "job_id"),
    Index("ix_bulk_job_root_id", "root_id", "bulk_id"),
    **OPTIONS,
)
