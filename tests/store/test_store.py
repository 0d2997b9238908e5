"""Transactions, shared commits, and who may have a store: on each database."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sqlite3
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

import hqueue.store
from hqueue import database
from hqueue.clock import SystemClock
from hqueue.errors import (
    BrokenPromiseError,
    ConfigError,
    HQueueError,
    JobStateError,
    Kind,
    OutcomeUnknownError,
    StoreFullError,
    StoreUnavailableError,
)
from hqueue.failures import kind_of
from hqueue.remote import Epoch
from hqueue.schema import client_group, event, job, metadata, requirement
from hqueue.store import RunBulk, Store, WakeClient, WakeScheduler
from tests.fakes import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hqueue.store import Instruction, Session
    from tests.fakes import FakeClock
    from tests.storefarm import StoreFarm


def add_group(session: Session, name: str) -> str:
    session.connection.execute(sa.insert(client_group).values(name=name))
    return name


def groups(store: Store) -> list[str]:
    with store.reading() as connection:
        return list(connection.execute(sa.select(client_group.c.name).order_by(client_group.c.id)).scalars())


def test_what_fails_inside_of_a_shared_commit_is_undone_alone(store: Store) -> None:
    errors: list[Exception | None] = []

    def call(session: Session) -> None:
        add_group(session, "vorher")
        errors.append(session.attempt(lambda: add_group(session, "gelungen")))
        errors.append(session.attempt(lambda: (add_group(session, "halb"), add_group(session, "vorher"))))
        errors.append(session.attempt(lambda: errors.append(session.attempt(lambda: add_group(session, "vorher")))))
        add_group(session, "nachher")

    store.write_soon(call).result(PATIENCE_S)
    assert groups(store) == ["vorher", "gelungen", "nachher"]
    assert [type(error) for error in errors] == [type(None), sa.exc.IntegrityError, sa.exc.IntegrityError, type(None)]


over_the_network = pytest.mark.databases("postgresql", "mysql")


class Boom(Exception):  # noqa: N818 - an exception of the test's own
    pass


class TestWriting:
    def test_commits_at_the_end(self, store: Store) -> None:
        with store.writing() as session:
            add_group(session, "Licht")
            assert groups(store) == []
        assert groups(store) == ["Licht"]

    def test_rolls_back_when_it_raises(self, store: Store) -> None:
        nudges: list[Instruction] = []
        store.on_commit = nudges.extend
        cache: dict[str, int] = {}
        with pytest.raises(Boom), store.writing() as session:  # noqa: PT012 - the block is the transaction
            add_group(session, "Licht")
            session.record(1, "submitted", "runnable")
            session.after_commit(WakeScheduler())
            session.remember(cache, "a", 1)
            raise Boom
        assert groups(store) == []
        assert (nudges, cache) == ([], {})
        with store.writing() as session:
            add_group(session, "照明")
        assert groups(store) == ["照明"]

    def test_nudges_come_after_the_commit_once_each(self, store: Store) -> None:
        seen: list[tuple[list[str], list[Instruction]]] = []

        def collect(instructions: Sequence[Instruction]) -> None:
            seen.append((groups(store), list(instructions)))

        store.on_commit = collect
        with store.writing() as session:
            for instruction in (WakeScheduler(), WakeClient(1), WakeScheduler(), WakeClient(2), WakeClient(1)):
                session.after_commit(instruction)
            add_group(session, "Licht")
        assert seen == [(["Licht"], [WakeScheduler(), WakeClient(1), WakeClient(2)])]

    def test_a_nudge_that_fails_does_not_undo_anything(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        def broken(_: object) -> None:
            raise Boom

        store.on_commit = broken

        def write(session: Session) -> str:
            session.after_commit(RunBulk())
            return add_group(session, "Licht")

        assert store.write_soon(write).result(PATIENCE_S) == "Licht"
        assert groups(store) == ["Licht"]
        assert "a nudge after a commit failed" in caplog.text

    def test_a_bug_of_ours_stays_one(self, store: Store) -> None:
        with pytest.raises(sa.exc.IntegrityError), store.writing() as session:  # noqa: PT012 - same
            add_group(session, "Licht")
            add_group(session, "Licht")
        with store.writing() as session:  # the next one has a sound connection
            add_group(session, "Licht")
        assert groups(store) == ["Licht"]

    def test_the_moment_is_the_clocks(self, store: Store, clock: FakeClock) -> None:
        with store.writing() as session:
            assert session.now_ms == int(clock.now().timestamp() * 1000)

    def test_text_is_kept_byte_for_byte(self, store: Store) -> None:
        names = ["Größe", "größe", "gro\u0308sse", "影 🎬", "a b", "\u2028", "'; DROP TABLE job; --", "%s :x"]
        with store.writing() as session:
            for name in names:
                add_group(session, name)
        assert groups(store) == names

    def test_numbers_of_64_bits(self, store: Store) -> None:
        with store.writing() as session:
            session.connection.execute(
                sa.insert(event).values(seq=2**62, job_id=2**62, at=2**60, event="e", status="runnable", message="")
            )
        with store.reading() as connection:
            assert connection.execute(sa.select(event.c.job_id)).scalar_one() == 2**62
        with store.writing() as session:
            session.connection.execute(sa.delete(event))


class TestReading:
    def test_a_snapshot_does_not_see_what_is_written_meanwhile(self, store: Store) -> None:
        with store.reading() as connection:
            before = connection.execute(sa.select(sa.func.count()).select_from(client_group)).scalar_one()
            with store.writing() as session:
                add_group(session, "Licht")
            after = connection.execute(sa.select(sa.func.count()).select_from(client_group)).scalar_one()
        assert (before, after) == (0, 0)
        assert groups(store) == ["Licht"]

    def test_it_never_commits(self, store: Store) -> None:
        with store.reading() as connection:
            connection.execute(sa.insert(client_group).values(name="heimlich"))
        assert groups(store) == []


class TestNumbers:
    def test_they_begin_with_one_and_go_on(self, store: Store) -> None:
        with store.writing() as session:
            assert [session.allocate("job"), session.allocate("job", 5), session.allocate("job")] == [1, 2, 7]
            assert session.allocate("run") == 1
        with store.writing() as session:
            assert session.allocate("job") == 8

    def test_never_again_after_a_rollback(self, store: Store) -> None:
        with pytest.raises(Boom), store.writing() as session:  # noqa: PT012 - the block is the transaction
            first = session.allocate("job", 3)
            raise Boom
        with store.writing() as session:
            assert session.allocate("job") > first

    def test_also_in_the_next_process(self, store: Store, clock: FakeClock) -> None:
        with pytest.raises(Boom), store.writing() as session:  # noqa: PT012 - the block is the transaction
            session.allocate("job", 100)  # in memory alone
            raise Boom
        with store.writing() as session:
            last = session.allocate("job", 10) + 9
        store.close()
        again = Store(store.engine.url.render_as_string(hide_password=False), clock=clock)
        again.open()
        with again.writing() as session:
            assert session.allocate("job") == last + 1
        again.close()
        store.open()

    def test_events_are_numbered_in_commit_order(self, store: Store) -> None:
        def record(session: Session, job_id: int, *, fail: bool = False) -> None:
            session.record(job_id, "note", "runnable")
            if fail:
                raise Boom

        futures = [
            store.write_soon(lambda session, n=n: record(session, n, fail=n % 3 == 0))  # type: ignore[misc]
            for n in range(1, 10)
        ]
        for n, future in enumerate(futures, 1):
            assert isinstance(future.exception(PATIENCE_S), Boom if n % 3 == 0 else type(None))
        with store.reading() as connection:
            rows = connection.execute(sa.select(event.c.seq, event.c.job_id).order_by(event.c.seq)).all()
        assert [job_id for _, job_id in rows] == [1, 2, 4, 5, 7, 8]
        assert [seq for seq, _ in rows] == [1, 2, 3, 4, 5, 6]


class TestSharedCommits:
    def test_the_future_resolves_when_it_is_committed(self, store: Store) -> None:
        future = store.write_soon(lambda session: add_group(session, "Licht"))
        assert future.result(PATIENCE_S) == "Licht"
        assert groups(store) == ["Licht"]

    @pytest.mark.parametrize("error", [Boom(), JobStateError("geht nicht")])
    def test_one_bad_call_fails_alone(self, store: Store, error: Exception) -> None:
        cache: dict[str, int] = {}

        def bad(session: Session) -> None:
            add_group(session, "schlecht")
            session.after_commit(WakeClient(666))
            session.record(666, "note", "runnable")
            session.remember(cache, "bad", 1)
            assert session.recall(cache, "bad") == 1
            raise error

        def good(session: Session) -> str:
            session.after_commit(WakeClient(1))
            session.remember(cache, "good", 1)
            assert session.recall(cache, "bad") is None
            return add_group(session, "gut")

        nudges: list[Instruction] = []
        store.on_commit = nudges.extend
        with store.writing():  # all of them wait, and share the next commit
            futures = [store.write_soon(bad), store.write_soon(good), store.write_soon(bad)]
        assert [future.exception(PATIENCE_S) for future in futures] == [error, None, error]
        assert groups(store) == ["gut"]
        assert (nudges, cache) == ([WakeClient(1)], {"good": 1})

    def test_a_broken_statement_fails_alone(self, store: Store) -> None:
        def twice(session: Session) -> None:
            add_group(session, "doppelt")
            add_group(session, "doppelt")

        with store.writing():
            futures = [
                store.write_soon(lambda session: add_group(session, "a")),
                store.write_soon(twice),
                store.write_soon(lambda session: add_group(session, "b")),
            ]
        assert [future.exception(PATIENCE_S) is None for future in futures] == [True, False, True]
        assert groups(store) == ["a", "b"]

    def test_closing_finishes_what_was_handed_in(self, store: Store) -> None:
        with store.writing():
            futures = [store.write_soon(lambda session, n=n: add_group(session, f"g{n}")) for n in range(50)]  # type: ignore[misc]
        store.close()
        assert [future.result(PATIENCE_S) for future in futures] == [f"g{n}" for n in range(50)]
        store.open()
        assert len(groups(store)) == 50

    def test_after_closing_nothing_is_taken(self, store: Store) -> None:
        store.close()
        store.close()
        with pytest.raises(StoreUnavailableError, match="stopping"):
            store.write_soon(lambda session: add_group(session, "spät")).result(PATIENCE_S)
        with pytest.raises(StoreUnavailableError, match="closed"), store.writing():
            pass
        store.open()


class TestUnavailable:
    @pytest.mark.parametrize(("kind", "driver"), [("postgresql", "psycopg"), ("mysql", "pymysql")])
    def test_an_unreachable_database(self, clock: FakeClock, kind: str, driver: str) -> None:
        url = f"{kind}+{driver}://nobody@127.0.0.1:1/nothing"
        if importlib.util.find_spec(driver) is None:
            with pytest.raises(ConfigError, match=f"needs the driver '{driver}', which is not installed"):
                Store(url, clock=clock)
            return
        store = Store(url, clock=clock)
        with pytest.raises(StoreUnavailableError):
            store.open()

    @over_the_network
    def test_a_broken_connection_is_one_error_and_the_next_transaction_goes_on(
        self, store: Store, backend: str
    ) -> None:
        _kill_connections(store, backend)
        with pytest.raises(StoreUnavailableError), store.writing() as session:
            add_group(session, "weg")
        with store.writing() as session:
            add_group(session, "da")
        assert groups(store) == ["da"]
        _kill_connections(store, backend)
        with pytest.raises(StoreUnavailableError):
            store.write_soon(lambda session: add_group(session, "weg")).result(PATIENCE_S)
        assert store.write_soon(lambda session: add_group(session, "wieder")).result(PATIENCE_S) == "wieder"

    @over_the_network
    def test_a_session_that_was_ended_while_idle_costs_nobody_a_fault(
        self, store: Store, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _kill_connections(store, backend)
        monkeypatch.setattr(hqueue.store, "_FRESH_S", 0)
        with store.writing() as session:
            add_group(session, "da")
        assert groups(store) == ["da"]

    def test_the_latest_write_says_how_the_store_is(self, store: Store, clock: FakeClock) -> None:
        with store.writing() as session:
            add_group(session, "Licht")
        assert store.trouble() == ""
        clock.advance(6)
        assert "no write" in store.trouble()
        store.prove()
        assert store.trouble() == ""
        real = store._writing_connection

        def away() -> Any:
            raise StoreUnavailableError

        store._writing_connection = away  # type: ignore[method-assign]
        clock.advance(3)
        with pytest.raises(StoreUnavailableError):
            store.prove()
        store._writing_connection = real  # type: ignore[method-assign]
        assert "cannot be used" in store.trouble()
        store.prove()
        assert store.trouble() == ""

    def test_who_waits_while_it_is_away_is_told(self, store: Store, backend: str) -> None:
        """They are not tried again for ever, and the thread of the shared commits lives on."""
        real = store._writing_connection

        def away() -> Any:
            raise StoreUnavailableError

        with store.writing():
            futures = [store.write_soon(lambda session: add_group(session, "weg")) for _ in range(3)]
            store._writing_connection = away  # type: ignore[method-assign]
        for future in futures:
            with pytest.raises(StoreUnavailableError):
                future.result(PATIENCE_S)
        store._writing_connection = real  # type: ignore[method-assign]
        assert store.write_soon(lambda session: add_group(session, "da")).result(PATIENCE_S) == "da"

    def test_a_full_disk_loses_nothing_that_was_acknowledged(self, sqlite_store: Store) -> None:
        """SQLite gives up the whole transaction then, also what others had written in it."""
        store = sqlite_store

        def fill(session: Session) -> None:
            pages = session.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            session.connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
            session.connection.execute(
                sa.insert(requirement).values(digest="voll", spec_json="x" * 1_000_000),
            )

        with store.writing():
            futures = [
                store.write_soon(lambda session: add_group(session, "vorher")),
                store.write_soon(fill),
                store.write_soon(lambda session: add_group(session, "nachher")),
            ]
        told = [future.exception(PATIENCE_S) for future in futures]
        assert isinstance(told[1], StoreFullError)
        acknowledged = [name for name, error in zip(["vorher", "", "nachher"], told, strict=True) if error is None]
        assert groups(store) == acknowledged
        # Until there is room again, only what is urgent is stored, out of the reserve.
        path = database.sqlite_path(store.engine)
        assert path is not None
        reserve = path.with_name(f"{path.name}-reserve")
        assert not reserve.exists()
        assert "no room" in store.trouble()
        with pytest.raises(StoreFullError):
            store.write_soon(lambda session: add_group(session, "nie")).result(PATIENCE_S)
        with pytest.raises(StoreFullError), store.writing():
            pass
        store.write_soon(lambda session: add_group(session, "dringend"), urgent=True).result(PATIENCE_S)
        store.prove()
        assert reserve.stat().st_size > 1_000_000
        assert store.trouble() == ""
        store.write_soon(lambda session: add_group(session, "wieder")).result(PATIENCE_S)
        assert groups(store) == [*acknowledged, "dringend", "wieder"]

    @pytest.mark.databases("postgresql")  # MySQL's driver writes the values into the statement
    def test_a_statement_with_too_many_values_is_one_bad_item(self, store: Store) -> None:
        """PostgreSQL's driver says so without a number, as it does of a lost connection."""
        many = sa.select(client_group.c.id).where(client_group.c.id.in_(range(70_000)))
        errors: list[Exception | None] = []

        def write(session: Session) -> str:
            errors.append(session.attempt(lambda: session.connection.execute(many)))
            return add_group(session, "danach")

        assert store.write_soon(write).result(PATIENCE_S) == "danach"
        assert isinstance(errors[0], sa.exc.DBAPIError)
        with pytest.raises(sa.exc.DBAPIError), store.writing() as session:
            session.connection.execute(many)
        assert groups(store) == ["danach"]

    @over_the_network
    @pytest.mark.parametrize("happened", ["stored", "undone", "stored, and another server came"])
    def test_a_lost_answer_to_a_commit_is_looked_up(
        self, store: Store, backend: str, monkeypatch: pytest.MonkeyPatch, happened: str
    ) -> None:
        """Whatever is said of it, the number that it took is not given out again."""

        def cut(session: Session) -> int:
            number = session.allocate("job")
            real = sa.RootTransaction.commit

            def commit(transaction: sa.RootTransaction) -> None:
                monkeypatch.undo()
                if happened == "undone":
                    transaction.rollback()
                else:
                    real(transaction)
                if "another" in happened:
                    with store.engine.connect() as connection:
                        Epoch().begin(connection)
                raise sa.exc.DBAPIError("COMMIT", None, LOST[backend], connection_invalidated=True)

            monkeypatch.setattr(sa.RootTransaction, "commit", commit)
            add_group(session, "vielleicht")
            return number

        answer = store.write_soon(cut)
        error = answer.exception(PATIENCE_S)
        expected = {"stored": type(None), "undone": StoreUnavailableError}.get(happened, OutcomeUnknownError)
        assert type(error) is expected
        number = store.write_soon(lambda session: session.allocate("job")).result(PATIENCE_S)
        assert number > (answer.result() if error is None else 0)
        assert groups(store) == ([] if happened == "undone" else ["vielleicht"])


def _with_sqlstate(state: str | None) -> Exception:
    error = Exception("words")
    error.sqlstate = state  # type: ignore[attr-defined]
    return error


def _of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    return error


LOST = {"postgresql": _with_sqlstate(None), "mysql": Exception(2013, "Lost connection")}
KINDS: list[tuple[Kind, Exception]] = [
    (Kind.AWAY, _of_sqlite(sqlite3.SQLITE_BUSY | (2 << 8))),
    (Kind.AWAY, _of_sqlite(sqlite3.SQLITE_IOERR_READ)),
    (Kind.AWAY, _of_sqlite(sqlite3.SQLITE_READONLY)),
    (Kind.FULL, _of_sqlite(sqlite3.SQLITE_FULL)),
    (Kind.FULL, _of_sqlite(sqlite3.SQLITE_IOERR_SHMSIZE)),
    (Kind.BROKEN_PROMISE, _of_sqlite(sqlite3.SQLITE_IOERR_FSYNC)),
    (Kind.BAD_ITEM, _of_sqlite(sqlite3.SQLITE_ERROR)),
    (Kind.BAD_ITEM, _of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE)),
    (Kind.BAD_ITEM, _of_sqlite(sqlite3.SQLITE_TOOBIG)),
    (Kind.AWAY, _with_sqlstate("57P01")),
    (Kind.AWAY, _with_sqlstate("57014")),
    (Kind.AWAY, _with_sqlstate("40P01")),
    (Kind.UNKNOWN, _with_sqlstate("40003")),
    (Kind.FULL, _with_sqlstate("53100")),
    (Kind.AWAY, _with_sqlstate("53300")),
    (Kind.BAD_ITEM, _with_sqlstate("54023")),
    (Kind.BAD_ITEM, _with_sqlstate("22P05")),
    (Kind.BAD_ITEM, _with_sqlstate(None)),
    (Kind.AWAY, Exception(2013, "Lost connection")),
    (Kind.AWAY, Exception(1213, "Deadlock")),
    (Kind.FULL, Exception(1114, "The table is full")),
    (Kind.FULL, Exception(1026, 'Error writing file (Errcode: 28 "No space left on device")')),
    (Kind.AWAY, Exception(1030, "Got error 5 from storage engine")),
    (Kind.BAD_ITEM, Exception(4025, "CONSTRAINT failed")),
    (Kind.BAD_ITEM, Exception(1153, "Got a packet bigger than max_allowed_packet")),
]


@pytest.mark.parametrize(("kind", "original"), KINDS, ids=[f"{kind.name}-{error!r}" for kind, error in KINDS])
def test_kinds_are_told_by_number(kind: Kind, original: Exception) -> None:
    for wrapper in (sa.exc.OperationalError, sa.exc.DatabaseError, sa.exc.InternalError):
        assert kind_of(wrapper("SELECT", {}, original)) is kind


def test_an_error_without_a_number_is_of_the_connection_where_there_is_none() -> None:
    lost = sa.exc.OperationalError("SELECT", {}, _with_sqlstate(None), connection_invalidated=True)
    never_made = sa.exc.OperationalError(None, None, _with_sqlstate(None))  # type: ignore[arg-type]
    assert [kind_of(lost), kind_of(never_made), kind_of(KeyError(2013))] == [Kind.AWAY, Kind.AWAY, Kind.BAD_ITEM]


def _kill_connections(store: Store, backend: str) -> None:
    with store.writing() as session:  # so that it has one to lose
        session.connection.exec_driver_sql("SELECT 1")
    _end_sessions(store, backend)


def _end_sessions(store: Store, backend: str) -> None:
    """End every connection of this database but the one that says so, as a restart of the database does."""
    engine = sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if backend == "postgresql":
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        else:
            own = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
            rows = connection.exec_driver_sql(
                f"SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> {own}"
            ).scalars()
            for number in list(rows):
                connection.exec_driver_sql(f"KILL {number}")
    engine.dispose()


def test_a_statement_sent_as_it_is_fails_as_others_do(store: Store) -> None:
    with pytest.raises(sa.exc.DBAPIError) as failed, store.writing() as session:
        database.send(session.connection, "RELEASE SAVEPOINT nirgends")
    assert kind_of(failed.value) is Kind.BAD_ITEM


@over_the_network
def test_a_statement_sent_as_it_is_tells_of_a_lost_connection(store: Store, backend: str) -> None:
    def lose(session: Session) -> None:
        add_group(session, "weg")
        _end_sessions(store, backend)
        with pytest.raises(sa.exc.DBAPIError) as lost:
            database.send(session.connection, "SAVEPOINT teil")
        assert lost.value.connection_invalidated
        raise lost.value

    with pytest.raises(StoreUnavailableError):
        store.write_soon(lose).result(PATIENCE_S)


class TestOneServer:
    @pytest.fixture(autouse=True)
    def _short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "_LOCK_WAIT_S", 0.3)

    def test_a_second_one_is_refused(self, store: Store, clock: FakeClock) -> None:
        second = Store(store.engine.url.render_as_string(hide_password=False), clock=clock)
        with pytest.raises(ConfigError, match="another server uses the"):
            second.open()
        with store.writing() as session:
            add_group(session, "der erste")
        store.close()
        second.open()
        assert groups(second) == ["der erste"]
        second.close()
        store.open()

    @over_the_network
    def test_the_lock_is_taken_again_after_a_broken_connection(
        self, store: Store, backend: str, clock: FakeClock
    ) -> None:
        _kill_connections(store, backend)
        with pytest.raises(StoreUnavailableError), store.writing() as session:
            add_group(session, "weg")
        with store.writing() as session:
            add_group(session, "da")
        second = Store(store.engine.url.render_as_string(hide_password=False), clock=clock)
        with pytest.raises(ConfigError, match="another server uses the"):
            second.open()

    @over_the_network
    def test_one_that_lost_its_lock_to_another_does_not_write(
        self, store: Store, backend: str, clock: FakeClock
    ) -> None:
        _kill_connections(store, backend)
        second = Store(store.engine.url.render_as_string(hide_password=False), clock=clock)
        second.open()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError), store.writing() as session:
                add_group(session, "nie")
        second.close()
        with store.writing() as session:
            add_group(session, "wieder")
        assert groups(store) == ["wieder"]

    @over_the_network
    def test_one_that_gets_its_lock_back_from_another_reads_anew_what_it_remembers(
        self, store: Store, backend: str, clock: FakeClock
    ) -> None:
        forgotten: list[str] = []
        store.on_forget = lambda: forgotten.append("vergessen")
        with store.writing() as session:
            first = session.allocate("job")
        _kill_connections(store, backend)
        second = Store(store.engine.url.render_as_string(hide_password=False), clock=clock)
        second.open()
        with second.writing() as session:
            others = session.allocate("job", 5) + 4
        second.close()
        with pytest.raises(StoreUnavailableError), store.writing() as session:
            add_group(session, "weg")
        with store.writing() as session:
            again = session.allocate("job")
        assert first < others < again
        assert forgotten == ["vergessen"]

    @pytest.mark.databases("sqlite")
    def test_a_folder_that_is_not_there(self, backend: str, tmp_path: Path, clock: FakeClock) -> None:
        with pytest.raises(ConfigError, match="its folder must exist and be writable"):
            Store(f"sqlite:///{tmp_path}/nicht/da.db", clock=clock).open()

    def test_what_cannot_be_a_database(self, clock: FakeClock) -> None:
        with pytest.raises(ConfigError, match="not a database URL"):
            Store("keine URL", clock=clock)
        with pytest.raises(ConfigError, match="not a database URL"):
            Store("zauberdb://x/y", clock=clock)


class TestForeignTables:
    def test_a_database_with_others_tables_is_never_touched(self, fresh_url: str, clock: FakeClock) -> None:
        engine = sa.create_engine(fresh_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE jobs (id INTEGER, name VARCHAR(20))")
            connection.exec_driver_sql("INSERT INTO jobs VALUES (1, 'alt')")
        with pytest.raises(ConfigError, match=r"tables that are not ours \(jobs\).*empty database of its own"):
            Store(fresh_url, clock=clock).open()
        with engine.connect() as connection:
            assert sa.inspect(connection).get_table_names() == ["jobs"]
            assert connection.exec_driver_sql("SELECT name FROM jobs").scalar_one() == "alt"
        engine.dispose()

    def test_also_beside_ours(self, store: Store, clock: FakeClock) -> None:
        url = store.engine.url.render_as_string(hide_password=False)
        store.close()
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE fremd (id INTEGER)")
        with pytest.raises(ConfigError, match="fremd"):
            Store(url, clock=clock).open()
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE fremd")
        engine.dispose()
        store.open()  # and the lock was given back

    def test_a_store_of_a_newer_version(self, store: Store, clock: FakeClock) -> None:
        url = store.engine.url.render_as_string(hide_password=False)
        store.close()
        engine = sa.create_engine(url)

        def set_version(version: str) -> str:
            with engine.begin() as connection:
                old = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
                connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
            return old

        ours = set_version("9999")
        with pytest.raises(ConfigError, match="newer hqserver"):
            Store(url, clock=clock).open()
        set_version(ours)
        engine.dispose()
        store.open()


class TestChecks:
    """What the database itself does not let through."""

    @pytest.mark.parametrize(
        "values",
        [
            {"status": "kaputt"},
            {"status": "succeeded"},  # without an end
            {"ended_at": 5},  # with an end, but not settled
            {"run_id": 3},  # a run, but not running
            {"status": "running"},  # running without a run
            {"children_unsettled": -1},
            {"tries_left": -1},
            {"priority": -1},
        ],
    )
    def test_a_job_that_makes_no_sense(self, farm: StoreFarm, values: dict[str, Any]) -> None:
        job_id = farm.add()
        with pytest.raises((sa.exc.IntegrityError, sa.exc.OperationalError, StoreUnavailableError)) as caught:
            farm.change(job_id, **values)
        assert not isinstance(caught.value, HQueueError), "a bug of ours must not look like an outage"
        assert farm.status(job_id) == "runnable"

    def test_two_open_runs_of_a_job(self, farm: StoreFarm) -> None:
        machine = farm.machine()
        one, two = farm.add(), farm.add()
        farm.start(one, machine)
        farm.start(two, machine)
        with pytest.raises(sa.exc.IntegrityError), farm.store.writing() as session:
            session.connection.exec_driver_sql(f"UPDATE run SET open_job_id = {one} WHERE job_id = {two}")

    def test_foreign_keys_are_on(self, store: Store) -> None:
        with pytest.raises(sa.exc.IntegrityError), store.writing() as session:
            session.connection.exec_driver_sql("INSERT INTO job_edge (parent_id, child_id) VALUES (1, 2)")


class TestSQLite:
    def test_every_connection_is_set_up(self, sqlite_store: Store) -> None:
        with sqlite_store.reading() as connection, sqlite_store.reading() as other:
            for each in (connection, other):
                assert each.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
                assert each.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"

    def test_a_file_system_where_there_can_be_no_log_is_refused(self, tmp_path: Path) -> None:
        """One of the network, for example; here a way to use files on which SQLite cannot share memory."""
        connection = sqlite3.connect(f"file:{tmp_path}/größe.db?vfs=unix-none", uri=True)
        with pytest.raises(ConfigError, match="cannot keep a write-ahead log there"):
            database._set_up_sqlite(connection, None)
        connection.close()

    def test_after_a_flush_of_sqlites_own_that_failed_nothing_is_written(self, tmp_path: Path) -> None:
        deaths: list[BaseException] = []
        store = Store(f"sqlite:///{tmp_path}/größe.db", clock=SystemClock(), on_death=deaths.append)
        store.open()

        def fail(_session: Session) -> None:
            raise sa.exc.OperationalError("COMMIT", {}, _of_sqlite(sqlite3.SQLITE_IOERR_FSYNC))

        told = [store.write_soon(fail), store.write_soon(lambda session: add_group(session, "danach"))]
        assert {type(each.exception(PATIENCE_S)) for each in told} == {OutcomeUnknownError}
        with pytest.raises(OutcomeUnknownError), store.writing():
            pass
        assert [type(each) for each in deaths] == [BrokenPromiseError]
        assert groups(store) == []
        store.close()
        store.engine.dispose()

    def test_checkpoints_carry_the_log_over(self, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        path = database.sqlite_path(sqlite_store.engine)
        assert path is not None
        wal = path.with_name(path.name + "-wal")
        for n in range(50):
            with sqlite_store.writing() as session:
                add_group(session, f"{n}" * 50)
        size = wal.stat().st_size
        assert size > 0
        sqlite_store.checkpoint()
        assert wal.stat().st_size == size  # carried over, and used again from its beginning
        monkeypatch.setattr(database, "_LARGE_WAL_BYTES", 1)
        with sqlite_store.reading() as connection:
            connection.execute(sa.select(job.c.id)).all()
            sqlite_store.checkpoint()  # a reader is in the way: left for the next time
        sqlite_store.checkpoint()
        assert wal.stat().st_size == 0

    @pytest.mark.parametrize("free_bytes", [0, 1 << 30])
    def test_a_full_disk_keeps_the_room_of_the_reserve(
        self, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, free_bytes: int
    ) -> None:
        """A checkpoint that could only be carried out in part takes what heartbeats and cancelling need."""
        path = database.sqlite_path(sqlite_store.engine)
        assert path is not None
        for n in range(50):
            with sqlite_store.writing() as session:
                add_group(session, f"{n}" * 5_000)
        sqlite_store._reserve.give_up()
        size = path.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
            sqlite_store.checkpoint()
        assert (path.stat().st_size > size) is (free_bytes > 0)
        sqlite_store._reserve.renew()


def test_chunks_cover_everything_once() -> None:
    items = list(range(2 * 50 + 1))
    parts = list(database.chunks(items, 50))
    assert [len(part) for part in parts] == [50, 50, 1]
    assert [item for part in parts for item in part] == items
    assert list(database.chunks([], 50)) == []


def test_statements_with_very_many_values(farm: StoreFarm) -> None:
    """More ids than any database takes in one statement."""
    with farm.store.reading() as connection:
        from hqueue.lifecycle.rows import ancestors, load, statuses  # noqa: PLC0415 - this test alone

        many = list(range(1, 70_001))
        assert (load(connection, many), statuses(connection, many), ancestors(connection, many)) == ([], {}, set())


@over_the_network
def test_warnings_of_an_outage_are_one_line(store: Store, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    _kill_connections(store, backend)
    with caplog.at_level(logging.WARNING, "hqueue"), pytest.raises(StoreUnavailableError), store.writing() as session:
        add_group(session, "weg")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the database cannot be used at the moment"
    ]


def test_every_table_is_emptied_between_tests(store: Store) -> None:
    """The fixtures' own promise."""
    with store.reading() as connection:
        filled = {
            name
            for name, table in metadata.tables.items()
            if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        }
    assert filled == {"counter", "incoming", "resource"}
