"""Calls of a script while something is wrong with the server."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
import xmlrpc.client
from typing import TYPE_CHECKING, Any

from hqueue.errors import OutcomeUnknownError, StoreFullError, StoreUnavailableError
from tests.farm import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.farm import Farm

SETTLED = {"succeeded", "failed", "cancelled"}


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the fault that it is answered with."""
    try:
        return call()
    except xmlrpc.client.Fault as fault:
        return fault


def is_refused(answer: Any) -> bool:
    """Tell whether a call was refused for want of a store, and the caller may rely on that."""
    return (
        isinstance(answer, xmlrpc.client.Fault)
        and answer.faultCode in {StoreUnavailableError.code, StoreFullError.code}
        and "nothing was changed" in answer.faultString
    )


def is_unknown(answer: Any) -> bool:
    """Tell whether a caller was told that nobody knows whether it was done."""
    return (
        isinstance(answer, xmlrpc.client.Fault)
        and answer.faultCode == OutcomeUnknownError.code
        and "not known" in answer.faultString
    )


def names(farm: Farm) -> list[str]:
    """Return the names of all jobs there are."""
    found: list[str] = []
    query: dict[str, Any] = {"attribs": ["name"], "limit": 1000}
    while True:
        page = farm.proxy().listJobs(query)
        found += [job["name"] for job in page["jobs"]]
        if not page["next"]:
            return found
        query["cursor"] = page["next"]


def status(farm: Farm, job_id: int) -> str:
    """Return a job's status; "" while the server cannot be reached."""
    answer = outcome(lambda: farm.proxy().getJob(job_id, ["status"]))
    return "" if isinstance(answer, xmlrpc.client.Fault) else str(answer["status"])


def health(farm: Farm) -> int:
    """Return the status of the server's page of health."""
    try:
        with urllib.request.urlopen(f"{farm.url}/health", timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def answered(call: Callable[[], Any], seconds: float) -> Any:
    """Return what a call comes to; fail when it is not answered in time."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(outcome(call)), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"no answer within {seconds:g} s"
    return found[0]
