"""What holds for a job and everything below it: clients at work, progress, first start, time to the end.

Over *distinct* descendants: a job with two parents counts once. Two statements answer all of it for all the jobs
asked, and neither knows how large the trees are: one goes from the open runs upwards, the other reads the sums that
lifecycle/trees.py keeps. Only a tree that is marked there is gone through.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hqueue.database import chunks, listed
from hqueue.lifecycle.runs import fraction
from hqueue.protocol import EXITED
from hqueue.schema import job, job_edge, run
from hqueue.states import SETTLED, JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hqueue.live import LiveFarm

UNKNOWN_ETA: Final = -1.0
_ORIGINS: Final = 500  # trees in one statement
# Up to this size a tree is read for its ETA, so that what waits goes by its own siblings; a larger one by the mean of
# the whole, which is kept with every change.
_SMALL: Final = 1_000


@dataclass(frozen=True, slots=True)
class AtWork:
    """A descendant, or the job itself, that a client is executing; `counted`: its progress is part of the overall."""

    job_id: int
    client_id: int
    live: float
    ran_ms: float  # 0.0: unknown
    counted: bool


@dataclass(slots=True)
class _Family:
    """The jobs of a tree that have the same (first) parent."""

    waiting: int
    finished: int
    finished_ms: float


@dataclass(slots=True)
class Tree:
    """A job and its descendants; times in ms since 1970."""

    kept: bool = False
    jobs: int = 0
    settled: int = 0
    counted: int = 0
    settled_progress: float = 0.0  # of the counted ones that are settled
    started_at: int | None = None
    families: list[_Family] = field(default_factory=list)


class Rollups:
    """The roll-ups of some jobs, worked out when first asked for."""

    def __init__(self, connection: sa.Connection, live_farm: LiveFarm, origins: Sequence[int]) -> None:
        self._connection = connection
        self._live_farm = live_farm
        self._origins = origins

    def clients_at_work(self, job_id: int) -> int:
        """Return how many clients execute the job or something below it."""
        return len({each.client_id for each in self._at_work.get(job_id, ())})

    def started_at(self, job_id: int) -> int | None:
        """Return when the first of the tree was started, in ms since 1970."""
        return self._trees[job_id].started_at

    def overall_progress(self, job_id: int) -> float:
        """Return the mean progress of the tree's commands; without any, the fraction of it that is settled."""
        tree = self._trees[job_id]
        if not tree.counted:
            return tree.settled / tree.jobs
        live = sum(each.live for each in self._at_work.get(job_id, ()) if each.counted)
        return min(1.0, max(0.0, (tree.settled_progress + live) / tree.counted))

    def eta_s(self, job_id: int) -> float:
        """Return the seconds to the end of an unsettled tree; UNKNOWN_ETA while there is no basis.

        What is at work by its progress and its time so far; what waits, and what says nothing of its progress, by the
        mean of its finished siblings, else of all that is finished in the tree, else of what is at work. All that
        divided by the clients at work.
        """
        at_work = self._at_work.get(job_id)
        if not at_work:
            return UNKNOWN_ETA
        telling = [each for each in at_work if each.live > 0 and each.ran_ms]
        left_ms = sum(each.ran_ms * (1 - each.live) / each.live for each in telling)
        silent = [each.ran_ms for each in at_work if each.live <= 0 or not each.ran_ms]
        families = self._families(job_id)
        mean_ms = _mean_ms(families, telling)
        for family in families:
            expected_ms = family.finished_ms / family.finished if family.finished else mean_ms
            if family.waiting and expected_ms is None:
                return UNKNOWN_ETA
            left_ms += family.waiting * (expected_ms or 0)
        if silent and mean_ms is None:
            return UNKNOWN_ETA
        left_ms += sum(max(0.0, (mean_ms or 0) - ran_ms) for ran_ms in silent)
        return float(math.ceil(left_ms / 1000 / self.clients_at_work(job_id)))

    @cached_property
    def _at_work(self) -> dict[int, list[AtWork]]:
        found: dict[int, list[AtWork]] = defaultdict(list)
        for part in chunks(self._origins, _ORIGINS):
            for row in self._connection.execute(_AT_WORK, {"origins": part}):
                live = self._live_farm.progress.get(row.job_id) if row.is_current else None
                found[row.origin].append(
                    AtWork(
                        job_id=row.job_id,
                        client_id=row.client_id,
                        live=row.progress if live is None else fraction(live.numerator, live.denominator),
                        ran_ms=1000 * self._live_farm.ran_s(row.job_id),
                        counted=bool(row.counted and row.is_current),
                    ),
                )
        return found

    def _families(self, job_id: int) -> list[_Family]:
        """Return what waits and what has finished, by the parent where the tree is small enough to be read."""
        tree = self._trees[job_id]
        if tree.kept and tree.jobs <= _SMALL:
            return self._read([job_id])[job_id].families
        return tree.families

    @cached_property
    def _trees(self) -> dict[int, Tree]:
        """The sums of every tree: kept ones from the job's own row, others by a query through the tree."""
        trees: dict[int, Tree] = {}
        for row in self._connection.execute(_KEPT, {"origins": self._origins}):
            trees[row.id] = Tree(
                kept=True,
                jobs=row.tree_jobs,
                settled=row.tree_settled,
                counted=row.tree_counted,
                settled_progress=row.tree_progress,
                started_at=row.tree_started_at,
                families=[_Family(row.tree_waiting, row.tree_finished, row.tree_finished_ms)],
            )
        return trees | self._read([origin for origin in self._origins if origin not in trees])

    def _read(self, origins: Sequence[int]) -> dict[int, Tree]:
        trees: dict[int, Tree] = defaultdict(Tree)
        for part in chunks(origins, _ORIGINS):
            for row in self._connection.execute(_TREES, {"origins": part}):
                tree = trees[row.origin]
                # MySQL sums whole numbers up to decimals.
                tree.jobs += row.jobs
                tree.settled += int(row.settled)
                tree.counted += int(row.counted)
                tree.settled_progress += float(row.progress)
                if row.started_at is not None:
                    tree.started_at = min(row.started_at, tree.started_at or row.started_at)
                tree.families.append(_Family(int(row.waiting), int(row.finished), float(row.finished_ms)))
        return trees


def _mean_ms(families: Sequence[_Family], telling: Sequence[AtWork]) -> float | None:
    """Return how long a job of the tree takes, as far as anything is known."""
    finished = sum(family.finished for family in families)
    if finished:
        return sum(family.finished_ms for family in families) / finished
    if telling:
        return sum(each.ran_ms / each.live for each in telling) / len(telling)
    return None


_KEPT: Final = sa.select(
    job.c.id,
    job.c.tree_jobs,
    job.c.tree_settled,
    job.c.tree_counted,
    job.c.tree_progress,
    job.c.tree_waiting,
    job.c.tree_finished,
    job.c.tree_finished_ms,
    job.c.tree_started_at,
).where(job.c.id.in_(listed("origins")), job.c.tree_exact, job.c.children_total > 0)


def _at_work_statement() -> sa.Select[Any]:
    # A range on open_job_id is what SQLite uses its index for; IS NOT NULL is not.
    start = sa.select(run.c.open_job_id.label("origin"), run.c.id.label("run_id")).where(
        run.c.open_job_id > 0,
        run.c.abandoned_at.is_(None),
    )
    above = start.cte("above", recursive=True)
    above = above.union(sa.select(job_edge.c.parent_id, above.c.run_id).where(job_edge.c.child_id == above.c.origin))
    return (
        sa.select(
            above.c.origin,
            job.c.id.label("job_id"),
            run.c.client_id,
            job.c.progress,
            job.c.counted,
            (job.c.run_id == run.c.id).label("is_current"),
        )
        .select_from(above)
        .join(run, run.c.id == above.c.run_id)
        .join(job, job.c.id == run.c.open_job_id)
        .where(above.c.origin.in_(listed("origins")))
    )


def _trees_statement() -> sa.Select[Any]:
    start = sa.select(job.c.id.label("origin"), job.c.id.label("id")).where(
        job.c.id.in_(listed("origins")),
    )
    below = start.cte("below", recursive=True)
    below = below.union(sa.select(below.c.origin, job_edge.c.child_id).where(job_edge.c.parent_id == below.c.id))
    family = sa.select(sa.func.min(job_edge.c.parent_id)).where(job_edge.c.child_id == below.c.id).scalar_subquery()
    settled = job.c.status.in_(sorted(SETTLED))
    succeeded = job.c.status == JobStatus.SUCCEEDED
    finished = sa.and_(succeeded, job.c.has_command, job.c.started_at.is_not(None))
    ends = sa.select(run.c.seconds).where(run.c.job_id == job.c.id, run.c.outcome == EXITED)
    ran_s = ends.order_by(run.c.id.desc()).limit(1).scalar_subquery()
    waiting = sa.and_(~settled, job.c.has_command, ~job.c.command_done, job.c.run_id.is_(None))

    def count(condition: sa.ColumnElement[bool], value: Any = 1) -> sa.ColumnElement[Any]:
        return sa.func.sum(sa.case((condition, value), else_=0))

    return (
        sa.select(
            below.c.origin,
            sa.func.count().label("jobs"),
            count(settled).label("settled"),
            count(job.c.counted).label("counted"),
            count(sa.and_(job.c.counted, settled), sa.case((succeeded, 1.0), else_=job.c.progress)).label("progress"),
            sa.func.min(job.c.started_at).label("started_at"),
            count(waiting).label("waiting"),
            count(finished).label("finished"),
            count(finished, sa.func.coalesce(ran_s, 0.0) * 1000).label("finished_ms"),
        )
        .select_from(below)
        .join(job, job.c.id == below.c.id)
        .group_by(below.c.origin, family.label("family"))
    )


_AT_WORK: Final = _at_work_statement()
_TREES: Final = _trees_statement()
