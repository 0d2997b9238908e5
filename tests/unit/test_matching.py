"""Which job goes on which client."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hqueue.matching import (
    Candidate,
    ClientView,
    Condition,
    Requirement,
    choose,
    conditions_as_dicts,
    conditions_from,
    could_ever_run,
    fits_now,
    os_of,
    same_host,
    singles_of,
)


def view(client_id: int = 1, hostname: str = "farm07", cpus: int = 4, **more: Any) -> ClientView:
    values: dict[str, Any] = {
        "id": client_id,
        "hostname": hostname,
        "name": "",
        "os": "linux",
        "groups": frozenset(),
        "cpus": cpus,
        "speed": 3000.0,
        "takes_work": True,
        **more,
    }
    return ClientView(**values)


def place(
    queues: dict[int, list[tuple[int, int, int]]],
    requirements: dict[int, Requirement],
    clients: list[ClientView],
    unlimited: frozenset[str] = frozenset(),
) -> dict[int, int]:
    """Place jobs, given per requirement as (job, priority, root); return the client of each placed one, in order."""
    candidates = {
        key: sorted(Candidate.of(job, key, priority, root) for job, priority, root in jobs)
        for key, jobs in queues.items()
    }
    return {each.job_id: client.id for each, client in choose(candidates, requirements, clients, unlimited)}


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
        client = view(name="gpu", groups=frozenset({"Licht", "照明", "sim, fast"}))
        for op in ("==", "in", "any"):
            assert Condition(name, op, value).holds(client) is holds, op
        for op in ("!=", "not_in"):
            assert Condition(name, op, value).holds(client) is not holds, op

    def test_not_the_empty_hostname_is_everybody(self) -> None:
        assert Condition("hostname", "!=", "").holds(view())
        assert Condition("hostname", "!=", "").holds(view(hostname="farm07.studio.lan"))

    def test_the_unnamed_client(self) -> None:
        condition = Condition("hostname:name", "==", "farm07:")
        assert condition.holds(view())
        assert not condition.holds(view(name="gpu"))

    @pytest.mark.parametrize("value", ["macos", "macosx", "MacOSX", "windows; macos"])
    def test_macos_is_macosx(self, value: str) -> None:
        assert Condition("os", "==", value).holds(view(os="macosx"))

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
            ("", ".lan", True),
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


class TestWhereItFits:
    @pytest.mark.parametrize(
        ("requirement", "client", "fits"),
        [
            (Requirement(), view(), True),
            (Requirement(), view(takes_work=False), False),
            (Requirement(cpus=4), view(), True),
            (Requirement(cpus=5), view(), False),
            (Requirement(platforms=("linux",)), view(), True),
            (Requirement(platforms=("macosx", "windows")), view(), False),
            (Requirement(conditions=(Condition("os", "==", "linux"),)), view(), True),
            # All conditions must hold.
            (
                Requirement(conditions=(Condition("os", "==", "linux"), Condition("hostname", "==", "farm01"))),
                view(),
                False,
            ),
            (Requirement(resources=(("unbegrenzt", 2),)), view(), True),
            (Requirement(resources=(("nobody made it", 1),)), view(), False),
            (Requirement(resources=(("unbegrenzt", 1), ("limited", 1))), view(), False),
        ],
    )
    def test_could_ever_run(self, requirement: Requirement, client: ClientView, fits: bool) -> None:
        assert could_ever_run(requirement, client, frozenset({"unbegrenzt"})) is fits

    def test_cpus_are_shared_until_they_are_full(self) -> None:
        client = view(cpus=4)
        client.take(Requirement(cpus=3))
        assert fits_now(Requirement(cpus=1), client)
        assert not fits_now(Requirement(cpus=2), client)
        client.take(Requirement(cpus=1))
        assert client.free_cpus == 0
        assert not fits_now(Requirement(), client)

    def test_single_is_alone(self) -> None:
        client = view(cpus=8)
        assert fits_now(Requirement(singles=("single",)), client)
        client.take(Requirement(singles=("single",)))
        assert not fits_now(Requirement(), client)
        busy = view(cpus=8)
        busy.take(Requirement())
        assert not fits_now(Requirement(singles=("single",)), busy)

    def test_never_two_with_the_same_single_tag(self) -> None:
        client = view(cpus=8)
        client.take(Requirement(singles=("single:x", "single:y")))
        assert not fits_now(Requirement(singles=("single:x",)), client)
        assert not fits_now(Requirement(singles=("single:y", "single:z")), client)
        assert fits_now(Requirement(singles=("single:z",)), client)
        assert fits_now(Requirement(), client)

    def test_a_client_with_fewer_cpus_than_its_runs_take_has_no_room(self) -> None:
        client = view(cpus=2)
        client.take(Requirement(cpus=4))
        assert client.free_cpus == -2
        assert not fits_now(Requirement(), client)


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
        client.take(Requirement(cpus=3))
        assert list(place({1: [(1, 0, 1), (2, 0, 1)]}, {1: Requirement()}, [client])) == [1]

    def test_resources_without_a_maximum_are_no_limit_and_unknown_ones_wait(self) -> None:
        queues = {1: [(1, 0, 1)], 2: [(2, 0, 1)]}
        requirements = {1: Requirement(resources=(("render", 1),)), 2: Requirement(resources=(("niemand", 1),))}
        assert place(queues, requirements, [view()], frozenset({"render"})) == {1: 1}

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
            fitting = {
                key
                for key, client in room.items()
                if could_ever_run(of[job], client, frozenset()) and fits_now(of[job], client)
            }
            assert (job in placed) == bool(fitting), (seed, job)
            if job in placed:
                assert placed[job] in fitting
                room[placed[job]].take(of[job])
