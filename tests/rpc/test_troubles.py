"""What went wrong lately: counted, listed, and noted where people look."""

from __future__ import annotations

import logging

import pytest

from hqueue import maintenance
from hqueue.errors import InternalError, StoreUnavailableError
from hqueue.lifecycle import clients, troubles
from hqueue.rpc.method import exposed
from tests.storefarm import put

DAY_S = 86_400


@pytest.fixture
def logged(api):
    """Return a logger of ours whose errors the server keeps."""
    logger = logging.getLogger("hqueue")
    logger.addHandler(api.errors)
    yield logger
    logger.removeHandler(api.errors)


def messages(answer):
    return [(each["message"], each["count"]) for each in answer["errors"]]


def texts(api, **owner):
    """Return the notes of a job or a client."""
    ((key, value),) = owner.items()
    return [
        note["text"]
        for thread in api.getNoteThreads()
        for note in thread["notes"]
        if thread[{"job": "jobId", "client": "clientId"}[key]] == value
    ]


class TestServerErrors:
    def test_equal_ones_are_one_with_the_date_of_the_last(self, api_everywhere):
        api = api_everywhere
        for text in ("Plätte", "Netz", "Plätte"):
            api.clock.advance(60)
            api.errors.handle(logging.makeLogRecord({"levelno": logging.ERROR, "msg": text}))
            maintenance.save_errors(api.store, api.errors)
        found = api.getServerErrors()
        assert (found["total"], messages(found)) == (3, [("Plätte", 2), ("Netz", 1)])
        dates = [each["date"] for each in found["errors"]]
        assert dates[0] > dates[1]
        assert api.errors.pending() == {}

    def test_what_is_not_stored_yet_is_there_too(self, api, logged):
        logged.error("Plätte")
        maintenance.save_errors(api.store, api.errors)
        logged.error("Plätte")
        logged.warning("nur eine Warnung")
        assert messages(api.getServerErrors()) == [("Plätte", 2)]

    def test_a_fault_of_ours_is_one_and_does_not_tell_what_it_held(self, api, logged):
        class Broken:
            @exposed()
            def kaputt(self) -> bool:
                """Fail."""
                raise KeyError("SELECT geheim")

        api.table.add(Broken())
        with pytest.raises(InternalError):
            api.kaputt()
        ((message, count),) = messages(api.getServerErrors())
        assert message.startswith("kaputt failed (KeyError in test_troubles.py line ")
        assert count == 1

    def test_days_are_counted_apart_and_the_old_ones_go(self, api, logged):
        for _ in range(2):
            logged.error("Plätte")
            maintenance.save_errors(api.store, api.errors)
            api.clock.advance(20 * DAY_S)
        assert messages(api.getServerErrors()) == [("Plätte", 1)]
        api.clock.advance(20 * DAY_S)
        assert api.getServerErrors() == {"total": 0, "errors": []}

    def test_at_most_a_thousand(self, api):
        with api.store.writing() as session:
            for number in range(troubles.MOST + 20):
                troubles.count(session, f"Fehler {number}")
        found = api.getServerErrors()
        assert found["total"] == len(found["errors"]) == troubles.MOST
        assert "Fehler 0" not in {message for message, _ in messages(found)}
        assert f"Fehler {troubles.MOST + 19}" in {message for message, _ in messages(found)}

    def test_nothing_is_forgotten_while_the_store_is_away(self, api, logged):
        logged.error("Plätte")

        class Away:
            def write_soon(self, _function, *, durable):
                raise StoreUnavailableError

        with pytest.raises(StoreUnavailableError):
            maintenance.save_errors(Away(), api.errors)
        logged.error("Plätte")
        maintenance.save_errors(api.store, api.errors)
        assert messages(api.getServerErrors()) == [("Plätte", 2)]


class TestClients:
    def test_refusals_are_counted_and_the_first_of_a_row_is_noted(self, api):
        machine = api.farm.machine("farm-ü")
        for _ in range(3):
            machine.refuse(put(api.farm, "running", machine))
        assert messages(api.getClientErrors(machine.id)) == [("refused a job: the disk is full", 3)]
        assert texts(api, client=machine.id) == ["farm-ü refused job 1: the disk is full"]

    def test_lost_with_runs(self, api):
        machine, idle = api.farm.machine("farm-ü"), api.farm.machine("farm-ö")
        for _ in range(2):
            put(api.farm, "running", machine)
        machine.vanish()
        idle.vanish()
        assert texts(api, client=machine.id) == ["farm-ü stopped reporting with 2 runs (jobs 1, 2)"]
        assert messages(api.getClientErrors(machine.id)) == [("stopped reporting while it ran jobs", 1)]
        assert api.getClientErrors(idle.id)["total"] == 0
        assert texts(api, client=idle.id) == []

    def test_condemned(self, api):
        machine = api.farm.machine("farm-ü")
        for why in ("process 4711 does not die", "", "process 4711 does not die"):
            api.farm.write(lambda session, said=why: clients.condemn(session, machine.id, machine.label, said))
        assert texts(api, client=machine.id) == ["farm-ü takes no more work: process 4711 does not die"]
        assert messages(api.getClientErrors(machine.id)) == [("takes no more work: process 4711 does not die", 2)]
        assert api.getClient(machine.id, ["state", "latestNote"]) == {
            "state": "condemned",
            "latestNote": "farm-ü takes no more work: process 4711 does not die",
        }


class TestJobs:
    def test_a_rescue_is_noted_and_the_end_of_rescues_too(self, api):
        machine = api.farm.machine("farm-ü")
        job_id = put(api.farm, "running", machine)
        for _ in range(2):
            machine.lose(job_id)
            api.farm.start(job_id, machine)
        machine.lose(job_id)
        lost = "lost: the machine was restarted, client farm-ü"
        assert texts(api, job=job_id) == [
            f"{lost}: rescue 1 of 2",
            f"{lost}: rescue 2 of 2",
            "its client was lost 2 times, and now again",
        ]
        assert api.getJob(job_id, ["status"]) == {"status": "failed"}
        assert messages(api.getClientErrors(machine.id)) == [("lost a run: the machine was restarted", 3)]

    def test_the_schedulers_rescue(self, api):
        machine = api.farm.machine("farm-ü")
        job_id = put(api.farm, "running", machine)
        machine.vanish()
        api.farm.later(16)
        assert texts(api, job=job_id) == ["its client did not come back: rescue 1 of 2"]
