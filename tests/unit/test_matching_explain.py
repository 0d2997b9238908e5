"""Why a job waits, as an artist reads it."""

from __future__ import annotations

from typing import Any

import pytest

from hqueue.matching import ClientFacts, ClientView, Condition, FarmNames, Requirement, Standing, Units, explain
from hqueue.matching.resources import Resource

SIM = (Condition("group", "==", "sim"),)
FULL = Requirement(cpus=4)


def clients(count: int, *jobs: Requirement, standing: Standing = Standing.TAKES_WORK, **more: Any) -> list[ClientView]:
    state = {name: more.pop(name) for name in ("held",) if name in more}
    made = []
    for number in range(1, count + 1):
        given = {"os": "linux", "groups": frozenset({"sim"}), "cpus": 4} | more
        one = ClientView(ClientFacts(number, f"farm{number:02}", name="", **given), standing, **state)
        for each in jobs:
            one.occupy(each)
        made.append(one)
    return made


def why(wanted: Requirement, *some: list[ClientView], units: Units | None = None, groups: str = "sim fx") -> Any:
    every = [client for part in some for client in part]
    names = FarmNames(frozenset(groups.split()), [client.facts for client in every])
    found = explain(wanted, every, units or Units({}), names)
    assert found.free + sum(each.count for each in found.reasons) == found.total == len(every)
    return found


@pytest.mark.parametrize(
    ("wanted", "farm", "sentence"),
    [
        (
            Requirement(conditions=SIM),
            [clients(12, FULL), clients(3, standing=Standing.DISABLED)],
            "waits for a client: 12 in group sim, all busy; 3 disabled",
        ),
        (Requirement(), [clients(5)], "waits for its turn: 5 clients have room"),
        (Requirement(), [clients(1)], "waits for its turn: 1 client has room"),
        (Requirement(), [], "waits for a client: the farm has none"),
        (Requirement(), [clients(2, FULL)], "waits for a client: 2 clients, all busy"),
        (Requirement(), [clients(1, FULL)], "waits for a client: 1 client, busy"),
        (Requirement(), [clients(2, standing=Standing.LOST)], "waits for a client: 2 lost"),
        (
            Requirement(),
            [
                clients(1, standing=Standing.LOST),
                clients(2, standing=Standing.TERMINATING),
                clients(3, standing=Standing.CONDEMNED),
                clients(1, standing=Standing.CLOSED),
                clients(2, standing=Standing.DISABLED),
            ],
            "waits for a client: 1 lost; 2 terminating; 3 condemned; 2 disabled; 1 outside its hours",
        ),
        (
            Requirement(conditions=SIM),
            [clients(3, groups=frozenset({"fx"})), clients(1, standing=Standing.DISABLED)],
            "waits for a client: 3 not in group sim; 1 disabled",
        ),
        (
            Requirement(conditions=(Condition("group", "in", "simm, licht"),)),
            [clients(3)],
            "waits for a client: there is no group simm or licht",
        ),
        (
            Requirement(conditions=(Condition("hostname", "==", "farm99"),)),
            [clients(3)],
            "waits for a client: there is no host farm99",
        ),
        (
            Requirement(conditions=(Condition("hostname:name", "==", "farm99:gpu"),)),
            [clients(3), clients(1, standing=Standing.LOST)],
            "waits for a client: there is no client farm99:gpu",
        ),
        (
            Requirement(platforms=("windows",)),
            [clients(3)],
            "waits for a client: the command is given for windows only",
        ),
        (
            Requirement(conditions=(Condition("hostname", "!=", ""),)),  # everybody
            [clients(2, FULL)],
            "waits for a client: 2 clients, all busy",
        ),
        (
            Requirement(conditions=(Condition("hostname", "in", ",".join(f"farm{n:02}" for n in range(1, 31))),)),
            [clients(2, FULL)],
            "waits for a client: 2 on host farm01 or farm02 or farm03 or one of 27 others, all busy",
        ),
        (
            Requirement(conditions=(Condition("hostname", "in", "a,b,c,d"),)),
            [clients(2)],
            "waits for a client: there is no host a or b or c or d",
        ),
        (
            Requirement(min_hosts=3, max_hosts=3, conditions=SIM),
            [clients(2, FULL), clients(4, groups=frozenset())],
            "waits for 3 clients at once: no more than 2 in group sim, all busy",
        ),
        (Requirement(cpus=64), [clients(3)], "waits for a client: 3 with too few CPUs: 64 wanted"),
        (
            Requirement(blocked=(1, 2)),
            [clients(3, FULL)],
            "waits for a client: 1 client, busy; 2 blocked after failures",
        ),
        # Where all are blocked, blocks do not count.
        (Requirement(blocked=(1, 2)), [clients(2, FULL)], "waits for a client: 2 clients, all busy"),
        (
            Requirement(blocked=(1,), refused=(2,)),
            [clients(2, FULL)],
            "waits for a client: 1 client, busy; 1 refused this job",
        ),
        (
            Requirement(blocked=(1,), min_hosts=2, max_hosts=2),  # the one that is left is not enough
            [clients(2, FULL)],
            "waits for 2 clients at once: 2 clients, all busy",
        ),
        (Requirement(refused=(1, 2)), [clients(2)], "waits for a client: 2 refused this job"),
        (
            Requirement(),
            [clients(2, standing=Standing.RESTING)],
            "waits for a client: 2 clients, all resting after a refusal or failures",
        ),
        (Requirement(), [clients(2, held=True)], "waits for a client: 2 clients, all on hold for another job"),
        (
            Requirement(conditions=SIM, platforms=("linux",)),
            [clients(2, held=True), clients(1, FULL), clients(1, standing=Standing.RESTING)],
            "waits for a client: 4 on linux and in group sim: "  # noqa: ISC004 - one sentence
            "1 resting after a refusal or failures, 2 on hold for another job, 1 busy",
        ),
        (
            Requirement(singles=("single",)),
            [clients(2, Requirement())],
            "waits for a client: 2 clients, all not empty, and this job wants it alone",
        ),
        (
            Requirement(min_hosts=3, max_hosts=4, conditions=SIM),
            [clients(2), clients(1, FULL)],
            "waits for 3 clients at once: 3 in group sim: 2 free, 1 busy",
        ),
        (
            Requirement(min_hosts=3, max_hosts=4),
            [clients(2)],
            "waits for 3 clients at once: no more than 2 clients, all free",
        ),
    ],
)
def test_the_sentence(wanted: Requirement, farm: list[list[ClientView]], sentence: str) -> None:
    found = why(wanted, *farm)
    assert found.summary == sentence
    assert not found.lacks_resource


def test_a_resource() -> None:
    units = Units({"nuke": Resource(2, per_machine=False)})
    farm = clients(3)
    units.take(Requirement(resources=(("nuke", 2),)), farm[0])
    found = why(Requirement(resources=(("nuke", 1),)), farm, units=units)
    assert found.summary == "waits for a resource: nuke: 2 of 2 in use, 1 wanted"
    assert found.lacks_resource


RENDER = (("render", 1),)


@pytest.mark.parametrize(
    ("maximum", "in_use", "lacks", "sentence"),
    [
        (4, 2, False, "waits for its turn: 3 clients have room"),
        (
            3,
            2,
            True,
            "waits for a resource: render: 2 of 3 in use, 1 wanted on each of 2 clients",
        ),  # each alone has enough, but not all
        (2, 2, True, "waits for a resource: render: 2 of 2 in use, 1 wanted on each of 2 clients"),
        (
            1,
            0,
            True,
            "waits for a resource: render: 0 of 1 in use, 1 wanted on each of 2 clients",
        ),  # never: it wants two
    ],
)
def test_a_resource_of_which_several_clients_want_some(maximum: int, in_use: int, lacks: bool, sentence: str) -> None:
    units = Units({"render": Resource(maximum, per_machine=True)})
    farm, others = clients(3), clients(2, FULL, groups=frozenset())
    for client in others[:in_use]:
        units.take(Requirement(resources=RENDER), client)
    found = why(Requirement(min_hosts=2, max_hosts=2, resources=RENDER, conditions=SIM), farm, others, units=units)
    assert (found.lacks_resource, found.summary) == (lacks, sentence)


def test_several_clients_of_which_some_hold_what_they_need() -> None:
    units, farm = Units({"render": Resource(2, per_machine=True)}), clients(3)
    units.take(Requirement(resources=RENDER), farm[2])
    found = why(Requirement(min_hosts=2, max_hosts=2, resources=RENDER), farm, units=units)
    assert found.summary == "waits for its turn: 3 clients have room"
    units.take(Requirement(resources=RENDER), farm[1])
    found = why(Requirement(min_hosts=3, max_hosts=3, resources=RENDER), farm, units=units)
    assert found.lacks_resource


def test_several_clients_of_which_some_are_busy_and_some_lack_a_resource() -> None:
    units, farm = Units({"render": Resource(2, per_machine=True)}), [*clients(3), *clients(1, FULL)]
    for client in farm[:2]:
        units.take(Requirement(resources=RENDER), client)
    found = why(Requirement(min_hosts=4, max_hosts=4, resources=(("render", 2),)), farm, units=units)
    assert found.summary == "waits for a resource: render: 2 of 2 in use, 2 wanted on each of 4 clients"
    units = Units({"render": Resource(4, per_machine=True)})
    units.take(Requirement(resources=(("render", 4),)), clients(1)[0])
    found = why(Requirement(min_hosts=4, max_hosts=4, resources=RENDER), [*clients(3), *clients(1, FULL)], units=units)
    lacking = "render: 4 of 4 in use, 1 wanted on each of 4 clients"
    assert found.summary == f"waits for 4 clients at once: 4 clients: 1 busy, 3 short of {lacking}"
    assert not found.lacks_resource


def test_what_is_kept_for_others() -> None:
    units = Units({"nuke": Resource(4, per_machine=False)})
    units.keep([("nuke", 3)])
    found = why(Requirement(resources=(("nuke", 2),)), clients(2), units=units)
    assert found.summary == ("waits for a resource: nuke: 0 of 4 in use, 3 kept for jobs that come before, 2 wanted")


def test_no_more_is_kept_than_there_is() -> None:
    units = Units({"nuke": Resource(3, per_machine=False)})
    units.keep([("nuke", 3)])
    units.keep([("nuke", 3)])
    assert units.said("nuke", Requirement(resources=(("nuke", 1),))) == (
        "nuke: 0 of 3 in use, 3 kept for jobs that come before, 1 wanted"
    )


def test_a_resource_lacks_only_where_a_client_would_take_the_job() -> None:
    units = Units({"nuke": Resource(2, per_machine=False)})
    farm = clients(2, FULL)
    units.take(Requirement(resources=(("nuke", 2),)), farm[0])
    found = why(Requirement(resources=(("nuke", 1),)), farm, units=units)
    assert found.summary == "waits for a client: 2 clients, all busy"
    assert not found.lacks_resource


def test_a_resource_that_can_never_be_had_is_named_whatever_the_clients_do() -> None:
    found = why(Requirement(resources=(("niemand", 1),)), clients(2, FULL))
    assert found.summary == "waits for a resource: nobody has created the resource niemand"
    assert found.lacks_resource


def test_the_counts_and_some_examples() -> None:
    found = why(Requirement(conditions=SIM), clients(5, FULL), clients(2, groups=frozenset()), clients(1))
    assert found.as_dict() == {
        "total": 8,
        "free": 1,
        "reasons": [
            {"reason": "not in group sim", "count": 2, "examples": ["farm01", "farm02"]},
            {"reason": "busy", "count": 5, "examples": ["farm01", "farm02", "farm03"]},
        ],
    }
