"""The table of SPEC 4.2 as it stands in the document, one line per event; `same` is spelled out when it is read.

It is a copy on purpose: the code is held against what was agreed, not against itself. A `-` is the document's dash:
it cannot come to pass, so that nothing may change.
"""

from __future__ import annotations

COLUMNS = (
    "queued",
    "runnable",
    "running",
    "pausing",
    "paused, no run",
    "paused, run",
    "resuming",
    "ejecting",
    "abandoned",
    "settled",
)
_DOCUMENT = """
pause | paused | paused | pausing | · | · | · | pausing | wish: ends `paused` | wish noted | ·
resume | · | · | · | resuming | B | resuming | · | · | wish cleared | ·
cancel | cancelled | cancelled | cancelled | cancelled | cancelled | cancelled | cancelled | cancelled | cancelled | ·
eject | · | · | ejecting | ejecting | · | ejecting | ejecting | · | B, fenced | ·
reschedule | · | · | · | · | · | · | · | · | B, fenced | B, afresh
last child settled | B | error | · | · | · | · | · | · | · | only `onChildError`, if it applies
child added | · | queued | · | · | · | · | · | · | · | `cancelled`: fault; else queued
assigned | stale | running | stale | stale | stale | stale | stale | stale | stale | stale
refused | error | error | B, or failed (6.7) | paused, no run, or failed (6.7) | error | error | B, or failed | B, or failed | B, or failed | closes the run
exited well | error | error | B, command done | same | error | same | same | same | same | closes the run
exited badly | error | error | tries left: B, one used, *rescheduled*; none: failed | same | error | same | same | same | same | closes the run
killed | error | error | by the reason of the kill | same | error | same | same | B (or paused), no try used | closes the run, B | closes the run
time exceeded | error | error | cancelled | cancelled | error | cancelled | cancelled | cancelled | cancelled | closes the run
halted | error | error | · | paused | error | · | - | · | · | ·
continued | error | error | · | - | error | · | running | · | · | ·
client lost | · | · | abandoned | abandoned | · | abandoned | abandoned | abandoned | · | run closed as *lost*
client back | - | - | - | - | - | - | - | - | as wished and reported | kill it
run lost | error | error | B, counted as a rescue | same | error | same | same | B, not counted | B, counted | closes the run
rescue | - | - | - | - | - | - | - | - | B (or paused), counted | -
"""  # noqa: E501 - lines of the document


def _read() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for line in _DOCUMENT.strip().splitlines():
        event, *cells = (part.strip() for part in line.split("|"))
        for place, cell in enumerate(cells):
            if cell == "same":
                cells[place] = next(before for before in reversed(cells[:place]) if before not in {"same", "error"})
        assert len(cells) == len(COLUMNS), event
        table[event] = tuple(cells)
    return table


TABLE = _read()
