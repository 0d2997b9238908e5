"""When a client is to be used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hqueue.matching import RuleError, open_now, read_rules, rules_as_dicts

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY, FRIDAY, SATURDAY, SUNDAY = 0, 4, 5, 6


def time(start: str, end: str, *days: int, **more: Any) -> dict[str, Any]:
    return {"type": "time", "start": start, "end": end} | ({"days": list(days)} if days else {}) | more


def at(text: str) -> datetime:
    """Return what the wall shows in Berlin at a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone(BERLIN)


NIGHT = [time("01:30", "02:30")]
LATE = [time("23:00", "04:00", FRIDAY)]


@pytest.mark.parametrize(
    ("rules", "utc", "idle", "used"),
    [
        # Without a rule a client is always used, and disabled rules do not count.
        ([], "2026-06-01T12:00", -1, True),
        ([{"type": "anytime"}], "2026-06-01T12:00", -1, True),
        ([{"type": "anytime", "enabled": False}], "2026-06-01T12:00", -1, True),
        ([{"type": "anytime", "enabled": False}, time("03:00", "04:00")], "2026-06-01T12:00", -1, False),
        ([time("03:00", "04:00"), {"type": "anytime"}], "2026-06-01T12:00", -1, True),
        # A window: its start belongs to it, its end does not. 12:00 UTC is 14:00 in Berlin in June.
        ([time("14:00", "15:00")], "2026-06-01T11:59:59", -1, False),
        ([time("14:00", "15:00")], "2026-06-01T12:00", -1, True),
        ([time("14:00", "15:00")], "2026-06-01T12:59:59", -1, True),
        ([time("14:00", "15:00")], "2026-06-01T13:00", -1, False),
        ([time("14:00", "15:00", MONDAY)], "2026-06-01T12:30", -1, True),
        ([time("14:00", "15:00", SUNDAY)], "2026-06-01T12:30", -1, False),
        ([time("00:00", "00:00")], "2026-06-01T12:30", -1, True),  # all day
        ([time("00:00", "00:00", SUNDAY)], "2026-05-31T22:30", -1, False),  # 00:30 on Monday
        # 23:00 to 04:00 belongs to Friday, 5 June 2026.
        (LATE, "2026-06-05T20:59", -1, False),
        (LATE, "2026-06-05T21:00", -1, True),
        (LATE, "2026-06-06T01:59", -1, True),  # Saturday, 03:59
        (LATE, "2026-06-06T02:00", -1, False),
        (LATE, "2026-06-05T00:30", -1, False),  # Friday, 02:30: that would be Thursday's night
        (LATE, "2026-06-06T21:30", -1, False),  # Saturday, 23:30
        # 29 March 2026: the clock goes from 02:00 to 03:00, and half of the window is not there.
        (NIGHT, "2026-03-29T00:29", -1, False),
        (NIGHT, "2026-03-29T00:30", -1, True),  # 01:30
        (NIGHT, "2026-03-29T00:59", -1, True),  # 01:59
        (NIGHT, "2026-03-29T01:00", -1, False),  # 03:00
        # 25 October 2026: the clock goes from 03:00 back to 02:00, and what it shows twice matches twice.
        (NIGHT, "2026-10-24T23:29", -1, False),  # 01:29
        (NIGHT, "2026-10-24T23:30", -1, True),  # 01:30
        (NIGHT, "2026-10-25T00:29", -1, True),  # 02:29
        (NIGHT, "2026-10-25T00:30", -1, False),  # 02:30
        (NIGHT, "2026-10-25T00:59", -1, False),  # 02:59
        (NIGHT, "2026-10-25T01:00", -1, True),  # 02:00 again
        (NIGHT, "2026-10-25T01:29", -1, True),  # 02:29 again
        (NIGHT, "2026-10-25T01:30", -1, False),
        # Idle: so many minutes since somebody touched the machine; where nobody knows, it is not idle.
        ([{"type": "idle", "minutes": 10}], "2026-06-01T12:00", 9, False),
        ([{"type": "idle", "minutes": 10}], "2026-06-01T12:00", 10, True),
        ([{"type": "idle", "minutes": 0}], "2026-06-01T12:00", 0, True),
        ([{"type": "idle", "minutes": 0}], "2026-06-01T12:00", -1, False),
        ([{"type": "idle", "minutes": 10}, time("14:00", "15:00")], "2026-06-01T12:00", 0, True),
        ([{"type": "idle", "minutes": 10, "enabled": False}], "2026-06-01T12:00", 0, True),
    ],
)
def test_when_a_client_is_used(rules: list[dict[str, Any]], utc: str, idle: int, used: bool) -> None:
    assert open_now(read_rules(rules), at(utc), idle) is used


def test_rules_go_out_as_they_came() -> None:
    given = [
        {"type": "anytime", "enabled": False},
        {"type": "time", "days": [0, 6], "start": "01:30", "end": "23:05", "enabled": True},
        {"type": "idle", "minutes": 5, "enabled": True},
    ]
    assert rules_as_dicts(read_rules(given)) == given
    assert rules_as_dicts(read_rules([{"type": "time", "start": "1:30", "end": "2:05"}])) == [
        {"type": "time", "days": [0, 1, 2, 3, 4, 5, 6], "start": "01:30", "end": "02:05", "enabled": True},
    ]


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ("immer", "rules is 'immer', but a list of rules was expected"),
        (None, "rules is None, but a list"),
        (["immer"], r"rules\[0\] is 'immer', but a rule"),
        ([{"type": "anytime"}, {"type": "never"}], r"rules\[1\].type is 'never', but one of anytime, time, idle"),
        ([{}], r"rules\[0\].type is missing"),
        ([{"type": []}], r"rules\[0\].type is \[\]"),
        ([time("25:00", "04:00")], r"rules\[0\].start is '25:00', but a time from 00:00 to 23:59"),
        ([time("24:00", "04:00")], r"rules\[0\].start"),
        ([time("23:60", "04:00")], r"rules\[0\].start"),
        ([time("03:00", "4")], r"rules\[0\].end is '4'"),
        ([{"type": "time", "start": "03:00"}], r"rules\[0\].end is missing"),
        ([time("03:00", "04:00", 7)], r"rules\[0\].days\[0\] is 7, but a day, 0 for Monday to 6 for Sunday"),
        ([time("03:00", "04:00", days=[0, "x"])], r"rules\[0\].days\[1\] is 'x'"),
        ([time("03:00", "04:00", days=[])], r"rules\[0\].days is \[\]"),
        ([time("03:00", "04:00", days=[True])], r"rules\[0\].days\[0\]"),
        ([{"type": "idle"}], r"rules\[0\].minutes is missing"),
        ([{"type": "idle", "minutes": -1}], r"rules\[0\].minutes is -1, but a whole number of minutes"),
        ([{"type": "idle", "minutes": "5"}], r"rules\[0\].minutes is '5'"),
        ([{"type": "anytime", "enabled": "ja"}], r"rules\[0\].enabled is 'ja', but True or False"),
        ([{"type": "anytime", "enabled": []}], r"rules\[0\].enabled"),
    ],
)
def test_what_is_no_rule(rules: Any, complaint: str) -> None:
    with pytest.raises(RuleError, match=complaint):
        read_rules(rules)
