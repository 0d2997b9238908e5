"""What happened, for whom: rows that are written in the transaction of the change they tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from hqueue.database import listed
from hqueue.outbox.addresses import refuses_webhook, takes_mail
from hqueue.schema import job_row, job_spec, news
from hqueue.store import SendLetters, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAIL: Final = "mail"
WEBHOOK: Final = "webhook"
FARM: Final = 0  # where a job's id stands otherwise
TROUBLE: Final = "trouble"  # the reason of the farm's own news

# From the table: a large submission tells of its jobs in the transaction in which they come to be there.
_SPECS: Final = (
    sa.select(
        job_row.c.id,
        job_row.c.root_id,
        job_row.c.is_root,
        job_row.c.name,
        job_spec.c.email_to,
        job_spec.c.email_reasons,
        job_spec.c.webhook,
        job_spec.c.submitted_by,
    )
    .join(job_spec, job_spec.c.job_id == job_row.c.id)
    .where(job_row.c.id.in_(listed("jobs")))
)


class Happened(NamedTuple):
    """Something that happened to a job; `reasons` are the names under which people may wish to hear of it."""

    job_id: int
    reasons: tuple[str, ...]
    status: str
    message: str = ""
    ends_tree: bool = False  # a root is settled: the farm's own webhook hears of it


def announce(session: Session, changes: Sequence[Happened]) -> None:
    """Note what is to be told of jobs, for each address that their properties name.

    Writes: news.
    """
    if not changes:
        return
    found = session.connection.execute(_SPECS, {"jobs": sorted({each.job_id for each in changes})})
    specs = {row.id: row for row in found}
    rows = [row for each in changes if each.job_id in specs for row in _rows(session, each, specs[each.job_id])]
    if rows:
        session.connection.execute(sa.insert(news), rows)
        session.after_commit(SendLetters())


def _rows(session: Session, change: Happened, spec: Any) -> Iterator[dict[str, Any]]:
    policy = session.policy
    wanted = spec.email_reasons.split(",")
    reason = next((each for each in change.reasons if each in wanted), "")
    told = {
        "job_id": spec.id,
        "root_id": spec.root_id,
        "name": spec.name,
        "submitter": spec.submitted_by,
        "status": change.status,
        "message": change.message,
        "at": session.now_ms,
        "noted_ms": session.steady_ms,
        "due_ms": session.steady_ms,
    }
    if reason and policy.smtp_server:
        for address in filter(None, spec.email_to.split(",")):
            if takes_mail(policy, address):
                yield told | {"channel": MAIL, "address": address, "reason": reason}
    if reason and spec.webhook and not refuses_webhook(policy, spec.webhook):
        yield told | {"channel": WEBHOOK, "address": spec.webhook, "reason": reason}
    if policy.webhook_url and change.ends_tree:
        yield told | {"channel": WEBHOOK, "address": "", "reason": change.status}


def tell_of_trouble(session: Session, text: str = "") -> None:
    """Note that there is something to tell of the farm: a text, or else the errors that are counted from now on.

    Writes: news; one row per channel stands for all errors from its moment on.
    """
    policy = session.policy
    channels = [MAIL] * bool(policy.email_to and policy.smtp_server) + [WEBHOOK] * bool(policy.webhook_url)
    for channel in channels:
        noted = (
            sa.select(news.c.id).where(news.c.channel == channel, news.c.job_id == FARM, news.c.message == "").limit(1)
        )
        if text or session.connection.execute(noted).first() is None:
            values = {"channel": channel, "address": "", "reason": TROUBLE, "at": session.now_ms, "message": text}
            values |= {"job_id": FARM, "root_id": FARM, "name": "", "submitter": "", "status": ""}
            session.connection.execute(
                sa.insert(news).values(values | {"noted_ms": session.steady_ms, "due_ms": session.steady_ms})
            )
            session.after_commit(SendLetters())
