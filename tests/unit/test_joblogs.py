from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqueue.errors import StoreFullError, StoreUnavailableError
from hqueue.joblogs import JobLogs, LogPiece, RunLog
from hqueue.joblogs.runfile import FIRST_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOB, RUN = 12345, 678
HEADER = "attempt 1 on höhle07\n$ hython rendern.py"
END = "exit 3 after 4m12s, peak 31.2 GB"
GB = 1 << 30
FLUSHES = [name for name in ("fsync", "fdatasync") if hasattr(os, name)]


def header() -> str:
    return HEADER


def no_header() -> str:
    raise AssertionError("the header was there already")


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[JobLogs]:
    logs = JobLogs(tmp_path / "läufe", max_output_bytes=GB)
    yield logs
    logs.close()


def restarted(logs: JobLogs) -> JobLogs:
    logs.close()
    return JobLogs(logs.root, max_output_bytes=GB)


def whole(logs: JobLogs, *runs: int) -> str:
    titles = [RunLog(run, f"attempt {place} on höhle{run}") for place, run in enumerate(runs or (RUN,), 1)]
    return logs.tail_chars(JOB, titles, None, GB)


def in_pieces(logs: JobLogs, runs: list[RunLog], max_bytes: int) -> str:
    text, offset = "", 0
    while True:
        piece = logs.read(JOB, runs, offset, max_bytes)
        text += piece.text
        if piece.next == offset:
            assert offset == piece.end
            return text
        offset = piece.next


@contextmanager
def full_disk(at: int) -> Iterator[None]:
    """Let no file of this process grow past so many bytes: the write that tries stores a part and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestTheFile:
    def test_one_that_was_removed_is_asked_for_again(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"0123456789", header)
        logs.path(JOB, RUN).unlink()
        assert logs.append(JOB, RUN, 10, b"abc", header) == 0
        assert logs.length(JOB, RUN) == 0
        assert logs.append(JOB, RUN, 0, b"0123456789abc", header) == 13
        assert whole(logs) == "0123456789abc"

    def test_it_is_where_people_look_for_it(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"x", header)
        assert [one.relative_to(logs.root) for one in logs.root.rglob("*.log")] == [
            logs.path(JOB, RUN).relative_to(logs.root)
        ]
        assert str(logs.path(JOB, RUN)) == f"{logs.root}/000012/12345/678.log"
        assert str(logs.path(7, 1)) == f"{logs.root}/000000/7/1.log"

    def test_header_output_and_one_line_about_the_end(self, logs: JobLogs) -> None:
        assert logs.append(JOB, RUN, 0, "zwölf\n".encode(), header) == 7
        assert logs.append(JOB, RUN, 7, b"more", no_header) == 11
        logs.finish(JOB, RUN, no_header, END + "\nor not")
        first, *rest = logs.path(JOB, RUN).read_text(encoding="utf-8").split("\n")
        assert rest == [*HEADER.split("\n"), "zwölf", "more", f"{END} or not", ""]
        assert len(first) + 1 == FIRST_LINE_BYTES
        header_bytes = FIRST_LINE_BYTES + len(HEADER.encode()) + 1
        assert first == f"hqueue log 1: {header_bytes:08d} bytes of header, 000000000000011 bytes of output"

    def test_a_run_without_output_gets_a_log_at_its_end(self, logs: JobLogs) -> None:
        logs.finish(JOB, RUN, header, END)
        assert logs.path(JOB, RUN).read_text(encoding="utf-8").endswith(f"rendern.py\n{END}\n")
        assert (logs.length(JOB, RUN), whole(logs)) == (0, "")

    def test_no_bytes_make_no_file(self, logs: JobLogs) -> None:
        assert logs.append(JOB, RUN, 0, b"", no_header) == 0
        assert not logs.path(JOB, RUN).exists()
        logs.sync(JOB, RUN)

    def test_a_header_that_is_no_utf8_is_replaced(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"x", lambda: "\udcff")
        assert whole(logs) == "x"


class TestAppend:
    def test_what_is_there_is_skipped(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"012345", header)
        assert logs.append(JOB, RUN, 0, b"012", header) == 6
        assert logs.append(JOB, RUN, 4, b"456789", header) == 10
        assert logs.append(JOB, RUN, 10, b"", header) == 10
        assert whole(logs) == "0123456789"

    def test_a_gap_stores_nothing_and_says_where_to_send_from(self, logs: JobLogs) -> None:
        assert logs.append(JOB, RUN, 5, b"late", no_header) == 0
        assert not logs.path(JOB, RUN).exists()
        logs.append(JOB, RUN, 0, b"012", header)
        assert logs.append(JOB, RUN, 4, b"4", header) == 3
        assert logs.append(JOB, RUN, -1, b"0123456", header) == 3
        assert whole(logs) == "012"

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
    def test_any_pieces_in_any_order_build_a_prefix(
        self, tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, int]]
    ) -> None:
        output = bytes(range(40))
        logs = JobLogs(tmp_path_factory.mktemp("logs"), max_output_bytes=GB, max_open_files=1)
        expected = 0
        for start, stop in cuts:
            if start <= expected:
                expected = max(expected, stop)
            assert logs.append(JOB, RUN, start, output[start:stop], header) == expected
        logs.finish(JOB, RUN, header, END)
        assert restarted(logs).length(JOB, RUN) == expected
        assert whole(logs).encode() == output[:expected]
        logs.close()

    def test_late_output_of_a_finished_run_is_taken_in(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"one\n", header)
        logs.finish(JOB, RUN, header, "lost")
        assert logs.append(JOB, RUN, 0, b"one\n", no_header) == 4
        assert logs.path(JOB, RUN).read_bytes().endswith(b"one\nlost\n")
        assert restarted(logs).append(JOB, RUN, 4, b"two\n", no_header) == 8
        logs = restarted(logs)
        assert (logs.length(JOB, RUN), whole(logs)) == (8, "one\ntwo\n")
        logs.finish(JOB, RUN, no_header, END)
        assert logs.path(JOB, RUN).read_bytes().endswith(f"rendern.py\none\ntwo\n{END}\n".encode())


class TestFinish:
    def test_twice_is_as_once(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"x", header)
        logs.finish(JOB, RUN, header, END)
        before = logs.path(JOB, RUN).read_bytes()
        logs.finish(JOB, RUN, no_header, "something else")
        restarted(logs).finish(JOB, RUN, no_header, "something else")
        assert logs.path(JOB, RUN).read_bytes() == before

    def test_output_that_looks_like_a_log_stays_output(self, logs: JobLogs) -> None:
        logs.append(JOB, 1, 0, b"x", header)
        logs.finish(JOB, 1, header, END)
        copy = logs.path(JOB, 1).read_bytes()
        logs.append(JOB, RUN, 0, copy, header)
        logs = restarted(logs)
        assert logs.length(JOB, RUN) == len(copy)
        logs.finish(JOB, RUN, header, END)
        assert restarted(logs).length(JOB, RUN) == len(copy)
        assert whole(logs).encode() == copy

    @pytest.mark.parametrize("lost", [1, len(END), len(END) + 1, len(END) + 2])
    def test_half_a_line_is_written_anew(self, logs: JobLogs, lost: int) -> None:
        logs.append(JOB, RUN, 0, b"x", header)
        logs.finish(JOB, RUN, header, END)
        path, before = logs.path(JOB, RUN), logs.path(JOB, RUN).read_bytes()
        os.truncate(path, len(before) - lost)
        logs = restarted(logs)
        assert (logs.length(JOB, RUN), whole(logs)) == (1, "x")
        logs.finish(JOB, RUN, header, END)
        assert path.read_bytes() == before


class TestCrash:
    @pytest.mark.parametrize("left", [0, 1, FIRST_LINE_BYTES - 1, FIRST_LINE_BYTES, FIRST_LINE_BYTES + 10])
    def test_half_a_header_is_written_anew(self, logs: JobLogs, left: int) -> None:
        logs.append(JOB, RUN, 0, b"x" * 500, header)
        os.truncate(logs.path(JOB, RUN), left)
        logs = restarted(logs)
        assert (logs.length(JOB, RUN), whole(logs)) == (0, "")
        assert logs.append(JOB, RUN, 500, b"y", no_header) == 0
        assert logs.append(JOB, RUN, 0, b"new", lambda: "another, longer header of the same run") == 3
        assert whole(restarted(logs)) == "new"

    @pytest.mark.parametrize("junk", [b"\0", b"?"])
    def test_a_header_of_junk_is_written_anew(self, logs: JobLogs, junk: bytes) -> None:
        logs.append(JOB, RUN, 0, b"x" * 500, header)
        logs.path(JOB, RUN).write_bytes(junk * 600)
        logs = restarted(logs)
        assert logs.append(JOB, RUN, 500, b"y", no_header) == 0
        assert logs.append(JOB, RUN, 0, b"new", header) == 3
        assert restarted(logs).length(JOB, RUN) == 3

    def test_the_length_is_what_is_on_disk(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"0123456789", header)
        path = logs.path(JOB, RUN)
        os.truncate(path, path.stat().st_size - 4)
        logs = restarted(logs)
        assert logs.length(JOB, RUN) == 6
        assert logs.append(JOB, RUN, 10, b"ab", no_header) == 6
        assert logs.append(JOB, RUN, 6, b"6789ab", no_header) == 12
        assert whole(logs) == "0123456789ab"

    @pytest.mark.parametrize("zeros", [1, 70_000])
    def test_zeros_that_a_power_cut_left_are_sent_again(self, logs: JobLogs, zeros: int) -> None:
        logs.append(JOB, RUN, 0, b"012", header)
        path = logs.path(JOB, RUN)
        os.truncate(path, path.stat().st_size + zeros)
        logs = restarted(logs)
        assert logs.length(JOB, RUN) == 3
        assert logs.append(JOB, RUN, 3, b"345", no_header) == 6
        assert whole(logs) == "012345"

    def test_zeros_that_were_output_stay_while_the_process_lives(self, tmp_path: Path) -> None:
        logs = JobLogs(tmp_path, max_output_bytes=GB, max_open_files=1)
        logs.append(JOB, RUN, 0, b"\0\0", header)
        logs.append(JOB + 64, 1, 0, b"this closes the other's file", header)
        assert logs.length(JOB, RUN) == 2
        logs.finish(JOB, RUN, header, END)
        logs = restarted(logs)
        assert logs.length(JOB, RUN) == 2
        logs.close()

    def test_late_zeros_of_a_finished_run_stay_too(self, tmp_path: Path) -> None:
        logs = JobLogs(tmp_path, max_output_bytes=GB, max_open_files=1)
        logs.append(JOB, RUN, 0, b"x", header)
        logs.finish(JOB, RUN, header, END)
        logs.append(JOB, RUN, 1, b"\0", no_header)
        logs.append(JOB + 64, 1, 0, b"this closes the other's file", header)
        assert logs.length(JOB, RUN) == 2
        logs.close()


class TestAFullDisk:
    def test_one_sentence_and_nothing_half_written(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"012", header)
        size = logs.path(JOB, RUN).stat().st_size
        with full_disk(size + 10), pytest.raises(StoreFullError) as caught:
            logs.append(JOB, RUN, 3, b"x" * 11, header)
        assert caught.value.message == f"The output of job 12345 cannot be written in {logs.root}: File too large."
        assert logs.path(JOB, RUN).stat().st_size == size
        assert logs.length(JOB, RUN) == restarted(logs).length(JOB, RUN) == 3
        assert logs.append(JOB, RUN, 3, b"345", no_header) == 6
        assert whole(logs) == "012345"

    def test_no_place_for_the_header(self, logs: JobLogs) -> None:
        with full_disk(20), pytest.raises(StoreFullError):
            logs.append(JOB, RUN, 0, b"012", header)
        assert logs.length(JOB, RUN) == 0
        assert logs.append(JOB, RUN, 0, b"012", header) == 3
        assert whole(logs) == "012"

    def test_no_place_for_the_end(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"012", header)
        with full_disk(logs.path(JOB, RUN).stat().st_size + 5), pytest.raises(StoreFullError):
            logs.finish(JOB, RUN, header, END)
        assert logs.length(JOB, RUN) == restarted(logs).length(JOB, RUN) == 3
        logs.finish(JOB, RUN, header, END)
        assert logs.path(JOB, RUN).read_bytes().endswith(f"012\n{END}\n".encode())

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "datei").touch()
        with pytest.raises(StoreUnavailableError, match="datei/logs, cannot be used: Not a directory"):
            JobLogs(tmp_path / "datei/logs", max_output_bytes=GB)


class TestSync:
    def test_file_and_folders_reach_the_disk_once(self, logs: JobLogs, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[str] = []

        def fsync(fd: int, really: Callable[[int], None]) -> None:
            synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()).removeprefix(str(logs.root)))
            really(fd)

        for name in FLUSHES:
            monkeypatch.setattr(os, name, partial(fsync, really=getattr(os, name)))
        logs.append(JOB, RUN, 0, b"x", header)
        logs.sync(JOB, RUN)
        assert synced == ["/000012/12345/678.log", "/000012/12345", "/000012", ""]
        logs.sync(JOB, RUN)
        assert len(synced) == 4
        logs.append(JOB, RUN, 1, b"y", header)
        logs.sync(JOB, RUN)
        assert synced[4:] == ["/000012/12345/678.log"]

    def test_what_did_not_reach_it_is_sent_again(self, logs: JobLogs, monkeypatch: pytest.MonkeyPatch) -> None:
        logs.append(JOB, RUN, 0, b"012", header)
        logs.sync(JOB, RUN)
        logs.append(JOB, RUN, 3, b"345", header)

        def fsync(_fd: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as broken:
            for name in FLUSHES:
                broken.setattr(os, name, fsync)
            with pytest.raises(StoreUnavailableError, match="Input/output error"):
                logs.sync(JOB, RUN)
        assert logs.length(JOB, RUN) == 3
        assert logs.append(JOB, RUN, 3, b"345", no_header) == 6
        logs.sync(JOB, RUN)
        assert whole(logs) == "012345"

    def test_a_log_that_cannot_be_cut_back_is_not_relied_on(
        self, logs: JobLogs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel says only once that pages were lost: the next flush succeeds, without them."""

        def failing(*_: object) -> None:
            raise OSError(5, "Input/output error")

        logs.append(JOB, RUN, 0, b"012", header)
        with monkeypatch.context() as broken:
            for name in [*FLUSHES, "truncate", "ftruncate"]:
                broken.setattr(os, name, failing)
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="Input/output error"):
                    logs.sync(JOB, RUN)
            for name in FLUSHES:
                broken.setattr(os, name, lambda _: None)
            with pytest.raises(StoreUnavailableError, match="Input/output error"):
                logs.sync(JOB, RUN)
        assert logs.length(JOB, RUN) == 0
        assert logs.append(JOB, RUN, 0, b"012", no_header) == 3
        logs.sync(JOB, RUN)
        assert whole(logs) == "012"

    def test_what_was_cut_back_meanwhile_is_not_finished(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"012", header)
        assert logs.finish(JOB, RUN, no_header, "exit 0", least=4) == 3
        assert logs.append(JOB, RUN, 3, b"3", no_header) == 4
        assert logs.finish(JOB, RUN, no_header, "exit 0", least=4) == 4
        assert whole(logs) == "0123"


class TestRead:
    def test_nothing_yet(self, logs: JobLogs) -> None:
        assert whole(logs) == ""
        assert logs.read(JOB, [], 0, 100) == logs.read(JOB, [RunLog(RUN, "x")], 7, 100)
        assert logs.tail_chars(JOB, [], 5, 100) == ""

    def test_runs_in_order_with_a_line_between(self, logs: JobLogs) -> None:
        logs.append(JOB, 1, 0, b"ended\n", header)
        logs.append(JOB, 3, 0, b"not ended", header)
        logs.append(JOB, 2, 0, b"last", header)
        logs.finish(JOB, 1, header, END)
        assert whole(logs, 1) == "ended\n"
        assert whole(logs, 1, 3, 9, 2) == (
            "ended\n--- attempt 2 on höhle3 ---\nnot ended\n"
            "--- attempt 3 on höhle9 ---\n--- attempt 4 on höhle2 ---\nlast"
        )

    @pytest.mark.parametrize("max_bytes", [0, 1, 4, 5, 7, 64, 1000])
    def test_pieces_of_any_size_put_together_are_the_whole(self, logs: JobLogs, max_bytes: int) -> None:
        logs.append(JOB, 1, 0, "ö€😀e\u0301\n".encode() + b"\xff\xf0\x9f", header)
        logs.append(JOB, 2, 0, "zwölf €".encode(), header)
        runs = [RunLog(1, "a"), RunLog(2, "ü😀")]
        text = in_pieces(logs, runs, max_bytes)
        assert text == logs.tail_chars(JOB, runs, None, GB)
        assert text == "ö€😀e\u0301\n\ufffd\ufffd\n--- ü😀 ---\nzwölf €"

    def test_offsets_outside_are_brought_inside(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"0123", header)
        runs = [RunLog(RUN, "x")]
        assert logs.read(JOB, runs, -5, 100).text == "0123"
        late = logs.read(JOB, runs, 50, 100)
        assert (late.text, late.next, late.end) == ("", 4, 4)

    def test_half_a_character_waits_while_the_run_is_open(self, logs: JobLogs) -> None:
        euro = "€".encode()
        logs.append(JOB, RUN, 0, b"1 " + euro[:2], header)
        piece = logs.read(JOB, [RunLog(RUN, "x", open=True)], 0, 100)
        assert (piece.text, piece.next, piece.end) == ("1 ", 2, 4)
        assert logs.read(JOB, [RunLog(RUN, "x")], 0, 100).text == "1 \ufffd"
        logs.append(JOB, RUN, 4, euro[2:] + b"!", header)
        assert logs.read(JOB, [RunLog(RUN, "x", open=True)], piece.next, 100).text == "€!"

    def test_a_log_deleted_while_it_is_followed(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, b"0123456789", header)
        runs = [RunLog(RUN, "x", open=True)]
        first = logs.read(JOB, runs, 0, 4)
        logs.delete(JOB)
        assert first.text == "0123"
        gone = logs.read(JOB, runs, first.next, 4)
        assert (gone.text, gone.next, gone.end) == ("", 0, 0)

    def test_a_folder_that_cannot_be_read(self, logs: JobLogs) -> None:
        logs.path(JOB, RUN).mkdir(parents=True)
        with pytest.raises(
            StoreUnavailableError, match=r"The output of job 12345 cannot be read in .*läufe: Is a directory"
        ):
            whole(logs)


class TestTail:
    @given(st.text(st.sampled_from("a\nö€😀"), max_size=40), st.integers(1, 50), st.binary(max_size=3))
    def test_the_last_characters(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, chars: int, junk: bytes
    ) -> None:
        logs = JobLogs(tmp_path_factory.mktemp("logs"), max_output_bytes=GB)
        logs.append(JOB, RUN, 0, text.encode() + junk, header)
        full = (text.encode() + junk).decode("utf-8", "replace")
        assert logs.tail_chars(JOB, [RunLog(RUN, "x")], chars, GB) == full[-chars:]
        assert logs.tail_chars(JOB, [RunLog(RUN, "x")], 0, GB) == full
        logs.close()

    def test_it_reaches_back_over_runs(self, logs: JobLogs) -> None:
        logs.append(JOB, 1, 0, "früher".encode(), header)
        logs.append(JOB, 2, 0, b"now", header)
        assert logs.tail_chars(JOB, [RunLog(1, "a"), RunLog(2, "b")], 15, GB) == "r\n--- b ---\nnow"

    def test_one_answer_carries_at_most_so_much_and_says_what_is_left_out(self, logs: JobLogs) -> None:
        logs.append(JOB, RUN, 0, "0123456789ö€x".encode(), header)
        runs = [RunLog(RUN, "x")]
        left_out = "[{} bytes of output before this are left out]\n{}"
        assert logs.tail_chars(JOB, runs, None, 4) == left_out.format(12, "€x")
        assert logs.tail_chars(JOB, runs, -1, 5) == left_out.format(12, "€x")
        assert logs.tail_chars(JOB, runs, 100, 6) == left_out.format(10, "ö€x")
        assert logs.tail_chars(JOB, runs, 3, 6) == "ö€x"
        assert logs.tail_chars(JOB, runs, None, 16) == "0123456789ö€x"

    def test_of_a_huge_log_it_reads_no_more_than_of_a_small_one(
        self, logs: JobLogs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logs.append(JOB, RUN, 0, b"begin", header)
        path = logs.path(JOB, RUN)
        with path.open("r+b") as file:
            file.seek(10 << 30)
            file.write(b"the end \xe2\x82\xac\n")
        read: list[int] = []
        really = os.pread

        def pread(fd: int, length: int, offset: int) -> bytes:
            data = really(fd, length, offset)
            read.append(len(data))
            return data

        monkeypatch.setattr(os, "pread", pread)
        assert logs.tail_chars(JOB, [RunLog(RUN, "x")], 6, 64 << 20) == "end €\n"
        end = path.stat().st_size - FIRST_LINE_BYTES - len(HEADER.encode()) - 1
        assert logs.read(JOB, [RunLog(RUN, "x")], end - 4, 10) == LogPiece("€\n", end, end)
        assert sum(read) < 1000


class TestDelete:
    def test_all_runs_of_one_job_go(self, logs: JobLogs) -> None:
        for run in (1, 2):
            logs.append(JOB, run, 0, b"x", header)
        logs.append(JOB + 1, 3, 0, b"y", header)
        logs.delete(JOB)
        logs.delete(JOB)
        assert not logs.path(JOB, 1).parent.exists()
        assert (logs.length(JOB, 1), logs.length(JOB + 1, 3)) == (0, 1)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    logs = JobLogs(tmp_path, max_output_bytes=GB, max_open_files=64)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all
    for job in range(300):
        logs.append(job, job, 0, b"a", header)
    for job in range(300):
        assert logs.append(job, job, 1, b"b", no_header) == 2
    assert len(os.listdir("/proc/self/fd")) - before == 64  # noqa: PTH208
    logs.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
