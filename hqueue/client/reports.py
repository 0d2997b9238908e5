"""What the server is told of the runs: the list, the output, the end reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hqueue.protocol import Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hqueue.client.run import Run
    from hqueue.protocol import Listed, Report, Resend

PIECE_BYTES = 128 * 1024  # of one run, while others have output too
RESEND_PAUSE_S = 1.0


class Account:
    """Reads the runs for the server, and keeps what it answers about their output.

    An end report is due when all of the run's output has been handed over.
    """

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs

    def listing(self, now: float) -> list[Listed]:
        """Return every run as a heartbeat lists it."""
        return [run.listed(now) for run in self._runs.values()]

    def reports(self, now: float, limit: int) -> list[Report]:
        """Return end reports whose output has been handed over whole."""
        found = []
        for run in self._runs.values():
            if run.report is not None and run.report_at <= now and run.output.delivered:
                found.append(run.final_report(run.report))
                if len(found) == limit:
                    break
        return found

    def pieces(self, limit: int) -> list[Piece]:
        """Return output to send, `limit` bytes at most. Ended runs first, for their reports wait for it."""
        waiting = [run for run in self._runs.values() if not run.output.delivered]
        waiting.sort(key=lambda run: (run.report is None, run.output_turn))
        pieces = []
        share = limit if len(waiting) == 1 else PIECE_BYTES
        for run in waiting:
            if limit <= 0:
                break
            run.output_turn += 1
            offset, data = run.output.piece(min(limit, share))
            limit -= len(data)
            place: dict[str, Any] = {} if offset else {"pid": run.pid, **run.place}
            pieces.append(Piece(token=run.token, offset=offset, data=data, progress=run.output.progress, **place))
        return pieces

    @property
    def ended_output(self) -> bool:
        """Tell whether the output of an ended run is still to be handed over."""
        return any(run.report is not None and not run.output.delivered for run in self._runs.values())

    @property
    def running_output(self) -> bool:
        """Tell whether a running command has written something that is still to be handed over."""
        return any(run.report is None and not run.output.delivered for run in self._runs.values())

    @property
    def condemned(self) -> str:
        """Return what makes this machine unfit for work, as a sentence; "" if nothing does."""
        for run in self._runs.values():
            if run.kill is not None and run.kill.survivors:
                pids = ", ".join(map(str, run.kill.survivors[:5]))
                return f"process {pids} of job {run.job_id} would not die"
        return ""

    def resend(self, wanted: Iterable[Resend], now: float) -> None:
        """Send output again from where the server says, before the end report is repeated."""
        for entry in wanted:
            run = self._runs.get(entry.token)
            if run is not None:
                run.output.server_has(entry.length)
                run.report_at = now + RESEND_PAUSE_S

    def lengths(self, pieces: Sequence[Piece], lengths: Sequence[int]) -> bool:
        """Take the server's answer to pieces: how much it has of each. Tell whether an end report is due by that."""
        due = False
        for piece, length in zip(pieces, lengths, strict=True):
            run = self._runs.get(piece.token)
            if run is None:
                continue
            run.output.server_has(length)
            if run.output.delivered and run.report is not None:
                run.output.finish()
                due = True
        return due
