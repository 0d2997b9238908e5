"""Notes and threads."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from hqueue import errors


def texts(api, thread_id):
    return [each["text"] for each in api.getNoteThreads([thread_id], ["notes"], ["text"])[0]["notes"]]


def test_whose_thread_a_note_goes_to(api_everywhere, caplog):
    api = api_everywhere
    machine = api.farm.machine("farm-ü", name="zwei")
    job_id = api.newjob({"name": "x"})[0]
    assert api.addNote("frei") is True
    (free,) = api.getNoteThreadIds()
    assert api.addNote("Auftrag", None, job_id) is True
    assert api.addNote("Rechner", "", "", machine.id) is True
    assert api.addNote("noch einer", 0, str(job_id), 0) is True
    assert api.addNote("zum freien", free) is True
    threads = api.getNoteThreadIds()
    assert [texts(api, each) for each in threads] == [["frei", "zum freien"], ["Auftrag", "noch einer"], ["Rechner"]]
    caplog.set_level(logging.WARNING)
    api.addNote("beide", free, job_id, machine.id)
    assert texts(api, threads[2]) == ["Rechner", "beide"]
    assert f"job {job_id} and client {machine.id}" in caplog.text
    api.addNote("Auftrag vor Faden", free, job_id)
    assert texts(api, threads[1])[-1] == "Auftrag vor Faden"
    assert api.getJob(job_id, ["threadId", "latestNote"]) == {"threadId": threads[1], "latestNote": "Auftrag vor Faden"}


def test_what_is_not_found_begins_a_free_thread(api):
    job_id = api.newjob({"name": "x"})[0]
    api.addNote("eins", 99)
    api.addNote("zwei", None, 99)
    api.addNote("drei", None, None, 99)
    assert api.getNoteThreadIds() == [1, 2, 3]
    api.addNote("gefunden", 1, job_id, 99)
    assert api.getJob(job_id, ["latestNote"]) == {"latestNote": "gefunden"}


def test_blank_notes_add_nothing_and_what_xml_cannot_carry_is_replaced(api):
    for blank in ("", "  \n", "\x07"):
        assert api.addNote(blank) is True
    assert api.getNoteThreadIds() == []
    api.addNote("a\x00b\ud800c")
    assert texts(api, 1) == ["ab\ufffdc"]
    with pytest.raises(errors.InvalidArgumentError, match="text is None"):
        api.addNote(None)
    with pytest.raises(errors.InvalidArgumentError, match="job_id is 'x'"):
        api.addNote("a", None, "x")


def test_every_attribute(api):
    machine = api.farm.machine("farm-ü", name="zwei")
    job_id = api.newjob({"name": "x"})[0]
    api.addNote("Rechner", None, None, machine.id)
    api.addNote("Auftrag", None, job_id)
    api.addNote("frei")
    owners = [
        {"clientHostname": "farm-ü", "clientId": machine.id, "clientLabel": "farm-ü:zwei", "jobId": None},
        {"clientHostname": None, "clientId": None, "clientLabel": None, "jobId": job_id},
        {"clientHostname": None, "clientId": None, "clientLabel": None, "jobId": None},
    ]
    found = api.getNoteThreads()
    for place, (thread, owner) in enumerate(zip(found, owners, strict=True), 1):
        (note,) = thread.pop("notes")
        assert thread == {**owner, "id": place}
        assert api.clock.now() - note.pop("date") < timedelta(seconds=1)
        assert note == {**owner, "id": place, "threadId": place, "text": ["Rechner", "Auftrag", "frei"][place - 1]}


def test_latest_notes(api):
    for text in ("a1", "b1"):
        api.addNote(text)
    api.addNote("a2", 1)
    assert api.getLatestNotes(None, ["text", "threadId"]) == [
        {"text": "a2", "threadId": 1},
        {"text": "b1", "threadId": 2},
    ]
    assert api.getLatestNotes([2, 99, 1], ["text"]) == [{"text": "b1"}, {"text": "a2"}]
    assert api.getLatestNotes([]) == []
    assert set(api.getLatestNotes()[0]) == {
        "clientHostname", "clientId", "clientLabel", "date", "id", "jobId", "text", "threadId",
    }  # fmt: skip
    assert api.getNoteThreads([2, 1, 99], ["id"]) == [{"id": 2}, {"id": 1}]
    with pytest.raises(errors.UnknownAttributeError, match="thread_attribs"):
        api.getNoteThreads(None, ["text"])
    with pytest.raises(errors.UnknownAttributeError, match="note_attribs"):
        api.getNoteThreads(None, None, ["notes"])


def test_whether_a_thread_exists(api):
    api.addNote("x")
    assert api.threadExists(1) is api.threadExists("1") is True
    assert api.threadExists(2) is api.threadExists(-1) is api.threadExists(10**30) is False
    for malformed in (None, "x", [1], {}, 1.5):
        assert api.threadExists(malformed) is None


def test_the_first_note_goes_last_and_takes_the_thread_along(api_everywhere):
    api = api_everywhere
    api.addNote("eins")
    (thread,) = api.getNoteThreadIds()
    api.addNote("zwei", thread)
    api.addNote("drei", thread)
    first, second, third = (note["id"] for note in api.getNoteThreads()[0]["notes"])
    assert api.removeSingleNote(first) is False
    assert api.removeSingleNote(second) is True
    assert api.removeSingleNote(second) is False
    assert api.removeNotes([first, third, 10**9]) == [first, 10**9]
    assert texts(api, thread) == ["eins"]
    assert api.removeNotes([first]) == []
    assert api.getNoteThreadIds() == []


def test_removing_many(api):
    for text in "abc":
        api.addNote(text)
    api.addNote("a2", 1)
    assert api.removeNotes([4, 1]) == []
    assert api.getNoteThreadIds() == [2, 3]
    assert api.removeThreads(["2", 99, 10**30]) == [99, str(10**30)]  # which no answer can carry as a number
    assert api.removeSingleThread(3) is True
    assert api.removeSingleThread(3) is False
    assert api.removeThreads(3) == [3]
    assert api.getLatestNotes() == []
    api.addNote("neu")
    assert api.getNoteThreadIds() == [4]  # ids are never used again


def test_a_deleted_job_takes_its_thread_along(api):
    job_id = api.newjob({"name": "x"})[0]
    api.addNote("x", None, job_id)
    api.deleteJobs([job_id])
    assert api.getNoteThreads() == []
