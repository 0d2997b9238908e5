from __future__ import annotations

import signal

import pytest

from hqueue.client.platforms import ProcessRow
from hqueue.client.processes import Kill, Pack, mark
from tests.clientfakes import FakeSystem

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
STOP, CONT = signal.SIGSTOP, signal.SIGCONT
MARK = mark("schlüssel", "run-1")


@pytest.fixture
def system() -> FakeSystem:
    return FakeSystem()


def pids(rows: list[ProcessRow]) -> list[int]:
    return sorted(row.pid for row in rows)


class TestMembers:
    def test_found_by_group_session_tree_and_mark(self, system: FakeSystem) -> None:
        system.add(100)
        system.add(101, parent=100, group=100, session=100)
        system.add(102, parent=1, group=102, session=100)
        system.add(103, parent=101, group=103, session=103)
        system.add(104, parent=103, group=103, session=103)
        system.add(105, parent=1, group=105, session=105, mark=MARK)
        system.add(106, parent=105, group=106, session=106)
        system.add(200, parent=1, mark=mark("schlüssel", "run-2"))
        system.add(201, parent=100, started=1.0)  # older than what is said to be its parent: the number was used again
        assert pids(Pack(MARK, 100, 10.0, system).members()) == [100, 101, 102, 103, 104, 105, 106]

    def test_zombies_are_dead(self, system: FakeSystem) -> None:
        system.add(100, zombie=True)
        system.add(101, parent=100, group=100, session=100, zombie=True)
        assert Pack(MARK, 100, 10.0, system).members() == []

    def test_who_was_seen_once_is_remembered(self, system: FakeSystem) -> None:
        system.add(100)
        system.add(101, parent=100, group=100, session=100)
        pack = Pack(MARK, 100, 10.0, system)
        pack.members()
        system.remove(100)
        system.add(101, parent=1, group=101, session=101)
        assert pids(pack.members()) == [101]

    def test_a_number_used_again_is_somebody_else(self, system: FakeSystem) -> None:
        system.add(100, started=99.0)
        system.add(101, parent=100, group=100, session=100, started=99.0)
        pack = Pack(MARK, 100, 10.0, system)
        assert pack.members() == []
        pack.signal(KILL)
        assert system.sent == []

    def test_a_run_whose_leader_was_never_known(self, system: FakeSystem) -> None:
        system.add(100, mark=MARK)
        system.add(101, parent=1)
        assert pids(Pack(MARK, 0, 0.0, system).members()) == [100]

    def test_marks_differ_between_clients(self) -> None:
        assert mark("a", "run-1") != mark("b", "run-1")


class TestKill:
    def test_the_group_at_one_stroke_and_the_others_one_by_one(self, system: FakeSystem) -> None:
        system.add(100)
        system.add(101, parent=100, group=100, session=100)
        system.add(102, parent=100, group=102, session=102)
        Kill(Pack(MARK, 100, 10.0, system), 10.0, gentle=True, now=0.0).advance(0.0)
        assert system.sent == [(-100, INT), (-100, CONT), (102, INT), (102, CONT)]

    def test_the_steps_and_the_proof(self, system: FakeSystem) -> None:
        system.add(100)
        kill = Kill(Pack(MARK, 100, 10.0, system), 10.0, gentle=True, now=0.0)
        now, steps = 0.0, []
        while not kill.survivors and now < 100:
            before = len(system.sent)
            kill.advance(now)
            steps += [(now, number) for _, number in system.sent[before:] if number != CONT]
            assert not kill.gone
            assert kill.due > now
            now = kill.due
        assert steps == [(0.0, INT), (10.0, TERM), (20.0, KILL), (30.0, KILL)]
        assert kill.survivors == [100]
        system.remove(100)
        kill.advance(now)
        assert kill.gone
        assert kill.survivors == []

    def test_the_leaders_end_is_no_proof(self, system: FakeSystem) -> None:
        system.add(100)
        system.add(101, parent=100, group=101, session=101)
        kill = Kill(Pack(MARK, 100, 10.0, system), 10.0, gentle=True, now=0.0)
        kill.advance(0.0)
        system.remove(100)
        kill.look_soon(1.0)
        assert kill.due <= 1.0
        kill.advance(1.0)
        assert not kill.gone
        system.remove(101)
        kill.advance(2.0)
        assert kill.gone

    def test_what_nobody_can_wait_for_any_more_is_killed_at_once(self, system: FakeSystem) -> None:
        system.add(100)
        Kill(Pack(MARK, 100, 10.0, system), 10.0, gentle=False, now=0.0).advance(0.0)
        assert system.sent[0] == (-100, KILL)


class TestHalt:
    def test_again_while_new_ones_appear_outside_of_the_group(self, system: FakeSystem) -> None:
        system.add(100)
        system.add(102, parent=100, group=102, session=102)
        pack = Pack(MARK, 100, 10.0, system)
        system.appear_on_refresh = [ProcessRow(103, 102, 102, 102, 11.0, zombie=False)]
        pack.stop()
        assert {target for target, number in system.sent if number == STOP} == {-100, 102, 103}
        system.sent.clear()
        pack.go_on()
        assert {target for target, number in system.sent if number == CONT} == {-100, 102, 103}
