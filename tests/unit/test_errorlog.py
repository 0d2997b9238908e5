"""What the server logs as errors is kept, counted by its text."""

from __future__ import annotations

import logging

import pytest

from hqueue.errorlog import ErrorLog


@pytest.fixture
def errors():
    return ErrorLog()


@pytest.fixture
def logger(errors):
    made = logging.Logger("größe")  # noqa: LOG001 - one of its own, that no other test sees
    made.addHandler(errors)
    return made


def test_equal_texts_are_counted(errors, logger):
    for name in ("Plätte", "Netz", "Plätte"):
        logger.error("%s voll", name)
    logger.warning("Plätte voll")
    assert errors.pending() == {"Plätte voll": 2, "Netz voll": 1}
    assert errors.take() == {"Plätte voll": 2, "Netz voll": 1}
    assert errors.take() == {}


def test_an_exception_is_named_with_its_place_and_not_its_text(errors, logger):
    try:
        int("geheim")
    except ValueError:
        logger.exception("der Tick")
    ((text, count),) = errors.take().items()
    assert text.startswith("der Tick (ValueError in test_errorlog.py line ")
    assert "geheim" not in text
    assert count == 1


def test_what_comes_back_is_counted_with_what_came_since(errors, logger):
    logger.error("a")
    taken = errors.take()
    logger.error("a")
    logger.error("b")
    errors.give_back(taken)
    assert errors.take() == {"a": 2, "b": 1}


def test_a_flood_of_different_texts_is_bounded(errors, logger):
    for number in range(3_000):
        logger.error("Fehler %d", number)
    logger.error("Fehler 0")
    taken = errors.take()
    assert len(taken) == 1_000
    assert taken["Fehler 0"] == 2


def test_long_texts_are_cut(errors, logger):
    logger.error("x" * 100_000)
    (text,) = errors.take()
    assert len(text) == 2_000


def test_a_record_that_cannot_be_formatted_harms_nobody(errors, logger, capsys):
    logger.error("%d", "keine Zahl")
    assert "Logging error" in capsys.readouterr().err
    assert errors.take() == {}
