"""Whether the simulator would notice: each mutation drops one check in `matching`, and some seed must fail.

`python -m tests.simulator.mutations [--seeds 40] [NAME …]` prints, for each, the first seed that caught it, and ends
with 1 when one was not caught. Run by hand after the simulator or `matching` has changed; it takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
from typing import TYPE_CHECKING, Any

from hqueue import scheduler
from hqueue.lifecycle import farmview
from hqueue.matching import Units, clients, conditions, planning, rules, why
from hqueue.matching.clients import ClientView, Standing
from tests.simulator.simulation import Folder, run_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


def _never_refused() -> Any:
    original = ClientView.__post_init__

    def forget(view: ClientView) -> None:
        view.refused = False
        original(view)

    return _changed(clients.ClientView, "__post_init__", forget)


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
    return _changed(conditions.Condition, "negated", property(lambda _: False))


def _no_hold() -> Any:
    return _changed(planning._Planner, "_hold", lambda *_: None)


def _hold_for_nobody() -> Any:
    return _changed(scheduler, "needs_more_than_a_gap", lambda wanted: wanted.several)


def _order(rank: Callable[[Any], Any]) -> Any:
    """Take jobs in another order."""
    original = planning._Planner.run

    def run(self: Any, heads: Any) -> Any:
        changed = {key: planning.Candidate(rank(head.rank), head.requirement_id) for key, head in heads.items()}
        return original(self, changed)

    return _changed(planning._Planner, "run", run)


MUTATIONS: dict[str, Callable[[], Any]] = {
    "lost clients take work": lambda: _standing(Standing.LOST),
    "disabled clients take work": lambda: _standing(Standing.DISABLED),
    "availability rules do not count": lambda: _standing(Standing.CLOSED),
    "disabled rules count": _disabled_rules,
    "windows past midnight never match": lambda: _window("midnight"),
    "windows match on any day": lambda: _window("days"),
    "refusing clients do not rest": _never_refused,
    "platform": lambda: _drop("_WHAT_IT_IS", "platform"),
    "conditions": lambda: _drop("_WHAT_IT_IS", "conditions"),
    "a single condition": _one_condition,
    "!= and not_in": _not_negated,
    "blocked": lambda: _drop("_WHAT_IT_IS", "blocked"),
    "too few CPUs at all": lambda: _drop("_WHAT_IT_IS", "too few CPUs"),
    "held clients take what comes after": lambda: _drop("_WHAT_IS_IN_USE", "on hold"),
    "all tags": lambda: _drop("_WHAT_IS_IN_USE", "tags"),
    "single wants an empty client": lambda: _without_tags("wanted alone"),
    "single keeps others out": lambda: _without_tags("wants it alone"),
    "single:x": lambda: _without_tags("tagged"),
    "CPUs in use": lambda: _drop("_WHAT_IS_IN_USE", "CPUs"),
    "resources per job": lambda: _lacking(per_machine=False),
    "resources per machine": lambda: _lacking(per_machine=True),
    "fewest hosts": _no_fewest,
    "no holds": _no_hold,
    "holds for several hosts only": _hold_for_nobody,
    "priority": lambda: _order(lambda rank: (0, *rank[1:])),
    "roots": lambda: _order(lambda rank: (rank[0], 0, rank[2])),
}


def _caught_by(make: Callable[[], Any], folder: Folder, seeds: range) -> int | None:
    """Return the first seed that fails with a mutation."""
    for seed in seeds:
        with contextlib.ExitStack() as stack:
            stack.enter_context(make())
            try:
                run_seed(seed, folder.url())
            except Exception:  # noqa: BLE001 - whatever it breaks, it was noticed
                return seed
    return None


def _lines(names: list[str], seeds: range) -> Iterator[tuple[str, int | None]]:
    folder = Folder()
    try:
        for name in names:
            yield name, _caught_by(MUTATIONS[name], folder, seeds)
    finally:
        folder.close()


def main() -> int:
    """Try the mutations asked for; return how the process is to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MUTATIONS), help="which ones")
    parser.add_argument("--seeds", type=int, default=40, help="how many seeds each is tried with")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    missed = 0
    for name, seed in _lines(arguments.names, range(arguments.seeds)):
        missed += seed is None
        sys.stdout.write(f"{name}: {'not caught' if seed is None else f'caught by seed {seed}'}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
