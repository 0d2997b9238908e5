"""Whether the simulator would notice: each mutation drops one check in `matching`, and some seed must fail.

`python -m tests.simulator.mutations [--seeds 60] [NAME …]` prints, for each, the first seed that caught it, and ends
with 1 when one was not caught. Run by hand after the simulator or `matching` has changed; it takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from hqueue import waiting
from hqueue.lifecycle import refusals
from hqueue.lifecycle.requirements import read_requirement
from hqueue.matching import Requirement, Units, capacity, clients, conditions, planning, rules, why
from hqueue.matching.clients import ClientView, Standing
from hqueue.views import farmview
from tests.simulator.processes import in_processes
from tests.simulator.simulation import run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulator.simulation import Folder


@contextlib.contextmanager
def _changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let something be otherwise for a while."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _otherwise(table: str, name: str, holds: Callable[..., bool]) -> Any:
    """Let a check of `why` hold in other cases."""
    checks = tuple(
        dataclasses.replace(each, holds=holds) if each.name == name else each for each in getattr(why, table)
    )
    return _changed(why, table, checks)


def _drop(table: str, name: str) -> Any:
    """Drop a check of `why`."""
    return _otherwise(table, name, lambda *_: False)


def _standing(*ignored: Standing) -> Any:
    """Let clients take work that should not."""
    original = ClientView.__post_init__

    def take_work(view: ClientView) -> None:
        if view.standing in ignored:
            view.standing = Standing.TAKES_WORK
        original(view)

    return _changed(clients.ClientView, "__post_init__", take_work)


def _blocks(counted: Callable[[Any], Any]) -> Any:
    """Let other blocks count, whether or not clients are left that are not blocked."""
    return _changed(Requirement, "without_limbo", lambda wanted, _: counted(wanted))


def _never_refused() -> Any:
    """Give jobs to clients that said they cannot run them."""
    original = why.FitTable.fitting

    def fitting(table: Any, key: int, wanted: Any) -> set[int]:
        return original(table, key, dataclasses.replace(wanted, refused=()))

    return _changed(why.FitTable, "fitting", fitting)


def _asked_for_ever() -> Any:
    """Try a job on client after client."""
    original = refusals.leave_out

    def leave_out(session: Any, row: Any, report: Any) -> str:
        original(session, row, report)
        return ""

    return _changed(refusals, "leave_out", leave_out)


def _without_tags(text: str) -> Any:
    """Let the check of tags see nothing of one kind."""

    def holds(wanted: Any, client: Any, units: Any) -> bool:
        return why._tags(wanted, client, units) and text not in why._say_tags(wanted, client, units)

    return _otherwise("_WHAT_IS_IN_USE", "tags", holds)


def _lacking(*, per_machine: bool) -> Any:
    """Count nothing of one kind of resource."""
    original = Units.lacking

    def lacking(self: Units, requirement: Any, views: Any) -> str:
        name = original(self, requirement, views)
        return "" if name and self._resources[name].per_machine is per_machine else name

    return _changed(Units, "lacking", lacking)


def _no_fewest() -> Any:
    """Take fewer clients than a job wants."""
    original = planning._Planner.__init__

    def begin(self: Any, requirements: Any, *rest: Any) -> None:
        fewer = {key: dataclasses.replace(wanted, min_hosts=1) for key, wanted in requirements.items()}
        original(self, fewer, *rest)

    return _changed(planning._Planner, "__init__", begin)


def _window(text: str) -> Any:
    """Judge windows of the day wrongly."""

    def in_window(rule: Any, local: Any) -> bool:
        now, today = local.time(), local.weekday()
        if text == "days":
            return bool(rule.start <= now < rule.end)
        if rule.start < rule.end:
            return today in rule.days and rule.start <= now < rule.end
        return False  # past midnight

    return _changed(rules.Rule, "_in_window", in_window)


def _disabled_rules() -> Any:
    def open_now(given: Any, local: Any, idle: int) -> bool:
        return not given or any(rule.matches(local, idle) for rule in given)

    return _changed(farmview, "open_now", open_now)


def _one_condition() -> Any:
    def holds(wanted: Any, client: Any, units: Any) -> bool:
        return len(wanted.conditions) != 1 and why._unmet(wanted, client, units)

    return _otherwise("_WHAT_IT_IS", "conditions", holds)


def _not_negated() -> Any:
    return _changed(conditions, "_NEGATED", frozenset())


def _no_hold() -> Any:
    return _changed(planning._Planner, "_hold", lambda *_: None)


def _hold_for_nobody() -> Any:
    return _changed(waiting, "needs_more_than_a_gap", lambda wanted: wanted.min_hosts > 1)


def _keep_nothing() -> Any:
    return _changed(Units, "keep_for", lambda *_: ())


def _possible() -> Any:
    return _changed(Units, "impossible", lambda *_: "")


def _anybody_is_held() -> Any:
    """Hold clients whether or not there are enough that would do."""
    return _changed(planning._Planner, "_hold", _hold_any)


def _hold_any(planner: Any, head: Any) -> None:
    right = planner.holders.get(head.requirement_id)
    if right is not None and right.job_id == head.job_id:
        wanted = planner.requirements[head.requirement_id]
        chosen = [view for view in planner._open if not view.held][: wanted.min_hosts]
        for view in chosen:
            view.held = True
        planner._plan.holds[head.job_id] = planning.Hold(head.rank, tuple(view.id for view in chosen), ())


def _counted_on_each_client() -> Any:
    """Take what is counted per job on each of its clients."""
    original = Units.take

    def take(self: Units, requirement: Any, client: Any, *, times: int = 1, first: bool = True) -> None:
        original(self, requirement, client, times=times, first=True)

    return _changed(Units, "take", take)


def _licensed_as_they_come() -> Any:
    return _changed(Units, "best_supplied", lambda _self, _requirement, views: list(views))


def _room_key(key: Callable[[Any, Any], Any]) -> Any:
    """Prefer other clients."""
    return _changed(capacity.OwnRoom, "_key", key)


def _forget_common_room() -> Any:
    """Take any client that has room where many would do."""
    return _changed(
        capacity.ByIdleCpus,
        "least_first",
        lambda self, cpus: (
            view for number in reversed(self._numbers) if number >= cpus for view in self._shelves[number].values()
        ),
    )


def _order(rank: Callable[[Any], Any]) -> Any:
    """Take jobs in another order."""
    original = planning._Planner.run

    def run(self: Any, heads: Any) -> Any:
        changed = {key: planning.Candidate(rank(head.rank), head.requirement_id) for key, head in heads.items()}
        return original(self, changed)

    return _changed(planning._Planner, "run", run)


MUTATIONS: dict[str, Callable[[], Any]] = {
    "terminating clients take work": lambda: _standing(Standing.TERMINATING),
    "condemned clients take work": lambda: _standing(Standing.CONDEMNED),
    "lost clients take work": lambda: _standing(Standing.LOST),
    "disabled clients take work": lambda: _standing(Standing.DISABLED),
    "availability rules do not count": lambda: _standing(Standing.CLOSED),
    "disabled rules count": _disabled_rules,
    "windows past midnight never match": lambda: _window("midnight"),
    "windows match on any day": lambda: _window("days"),
    "refusing clients do not rest": lambda: _standing(Standing.RESTING),
    "clients that cannot run a job are asked again": _never_refused,
    "more clients are asked than max_refusals": _asked_for_ever,
    "platform": lambda: _drop("_WHAT_IT_IS", "platform"),
    "conditions": lambda: _drop("_WHAT_IT_IS", "conditions"),
    "a single condition": _one_condition,
    "!= and not_in": _not_negated,
    "blocked": lambda: _blocks(lambda _: ()),
    "blocks count also where all are blocked": lambda: _blocks(lambda wanted: wanted.blocked),
    "where jobs of a root failed least does not come first": lambda: _room_key(
        lambda room, view: (
            0,
            view.facts.id in room._last,
            -view.facts.speed * view.facts.cpus if room._wanted.alone else view.free_cpus,
        )
    ),
    "too few CPUs at all": lambda: _drop("_WHAT_IT_IS", "too few CPUs"),
    "held clients take what comes after": lambda: _drop("_WHAT_IS_IN_USE", "on hold"),
    "all tags": lambda: _drop("_WHAT_IS_IN_USE", "tags"),
    "single wants an empty client": lambda: _without_tags("not empty"),
    "single keeps others out": lambda: _without_tags("taken by"),
    "single:x": lambda: _without_tags("tagged"),
    "CPUs in use": lambda: _drop("_WHAT_IS_IN_USE", "CPUs"),
    "resources per job": lambda: _lacking(per_machine=False),
    "resources per machine": lambda: _lacking(per_machine=True),
    "fewest hosts": _no_fewest,
    "no holds": _no_hold,
    "holds for several hosts only": _hold_for_nobody,
    "licences are not kept": _keep_nothing,
    "licences are kept for what can never run": _possible,
    "clients that would not do are held": _anybody_is_held,
    "a licence per job is taken on each client": _counted_on_each_client,
    "clients that hold a licence do not come first": _licensed_as_they_come,
    "clients where a job failed are not tried last": lambda: _room_key(
        lambda room, view: (
            room._failures.get(view.facts.id, 0),
            False,
            -view.facts.cpus if room._wanted.alone else view.free_cpus,
        )
    ),
    "a job alone takes any client": lambda: _room_key(
        lambda room, view: (0, view.facts.id in room._last, 0 if room._wanted.alone else view.free_cpus)
    ),
    "the emptiest client comes first": _forget_common_room,
    "priority": lambda: _order(lambda rank: (0, *rank[1:])),
    "roots": lambda: _order(lambda rank: (rank[0], 0, rank[2])),
}


def _caught_by(seeds: range, folder: Folder, name: str) -> tuple[str, int | None]:
    """Return a mutation and the first seed that fails with it."""
    for seed in seeds:
        with contextlib.ExitStack() as stack:
            stack.enter_context(MUTATIONS[name]())
            read_requirement.cache_clear()  # what another mutation has made of them
            try:
                run_seed(seed, folder.url())
            except Exception:  # noqa: BLE001 - whatever it breaks, it was noticed
                return name, seed
    return name, None


def main() -> int:
    """Try the mutations asked for; return how the process is to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MUTATIONS), help="which ones")
    parser.add_argument("--seeds", type=int, default=60, help="how many seeds each is tried with")
    arguments = parser.parse_args()
    missed = 0
    for name, seed in in_processes(partial(_caught_by, range(arguments.seeds)), arguments.names):
        missed += seed is None
        sys.stdout.write(f"{name}: {'not caught' if seed is None else f'caught by seed {seed}'}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(arguments.names)} mutations, {missed} not caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
