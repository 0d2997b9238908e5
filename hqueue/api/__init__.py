"""What callers may call: the chapters of the API, a module each. The wire's names (camelCase) live here.

queue        the server itself, submission, versions, folders
jobs         what jobs are: attributes, lists of ids, output
jobchanges   what changes jobs
listing      pages of jobs, and the change feed
clients groups resources notes troubles   chapters of their own
explaining   why a job waits
deprecated   the oldest calls
statusnames  names of statuses that callers give
pages        what a GET is answered with
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hqueue.api.clients import Clients
from hqueue.api.deprecated import Deprecated
from hqueue.api.explaining import Explanations
from hqueue.api.groups import Groups
from hqueue.api.jobchanges import JobChanges
from hqueue.api.jobs import Jobs
from hqueue.api.listing import Listing
from hqueue.api.notes import Notes
from hqueue.api.pages import Pages
from hqueue.api.queue import Queue
from hqueue.api.resources import Resources
from hqueue.api.troubles import Troubles

if TYPE_CHECKING:
    from hqueue.context import Context

__all__ = ["Pages", "chapters"]

_CHAPTERS = (
    Queue,
    Jobs,
    JobChanges,
    Listing,
    Clients,
    Groups,
    Resources,
    Explanations,
    Notes,
    Troubles,
    Deprecated,
)


def chapters(context: Context) -> list[object]:
    """Return the objects whose exposed methods callers may call."""
    return [chapter(context) for chapter in _CHAPTERS]
