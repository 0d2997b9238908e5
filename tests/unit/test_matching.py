"""Which job goes on which client, and why not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hqueue import jobspec
from hqueue.matching import (
    KINDS,
    OPS,
    Candidate,
    ClientFacts,
    ClientView,
    Condition,
    FitTable,
    HeldFor,
    Plan,
    Requirement,
    Standing,
    Units,
    conditions_as_dicts,
    conditions_from,
    needs_more_than_a_gap,
    obstacle,
    os_of,
    plan,
    same_host,
    singles_of,
)
from hqueue.matching.resources import Resource

NOTHING = Units({})


def facts(client_id: int = 1, hostname: str = "farm07", cpus: int = 4, **more: Any) -> ClientFacts:
    return ClientFacts(client_id, hostname, cpus=cpus, **({"name": "", "os": "linux", "groups": frozenset()} | more))


def view(client_id: int = 1, hostname: str = "farm07", cpus: int = 4, **more: Any) -> ClientView:
    state = {name: more.pop(name) for name in ("standing", "held") if name in more}
    return ClientView(facts(client_id, hostname, cpus, **more), **state)


class Jobs:
    """The waiting jobs, and since when clients are at what they run."""

    def __init__(self, queues: dict[int, list[Candidate]], since: dict[int, list[int]]) -> None:
        self.queues = queues
        self.times = since
        self.asked: list[tuple[int, int, int]] = []

    def after(self, requirement_id: int, seen: int, most: int) -> list[Candidate]:
        self.asked.append((requirement_id, seen, most))
        return self.queues[requirement_id][seen : seen + most]

    def since(self) -> dict[int, list[int]]:
        return self.times


def make_plan(
    queues: dict[int, list[tuple[int, int, int]]],
    requirements: dict[int, Requirement],
    clients: list[ClientView],
    units: Units = NOTHING,
    holders: dict[int, HeldFor] | None = None,
    since: dict[int, list[int]] | None = None,
) -> Plan:
    """Plan jobs, given per requirement as (job, priority, root)."""
    candidates = {
        key: sorted(Candidate.of(job, key, priority, root) for job, priority, root in jobs)
        for key, jobs in queues.items()
    }
    jobs = Jobs(candidates, since or {})
    fits = FitTable()
    fits.renew([client.facts for client in clients])
    heads = {key: jobs[0] for key, jobs in candidates.items() if jobs}
    return plan(heads, requirements, clients, units, fits=fits, waiting=jobs, holders=holders or {}, times=jobs)


def place(*arguments: Any, **more: Any) -> dict[int, int]:
    """Plan jobs; return the first client of each placed one, in order."""
    return {each.candidate.job_id: each.clients[0].id for each in make_plan(*arguments, **more).placements}


def resources(**given: tuple[int | None, bool]) -> Units:
    return Units({name: Resource(*each) for name, each in given.items()})


class TestConditions:
    @pytest.mark.parametrize(
        ("name", "value", "holds"),
        [
            ("hostname", "farm07", True),
            ("hostname", "FARM07", True),
            ("hostname", "farm08", False),
            ("hostname", "farm07.studio.lan", True),  # the domain counts only when both have one
            ("hostname", " farm07 ", True),
            ("hostname", "farm01, farm07", True),
            ("hostname", "farm01;farm07", True),
            ("hostname", "farm01; farm02 ,farm03", False),
            ("hostname", "farm0", False),
            ("hostname", "", False),
            ("hostname", ",;", False),
            ("hostname", "farm07:gpu", False),  # a hostname has no colon; hostname:name does
            ("hostname:name", "farm07:gpu", True),
            ("hostname:name", "FARM07:gpu", True),
            ("hostname:name", "farm07:GPU", False),  # names are case-sensitive
            ("hostname:name", "farm07:", False),  # the unnamed one
            ("hostname:name", "farm07", True),  # any client there
            ("hostname:name", "farm07.studio.lan:gpu", True),
            ("hostname:name", "farm01:gpu,farm07:gpu", True),
            ("hostname:name", "farm01:gpu", False),
            ("group", "Licht", True),
            ("group", "licht", False),
            ("group", "照明", True),
            ("group", "nobody, Licht", True),
            ("group", "sim, fast", True),  # the whole value is a group's name
            ("group", "sim", False),
            ("group", "nobody", False),
            ("group", "", False),
            ("os", "linux", True),
            ("os", "Linux", True),
            ("os", "windows,linux", True),
            ("os", "windows", False),
            ("os", "macos", False),
        ],
    )
    def test_each_name_with_each_op(self, name: str, value: str, holds: bool) -> None:
        client = facts(name="gpu", groups=frozenset({"Licht", "照明", "sim, fast"}))
        for op in ("==", "in", "any"):
            assert Condition(name, op, value).holds(client) is holds, op
        for op in ("!=", "not_in"):
            assert Condition(name, op, value).holds(client) is not holds, op

    def test_not_the_empty_hostname_is_everybody(self) -> None:
        assert Condition("hostname", "!=", "").holds(facts())
        assert Condition("hostname", "!=", "").holds(facts(hostname="farm07.studio.lan"))

    def test_the_unnamed_client(self) -> None:
        condition = Condition("hostname:name", "==", "farm07:")
        assert condition.holds(facts())
        assert not condition.holds(facts(name="gpu"))

    @pytest.mark.parametrize("value", ["macos", "macosx", "MacOSX", "windows; macos"])
    def test_macos_is_macosx(self, value: str) -> None:
        assert Condition("os", "==", value).holds(facts(os="macosx"))

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("farm07", "farm07", True),
            ("farm07", "Farm07.studio.lan", True),
            ("farm07.a.lan", "farm07.b.lan", False),  # both have a domain
            ("farm07.a.lan", "FARM07.A.LAN", True),
            ("farm07", "farm08.studio.lan", False),
            ("farm", "farm07.studio.lan", False),
            ("", "", False),
        ],
    )
    def test_same_host_both_ways(self, one: str, other: str, same: bool) -> None:
        assert same_host(one, other) is same
        assert same_host(other, one) is same

    @pytest.mark.parametrize(
        ("platform", "expected"),
        [
            ("linux-x86_64", "linux"),
            ("linux-aarch64", "linux"),
            ("windows-x86_64", "windows"),
            ("macosx-x86_64", "macosx"),
            ("macos-arm64", "macosx"),
        ],
    )
    def test_os_of_a_platform(self, platform: str, expected: str) -> None:
        assert os_of(platform) == expected

    def test_conditions_go_out_as_they_came(self) -> None:
        given = [{"type": "client", "name": "group", "op": "in", "value": "照明"}]
        assert conditions_as_dicts(conditions_from(given)) == given


class TestRequirement:
    def test_text_and_back(self) -> None:
        wanted = Requirement(
            conditions=(Condition("group", "not_in", "照明, sim"),),
            cpus=3,
            singles=("single:x",),
            platforms=("linux", "windows"),
            resources=(("sidefx.license.render", 2),),
            min_hosts=2,
            max_hosts=4,
        )
        assert Requirement.from_json(wanted.to_json()) == wanted
        assert Requirement.from_json(Requirement().to_json()) == Requirement()

    def test_different_requirements_have_different_digests(self) -> None:
        texts = [
            Requirement().to_json(),
            Requirement(cpus=2).to_json(),
            Requirement(singles=("single",)).to_json(),
            Requirement(platforms=("linux",)).to_json(),
            Requirement(conditions=(Condition("os", "==", "linux"),)).to_json(),
        ]
        assert len({Requirement.digest(text) for text in texts}) == len(texts)

    def test_only_tags_that_begin_with_single_limit_where_a_job_runs(self) -> None:
        assert singles_of(["nacht", "single:x", "single", "Single", "excludeProgress", "single:x"]) == (
            "single",
            "single:x",
        )


FARM = resources(unbegrenzt=(None, False), nuke=(2, False), render=(1, True))
JOB = Requirement()


def busy(client: ClientView, *jobs: Requirement) -> ClientView:
    for each in jobs:
        client.occupy(each)
    return client


class TestWhy:
    """A row per reason, in the order in which they count."""

    @pytest.mark.parametrize(
        ("reason", "requirement", "client"),
        [
            (None, JOB, view()),
            ("lost", JOB, view(standing=Standing.LOST)),
            ("terminating", JOB, view(standing=Standing.TERMINATING)),
            ("condemned", JOB, view(standing=Standing.CONDEMNED)),
            ("disabled", JOB, view(standing=Standing.DISABLED)),
            ("no availability rule matches", JOB, view(standing=Standing.CLOSED)),
            ("too few CPUs: 64 wanted", Requirement(cpus=64), view(standing=Standing.LOST)),
            ("refused: it cannot run this job, and said so", Requirement(refused=(1,)), view(standing=Standing.LOST)),
            ("lost", Requirement(blocked=(1,)), view(standing=Standing.LOST)),
            (None, Requirement(platforms=("linux",)), view()),
            (
                "platform: the command is given for macosx and windows only",
                Requirement(platforms=("macosx", "windows")),
                view(),
            ),
            (None, Requirement(conditions=(Condition("os", "==", "linux"),)), view()),
            ("not in group sim", Requirement(conditions=(Condition("group", "==", "sim"),)), view()),
            (
                "in group sim",
                Requirement(conditions=(Condition("group", "!=", "sim"),)),
                view(groups=frozenset({"sim"})),
            ),
            # All conditions must hold; the first that does not is the reason.
            (
                "not on host farm01 or farm02",
                Requirement(conditions=(Condition("os", "==", "linux"), Condition("hostname", "in", "farm01,farm02"))),
                view(),
            ),
            (
                "not called farm07:gpu",
                Requirement(conditions=(Condition("hostname:name", "==", "farm07:gpu"),)),
                view(),
            ),
            ("not on windows", Requirement(conditions=(Condition("os", "any", "windows"),)), view()),
            ("blocked: too many jobs of this tree failed there", Requirement(blocked=(1,)), view()),
            (None, Requirement(blocked=(2,), last=(1,)), view()),
            (
                "resting: it refused or failed what it was given a moment ago",
                Requirement(blocked=(1,)),
                view(standing=Standing.RESTING),
            ),
            ("blocked: too many jobs of this tree failed there", Requirement(blocked=(1,)), view(held=True)),
            (None, Requirement(cpus=4), view()),
            ("too few CPUs: 5 wanted", Requirement(cpus=5), view()),
            ("on hold for a job that comes before", Requirement(cpus=4), busy(view(held=True), JOB)),
            ("tags: not empty, and this job wants it alone", Requirement(singles=("single",)), busy(view(), JOB)),
            ("tags: taken by a job that wants it alone", JOB, busy(view(), Requirement(singles=("single",)))),
            (None, Requirement(singles=("single:z",)), busy(view(), Requirement(singles=("single:x", "single:y")))),
            (
                "tags: running a job tagged single:y",
                Requirement(singles=("single:y", "single:z"), cpus=4),
                busy(view(), Requirement(singles=("single:x", "single:y"))),
            ),
            ("busy", Requirement(cpus=2, resources=(("niemand", 1),)), busy(view(), Requirement(cpus=3))),
            ("busy", JOB, busy(view(cpus=2), Requirement(cpus=4))),  # it came back with fewer CPUs than it has runs on
            (None, Requirement(resources=(("unbegrenzt", 1000),)), view()),
            (
                "resources: nobody has created the resource niemand",
                Requirement(resources=(("unbegrenzt", 1), ("niemand", 1))),
                view(),
            ),
            ("resources: nuke: 0 of 2 in use, 3 wanted", Requirement(resources=(("nuke", 3),)), view()),
        ],
    )
    def test_the_first_reason_that_holds(
        self, reason: str | None, requirement: Requirement, client: ClientView
    ) -> None:
        found = obstacle(requirement, client, FARM)
        assert (found.reason if found else None) == reason

    @pytest.mark.parametrize("name", KINDS)
    @pytest.mark.parametrize("op", OPS)
    def test_what_submission_takes_is_what_matching_knows(self, name: str, op: str) -> None:
        given = {"type": "client", "name": name, "op": op, "value": "Größe"}
        (spec,) = jobspec.parse({"name": "x", "command": "x", "conditions": [given]}, max_depth=1).jobs
        (condition,) = conditions_from(spec.conditions or ())
        assert condition.said() != condition.said(fails=True)
        client = view(name="gpu", groups=frozenset({"sim"}))
        found = obstacle(Requirement(conditions=(condition,)), client, NOTHING)
        assert (found is None) is condition.holds(client.facts)
        if found is not None:
            assert found.reason == condition.said(fails=True)


class TestUnits:
    def test_per_job_every_run_takes_its_amount(self) -> None:
        units, client, wanted = resources(nuke=(4, False)), view(), Requirement(resources=(("nuke", 2),))
        units.take(wanted, client)
        assert not units.lacking(wanted, (client,))
        units.take(wanted, client)
        assert units.used == {"nuke": 4}
        assert units.lacking(wanted, (client,)) == "nuke"

    def test_per_job_once_also_on_several_clients(self) -> None:
        units, one, other = resources(nuke=(2, False)), view(1), view(2)
        wanted = Requirement(resources=(("nuke", 2),), min_hosts=2, max_hosts=2)
        assert not units.lacking(wanted, (one, other))
        units.take(wanted, one)
        units.take(wanted, other, first=False)
        assert units.used == {"nuke": 2}

    def test_per_machine_the_largest_amount_once(self) -> None:
        units, one, other = resources(render=(3, True)), view(1), view(2)
        small, large = Requirement(resources=(("render", 1),)), Requirement(resources=(("render", 2),))
        units.take(small, one)
        units.take(small, one)
        assert units.used == {"render": 1}
        units.take(large, one)
        assert units.used == {"render": 2}
        assert not units.lacking(large, (one,))  # it has them
        assert not units.lacking(small, (other,))
        assert units.lacking(large, (other,)) == "render"

    def test_a_maximum_below_what_is_in_use_drains(self) -> None:
        units, client, wanted = resources(render=(1, True)), view(), Requirement(resources=(("render", 2),))
        units.take(wanted, client)
        assert units.lacking(Requirement(resources=(("render", 1),)), (client,)) == "render"

    def test_what_is_kept_for_another_is_not_there(self) -> None:
        units, wanted = (
            resources(nuke=(4, False), render=(4, True)),
            Requirement(resources=(("nuke", 3), ("render", 1))),
        )
        assert units.keep_for(wanted, ()) == (("nuke", 3), ("render", 1))
        assert units.lacking(Requirement(resources=(("nuke", 2),)), (view(),)) == "nuke"
        assert not units.lacking(Requirement(resources=(("nuke", 1), ("render", 3))), (view(),))
        assert units.lacking(Requirement(resources=(("render", 4),)), (view(),)) == "render"
        assert units.said("nuke", wanted) == "nuke: 0 of 4 in use, 3 kept for jobs that come before, 3 wanted"
        units.keep_nothing()
        assert not units.lacking(Requirement(resources=(("nuke", 2),)), (view(),))

    def test_what_is_kept_on_clients_that_hold_some_already(self) -> None:
        units, client, wanted = (
            resources(render=(4, True), frei=(None, True)),
            view(),
            Requirement(resources=(("render", 3), ("frei", 2))),
        )
        units.take(Requirement(resources=(("render", 2),)), client)
        assert units.keep_for(wanted, (client,)) == (("render", 1),)  # of what is unlimited nothing need be kept

    def test_what_can_never_be(self) -> None:
        units = resources(nuke=(2, False), render=(3, True), frei=(None, False))
        assert units.impossible(Requirement(resources=(("nuke", 3),))) == "nuke"
        assert units.impossible(Requirement(resources=(("render", 2),), min_hosts=2, max_hosts=2)) == "render"
        assert units.impossible(Requirement(resources=(("niemand", 1),))) == "niemand"
        assert not units.impossible(Requirement(resources=(("nuke", 2), ("render", 3), ("frei", 99))))


class TestChoose:
    def test_priority_then_root_then_id(self) -> None:
        jobs = [(11, 0, 2), (12, 0, 1), (13, 5, 9), (10, 0, 2)]
        assert list(place({1: jobs}, {1: Requirement()}, [view(cpus=8)])) == [13, 12, 10, 11]

    def test_the_order_holds_across_requirements(self) -> None:
        queues = {1: [(1, 0, 1), (4, 0, 1)], 2: [(2, 0, 1), (3, 1, 1)]}
        requirements = {1: Requirement(), 2: Requirement(cpus=2)}
        assert list(place(queues, requirements, [view(cpus=6)])) == [3, 1, 2, 4]

    def test_what_does_not_fit_holds_up_nobody(self) -> None:
        queues = {1: [(1, 9, 1)], 2: [(2, 0, 1), (3, 0, 1)]}
        requirements = {1: Requirement(cpus=64), 2: Requirement()}
        assert place(queues, requirements, [view(cpus=2)]) == {2: 1, 3: 1}

    def test_what_fits_no_more_leaves_room_for_the_smaller(self) -> None:
        queues = {1: [(1, 9, 1), (2, 9, 1)], 2: [(3, 0, 1), (4, 0, 1)]}
        requirements = {1: Requirement(cpus=3), 2: Requirement()}
        assert place(queues, requirements, [view(cpus=4)]) == {1: 1, 3: 1}

    def test_a_shared_job_goes_where_it_leaves_least_idle(self) -> None:
        clients = [view(1, cpus=8), view(2, cpus=2), view(3, cpus=4)]
        assert place({1: [(1, 0, 1)]}, {1: Requirement(cpus=2)}, clients) == {1: 2}

    def test_a_client_is_filled_before_the_next_is_begun(self) -> None:
        clients = [view(1, cpus=4), view(2, cpus=4)]
        placed = place({1: [(job, 0, 1) for job in range(1, 6)]}, {1: Requirement()}, clients)
        assert list(placed.values()) == [1, 1, 1, 1, 2]

    def test_what_other_requirements_took_counts(self) -> None:
        clients = [view(1, "farm01", cpus=4), view(2, "farm02", cpus=8)]
        requirements = {
            1: Requirement(cpus=6, conditions=(Condition("hostname", "==", "farm02"),)),
            2: Requirement(cpus=2),
        }
        assert place({1: [(1, 5, 1)], 2: [(2, 0, 1), (3, 0, 1)]}, requirements, clients) == {1: 2, 2: 2, 3: 1}

    def test_what_others_took_since_a_requirement_was_looked_at_counts(self) -> None:
        """The second job goes where the one between has left less idle, not where the first look would have put it."""
        clients = [view(1, "host1", cpus=1), view(2, "host2"), view(3, "host3")]
        requirements = {
            1: Requirement(last=(9,)),
            2: Requirement(cpus=2, conditions=(Condition("hostname", "==", "host3"),)),
        }
        assert place({1: [(1, 5, 1), (3, 0, 3)], 2: [(2, 3, 2)]}, requirements, clients) == {1: 1, 2: 3, 3: 3}

    def test_a_single_job_gets_the_fastest_idle_one(self) -> None:
        clients = [view(1, speed=2000.0), view(2, speed=4000.0), view(3, speed=3000.0)]
        single = Requirement(singles=("single",))
        assert place({1: [(1, 0, 1), (2, 0, 1)]}, {1: single}, clients) == {1: 2, 2: 3}

    def test_singles_with_one_name_are_spread(self) -> None:
        clients = [view(1, cpus=8), view(2, cpus=8)]
        once = Requirement(singles=("single:x",))
        assert sorted(place({1: [(1, 0, 1), (2, 0, 1), (3, 0, 1)]}, {1: once}, clients).values()) == [1, 2]

    def test_what_is_in_use_counts(self) -> None:
        client = view(cpus=4)
        client.occupy(Requirement(cpus=3))
        assert list(place({1: [(1, 0, 1), (2, 0, 1)]}, {1: Requirement()}, [client])) == [1]

    def test_resources_without_a_maximum_are_no_limit_and_unknown_ones_wait(self) -> None:
        queues = {1: [(1, 0, 1)], 2: [(2, 0, 1)]}
        requirements = {1: Requirement(resources=(("render", 1),)), 2: Requirement(resources=(("niemand", 1),))}
        assert place(queues, requirements, [view()], resources(render=(None, False))) == {1: 1}

    def test_nothing_to_place_and_nowhere_to_place_it(self) -> None:
        assert place({}, {}, [view()]) == {}
        assert place({1: []}, {1: Requirement()}, [view()]) == {}
        assert place({1: [(1, 0, 1)]}, {1: Requirement()}, []) == {}

    @pytest.mark.parametrize("seed", range(40))
    def test_against_doing_it_the_slow_way(self, seed: int) -> None:
        """Whatever the farm: the queue's order, no client over its room, and nobody left out for whom there is room."""
        chance = random.Random(seed)
        requirements = {
            key: Requirement(
                cpus=chance.randint(1, 3),
                singles=chance.choice([(), (), (), ("single",), ("single:x",)]),
                conditions=chance.choice([(), (Condition("hostname", "in", "host1,host2"),)]),
            )
            for key in range(1, 6)
        }
        queues: dict[int, list[tuple[int, int, int]]] = {key: [] for key in requirements}
        for job in range(1, 40):
            queues[chance.randint(1, 5)].append((job, chance.randint(0, 3), chance.randint(1, 5)))

        def clients() -> list[ClientView]:
            return [view(number, f"host{number}", cpus=1 + number % 5) for number in range(1, 7)]

        placed = place(queues, requirements, clients())
        ranks = {job: (-priority, root, job) for jobs in queues.values() for job, priority, root in jobs}
        assert [ranks[job] for job in placed] == sorted(ranks[job] for job in placed)
        # Every job in order, on the client it was given, finds room there; one that was given none finds it nowhere.
        room = {client.id: client for client in clients()}
        of = {job: requirements[key] for key, jobs in queues.items() for job, _, _ in jobs}
        for job in sorted(ranks, key=ranks.__getitem__):
            fitting = {key for key, client in room.items() if obstacle(of[job], client, NOTHING) is None}
            assert (job in placed) == bool(fitting), (seed, job)
            if job in placed:
                assert placed[job] in fitting
                room[placed[job]].occupy(of[job])

    def test_pages_are_read_only_as_far_as_there_is_room(self) -> None:
        queue = [Candidate.of(job, 1, 0, 1) for job in range(1, 10_001)]
        jobs, fits, client = Jobs({1: queue}, {}), FitTable(), view(cpus=40)
        fits.renew([client.facts])
        made = plan({1: queue[0]}, {1: JOB}, [client], NOTHING, fits=fits, waiting=jobs, holders={}, times=jobs)
        assert [each.candidate.job_id for each in made.placements] == list(range(1, 41))
        assert jobs.asked == [(1, 1, 32), (1, 33, 64)]

    def test_a_client_that_failed_a_job_is_tried_last(self) -> None:
        clients = [view(1, cpus=2), view(2, cpus=8)]
        assert place({1: [(1, 0, 1)]}, {1: Requirement(last=(1,))}, clients) == {1: 2}
        assert place({1: [(1, 0, 1)]}, {1: Requirement(last=(1, 2))}, [view(1, cpus=2), view(2, cpus=8)]) == {1: 1}
        assert place({1: [(1, 0, 1)]}, {1: Requirement(last=(1,))}, [view(1, cpus=2)]) == {1: 1}

    def test_a_blocked_client_is_never_taken(self) -> None:
        full = busy(view(2, cpus=1), JOB)
        assert place({1: [(1, 0, 1)]}, {1: Requirement(blocked=(1,))}, [view(1), full]) == {}

    def test_where_all_are_blocked_blocks_do_not_count_and_the_fewest_failures_come_first(self) -> None:
        wanted = {1: Requirement(blocked=(2, 1))}
        clients = [busy(view(1, cpus=4), JOB), view(2, cpus=4)]
        assert place({1: [(1, 0, 1), (2, 0, 1)]}, wanted, clients) == {1: 2, 2: 2}
        assert place({1: [(1, 0, 1)]}, wanted, [view(1), view(2, standing=Standing.LOST)]) == {1: 1}
        # One is left that is not blocked; it may be off.
        assert place({1: [(1, 0, 1)]}, wanted, [view(1), view(2), view(3, standing=Standing.LOST)]) == {}
        # Those that can never run it do not count.
        assert place({1: [(1, 0, 1)]}, wanted, [view(1), view(3, cpus=0)]) == {1: 1}
        several_hosts = {1: Requirement(blocked=(1,), min_hosts=2, max_hosts=2)}
        assert len(place({1: [(1, 0, 1)]}, several_hosts, [view(1), view(2)])) == 1

    def test_a_client_that_refused_the_job_is_out_whatever_else_there_is(self) -> None:
        assert place({1: [(1, 0, 1)]}, {1: Requirement(refused=(1,))}, [view(1)]) == {}
        assert place({1: [(1, 0, 1)]}, {1: Requirement(refused=(1,), blocked=(2,))}, [view(1), view(2)]) == {1: 2}

    def test_resources_go_to_the_first_in_order(self) -> None:
        wanted = Requirement(resources=(("nuke", 1),))
        queues = {1: [(1, 0, 1), (2, 9, 1), (3, 0, 1)], 2: [(4, 0, 1)]}
        units = resources(nuke=(2, False))
        assert list(place(queues, {1: wanted, 2: JOB}, [view(cpus=8)], units)) == [2, 1, 4]

    def test_a_licence_per_machine_goes_on_with_the_machines_that_have_it(self) -> None:
        wanted = Requirement(resources=(("render", 1),))
        clients = [view(1, cpus=2), view(2, cpus=2), view(3, cpus=2)]
        placed = place({1: [(job, 0, 1) for job in range(1, 9)]}, {1: wanted}, clients, resources(render=(2, True)))
        assert sorted(placed.values()) == [1, 1, 2, 2]


def several(least: int, most: int | None = None, **more: Any) -> Requirement:
    return Requirement(min_hosts=least, max_hosts=most or least, **more)


class TestSeveralHosts:
    def test_together_or_not_at_all(self) -> None:
        clients = [view(number, cpus=4) for number in (1, 2)]
        assert place({1: [(1, 0, 1)]}, {1: several(3)}, clients) == {}
        assert all(client.free_cpus == 4 for client in clients)
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: several(2, cpus=3)}, clients).placements
        assert [client.id for client in placed.clients] == [1, 2]
        assert [client.free_cpus for client in clients] == [1, 1]

    def test_as_many_as_are_free_up_to_the_most(self) -> None:
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: several(2, 4)}, [view(n) for n in (1, 2, 3)]).placements
        assert len(placed.clients) == 3
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: several(2, 4)}, [view(n) for n in range(1, 9)]).placements
        assert len(placed.clients) == 4

    def test_only_as_many_as_there_are_licences(self) -> None:
        wanted = several(2, 4, resources=(("render", 1),))
        clients = [view(n) for n in (1, 2, 3, 4)]
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: wanted}, clients, resources(render=(3, True))).placements
        assert len(placed.clients) == 3
        clients = [view(n) for n in (1, 2, 3, 4)]
        assert place({1: [(1, 0, 1)]}, {1: wanted}, clients, resources(render=(1, True))) == {}

    def test_clients_that_hold_the_licence_already_come_first_where_there_are_too_few(self) -> None:
        wanted, units = several(2, 3, cpus=2, resources=(("render", 1),)), resources(render=(2, True))
        clients = [view(1, cpus=2), view(2, cpus=2), view(3, cpus=4), view(4, cpus=4)]
        for client in clients[2:]:
            units.take(Requirement(resources=(("render", 1),)), busy(client, JOB))
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: wanted}, clients, units).placements
        assert [client.id for client in placed.clients] == [3, 4]

    def test_of_those_that_hold_the_licence_the_command_runs_where_the_job_did_not_fail(self) -> None:
        wanted = several(1, 2, resources=(("render", 1),), last=(1,))
        clients, units = [view(1), view(2)], resources(render=(2, True))
        units.take(Requirement(resources=(("render", 1),)), busy(clients[0], JOB))
        (placed,) = make_plan({1: [(1, 0, 1)]}, {1: wanted}, clients, units).placements
        assert [client.id for client in placed.clients] == [2, 1]

    def test_what_licences_were_too_few_for_is_left_to_the_next_one(self) -> None:
        wanted = several(1, 3, resources=(("nuke", 1), ("render", 1)))
        units, clients = resources(nuke=(9, False), render=(2, True)), [view(n, cpus=2) for n in (1, 2, 3)]
        made = make_plan({1: [(job, 0, 1) for job in (1, 2, 3)]}, {1: wanted}, clients, units)
        assert [[client.id for client in each.clients] for each in made.placements] == [[1, 2], [1, 2]]

    def test_what_is_left_goes_to_others(self) -> None:
        queues = {1: [(1, 9, 1)], 2: [(2, 0, 1), (3, 0, 1)]}
        placed = place(queues, {1: several(2, cpus=4), 2: JOB}, [view(n) for n in (1, 2, 3)])
        assert placed == {1: 1, 2: 3, 3: 3}


SINGLE = Requirement(singles=("single",))


def held(made: Plan) -> dict[int, tuple[int, ...]]:
    """Return the clients held, by job."""
    return {job_id: hold.clients for job_id, hold in made.holds.items() if hold.clients}


def kept(made: Plan) -> dict[int, dict[str, int]]:
    """Return the units of resources kept, by job."""
    return {job_id: dict(hold.units) for job_id, hold in made.holds.items() if hold.units}


def rights(*job_ids: int, at: int = 1000) -> dict[int, HeldFor]:
    return {job_id: HeldFor(job_id, at) for job_id in job_ids}


class TestHolds:
    """Jobs have the number of their requirement here."""

    def plan(self, requirements: dict[int, Requirement], clients: list[ClientView], **more: Any) -> Plan:
        queues = {key: [(key, 10 - key, 1)] for key in requirements}
        return make_plan(queues, requirements, clients, **more)

    def test_who_could_starve(self) -> None:
        assert not needs_more_than_a_gap(Requirement(singles=("single:x",), resources=(("nuke", 1),)))
        assert not needs_more_than_a_gap(several(1, 2))  # one will do
        for wanted in (SINGLE, several(2, 2), Requirement(cpus=2), Requirement(resources=(("nuke", 2),))):
            assert needs_more_than_a_gap(wanted)

    def test_a_held_client_takes_only_what_comes_before(self) -> None:
        requirements = {1: JOB, 2: SINGLE, 3: JOB}
        made = self.plan(requirements, [busy(view(cpus=4), JOB)], holders=rights(2))
        assert [each.candidate.job_id for each in made.placements] == [1]
        assert held(made) == {2: (1,)}

    def test_without_the_right_nothing_is_held(self) -> None:
        made = self.plan({2: SINGLE, 3: JOB}, [busy(view(cpus=4), JOB)])
        assert [each.candidate.job_id for each in made.placements] == [3]
        assert held(made) == {}

    def test_the_right_is_the_first_jobs(self) -> None:
        made = self.plan({2: SINGLE, 3: JOB}, [busy(view(cpus=4), JOB)], holders={2: HeldFor(99, 0)})
        assert held(made) == {}

    def test_one_whose_run_is_youngest_is_expected_to_be_free_first(self) -> None:
        def held_with(since: dict[int, list[int]]) -> dict[int, tuple[int, ...]]:
            clients = [busy(view(n, cpus=4), JOB) for n in (1, 2, 3)]
            return held(self.plan({2: SINGLE, 3: JOB}, clients, holders=rights(2), since=since))

        since = {1: [100], 2: [900], 3: [500]}
        assert held_with(since) == {2: (2,)}
        # What was assigned since does not count: the one that is held gets nothing, and stays the one.
        assert held_with(since | {3: [1500]}) == {2: (2,)}

    def test_one_that_failed_the_job_is_held_last(self) -> None:
        clients = [busy(view(n, cpus=4), JOB) for n in (1, 2)]
        wanted = Requirement(cpus=4, last=(2,))
        made = self.plan({2: wanted}, clients, holders=rights(2), since={1: [1], 2: [900]})
        assert held(made) == {2: (1,)}

    @pytest.mark.parametrize(
        "unfit",
        [
            view(1, standing=Standing.DISABLED),
            view(1, standing=Standing.RESTING),
            view(1, cpus=1),
            view(1, os="windows"),
        ],
    )
    def test_a_client_that_would_not_do_is_not_held(self, unfit: ClientView) -> None:
        wanted = Requirement(cpus=2, platforms=("linux",))
        made = self.plan({2: wanted, 3: JOB}, [unfit, busy(view(2, cpus=2), JOB)], holders=rights(2))
        assert held(made) == {2: (2,)}

    def test_all_that_it_needs_or_none(self) -> None:
        clients = [view(1, cpus=2), busy(view(2, cpus=2), JOB)]
        requirements = {1: several(2, cpus=2), 2: several(2, cpus=2), 3: JOB, 4: Requirement(cpus=2)}
        made = self.plan(
            requirements, [*clients, busy(view(3, cpus=2), JOB)], holders=rights(1, 2), since={3: [5], 2: [9]}
        )
        # The first has the free one and the youngest; the second finds too few and holds nobody up.
        assert held(made) == {1: (1, 2)}
        assert [each.candidate.job_id for each in made.placements] == [3]
        assert made.placements[0].clients[0].id == 3

    def test_a_licence_is_kept_before_clients_are(self) -> None:
        wanted = Requirement(resources=(("nuke", 3),))
        units, small = resources(nuke=(4, False)), Requirement(resources=(("nuke", 1),))
        client = view(1, cpus=8)
        units.take(Requirement(resources=(("nuke", 2),)), client)
        made = self.plan({2: wanted, 3: small, 4: JOB}, [client], units=units, holders=rights(2))
        assert held(made) == {}
        assert kept(made) == {2: {"nuke": 3}}
        assert [each.candidate.job_id for each in made.placements] == [4]

    def test_nothing_is_kept_for_what_can_never_run(self) -> None:
        wanted = Requirement(cpus=4, resources=(("nuke", 3),))
        units, small = resources(nuke=(2, False)), Requirement(resources=(("nuke", 1),))
        made = self.plan({2: wanted, 3: small}, [busy(view(1, cpus=4), JOB)], units=units, holders=rights(2))
        assert held(made) == {}
        assert [each.candidate.job_id for each in made.placements] == [3]

    def test_a_licence_is_not_kept_for_what_no_client_would_take(self) -> None:
        wanted = Requirement(refused=(1,), resources=(("nuke", 2),))
        units, small = resources(nuke=(2, False)), Requirement(resources=(("nuke", 1),))
        made = self.plan({2: wanted, 3: small}, [view(1)], units=units, holders=rights(2))
        assert [each.candidate.job_id for each in made.placements] == [3]


class TestFitTable:
    def test_it_is_mended_where_a_client_changes(self) -> None:
        wanted = Requirement(cpus=2, conditions=(Condition("group", "==", "sim"),), blocked=(9,))
        sim = frozenset({"sim"})
        farm = {number: facts(number, groups=sim if number % 2 else frozenset()) for number in range(1, 21)}
        table = FitTable()
        table.renew(list(farm.values()))
        chance = random.Random(1)
        for _ in range(100):
            number = chance.randint(1, 24)
            if chance.random() < 0.2:
                farm.pop(number, None)
            else:
                farm[number] = facts(number, cpus=chance.randint(1, 3), groups=chance.choice([sim, frozenset()]))
            table.renew(list(farm.values()))
            right = {each.id for each in farm.values() if each.cpus > 1 and each.groups == sim and each.id != 9}
            assert table.fitting(1, wanted) == right

    def test_what_differs_only_in_what_is_in_use_shares_a_set(self) -> None:
        table = FitTable()
        table.renew([facts(1, cpus=4), facts(2, cpus=1)])
        wide = [Requirement(cpus=2, singles=(f"single:{n}",), last=(n,), resources=(("nuke", n),)) for n in range(3)]
        first, *others = (table.fitting(key, each) for key, each in enumerate(wide))
        assert first == {1}
        assert all(each is first for each in others)
        for key, other in enumerate((Requirement(), Requirement(cpus=2, blocked=(1,)), Requirement(cpus=2)), 3):
            assert (table.fitting(key, other) is first) == (key == 5)

    def test_what_nobody_waits_for_is_forgotten_where_there_is_too_much(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FitTable, "_MOST", 10)
        table = FitTable()
        table.renew([facts(1, "farm01"), facts(2, "farm02")])
        wanted = [Requirement(conditions=(Condition("hostname", "==", f"farm{n:02}"),)) for n in range(20)]
        kept = [table.fitting(key, each) for key, each in enumerate(wanted)]
        table.keep(range(1, 4))
        assert [table.fitting(key, wanted[key]) is kept[key] for key in (1, 2, 3, 4)] == [True, True, True, False]
        assert [table.fitting(key, wanted[key]) for key in (1, 2, 3, 4)] == [{1}, {2}, set(), set()]
        table.keep(range(20))  # as many as are waited for are kept, however many
        assert table.fitting(1, wanted[1]) is kept[1]
