"""Fixtures of all tests, and what a skip means.

`store` is a real, migrated store: a SQLite file, and a database of its own on each of PostgreSQL and MariaDB that
answers. Where they are is told by HQ_TEST_POSTGRESQL_URL and HQ_TEST_MYSQL_URL (the user needs the right to create
databases); without them a server on this machine is tried. Tests of logic that no database has a say in are marked
`databases("sqlite")`, and are three times as fast for it; or they ask for `sqlite_store`.

HQ_TEST_STRICT=1 turns every skip into a failure, except one whose reason begins with

    another system:     the test is about an operating system that this is not
    not installable:    it needs something that this machine has no way to install

which the run lists at its end.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from hqueue import database
from hqueue.schema import counter, metadata, resource
from hqueue.store import Store
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

STRICT = os.environ.get("HQ_TEST_STRICT", "") not in {"", "0"}
EXCUSES = ("another system: ", "not installable: ")
BACKENDS = ("sqlite", "postgresql", "mysql")
SERVERS = {
    "postgresql": ("HQ_TEST_POSTGRESQL_URL", "postgresql+psycopg://root@127.0.0.1/postgres"),
    "mysql": ("HQ_TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1/"),
}


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return why something was skipped, without pytest's own word before it."""
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not STRICT or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = skip_reason(report)
    if not reason.startswith(EXCUSES):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which HQ_TEST_STRICT forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    excused = [report for report in terminalreporter.stats.get("skipped", ()) if STRICT]
    if excused:
        terminalreporter.section("left out on this machine")
        for report in excused:
            terminalreporter.line(f"{report.nodeid}: {skip_reason(report)}")


class TestDatabase:
    """A database that tests use one after the other, each finding it as freshly migrated.

    The store on it stays open between them: to open one takes several times as long as most tests.
    """

    __test__ = False

    def __init__(self, backend: str, url: str) -> None:
        self.backend = backend
        self.url = url
        engine = database.create_engine(url, pool_size=1, max_overflow=0)
        database.upgrade(engine)
        engine.dispose()
        # A test may have ended every connection of the database.
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        self._store: Store | None = None
        with self._engine.connect() as connection:
            self._resources = [row._asdict() for row in connection.execute(sa.select(resource))]

    def empty(self) -> None:
        """Bring it back to how the migrations left it."""
        with self._engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                if table is not counter:
                    connection.execute(sa.delete(table))
            connection.execute(sa.update(counter).values(value=0))
            connection.execute(sa.insert(resource), self._resources)

    def open_store(self, clock: FakeClock) -> Store:
        """Return the store, open and as if it had just been opened."""
        if self._store is None or self._store._group_writer is None:
            self._store = Store(self.url, clock=clock)
            self._store.open()
        self._store._clock = clock
        self._store._counters = type(self._store._counters)()
        self._store._requirement_ids.clear()
        self._store.on_commit = lambda _: None
        return self._store

    def close_store(self) -> None:
        """Let a test open a store of its own."""
        if self._store is not None:
            self._store.close()

    def close(self) -> None:
        """Let its connections go."""
        self.close_store()
        self._engine.dispose()


class Databases:
    """The databases of one run of the tests; made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, TestDatabase | str] = {}
        self._name = f"hqueue_test_{os.getpid()}"
        self._numbers = 0

    def get(self, backend: str) -> TestDatabase:
        """Return an empty database; skip the test when there is no such server."""
        if backend not in self._made:
            self._made[backend] = self._make(backend)
        found = self._made[backend]
        if isinstance(found, str):
            pytest.skip(found)
        found.empty()
        return found

    def fresh_url(self, backend: str) -> str:
        """Return the URL of a new database without any table; skip the test when there is no such server."""
        self._numbers += 1
        name = f"{self._name}_{self._numbers}"
        if backend == "sqlite":
            return f"sqlite:///{self._folder}/{name}.db"
        server = sa.make_url(_server_url(backend))
        try:
            _administer(server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        except (sa.exc.OperationalError, ModuleNotFoundError) as error:
            pytest.skip(_unreachable(backend, error))
        return server.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove what `fresh_url` made."""
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            server = sa.make_url(_server_url(parsed.get_backend_name()))
            _administer(server, f"DROP DATABASE IF EXISTS {parsed.database}")

    def close(self) -> None:
        """Remove all of them."""
        for found in self._made.values():
            if isinstance(found, TestDatabase):
                found.close()
                self.drop(found.url)

    def _make(self, backend: str) -> TestDatabase | str:
        try:
            return TestDatabase(backend, self.fresh_url(backend))
        except pytest.skip.Exception as skipped:
            return str(skipped)


def _server_url(backend: str) -> str:
    variable, default = SERVERS[backend]
    return os.environ.get(variable, default)


def _unreachable(backend: str, error: Exception) -> str:
    first_line = str(error).splitlines()[0]
    return f"no {backend} answers; say where one is in {SERVERS[backend][0]}: {first_line}"


def _administer(server: sa.URL, *statements: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite store as the migrations leave it, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    engine = database.create_engine(f"sqlite:///{path}", pool_size=1, max_overflow=0)
    database.upgrade(engine)
    database.checkpoint(engine)
    engine.dispose()
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(auto=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "databases(*names): the kinds of database a test is run on; without it, on each")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("databases")
        metafunc.parametrize("backend", mark.args if mark else BACKENDS, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fresh_url(backend: str, databases: Databases) -> Iterator[str]:
    """Return the URL of a database without any table, on each database that is reachable."""
    url = databases.fresh_url(backend)
    yield url
    databases.drop(url)


@pytest.fixture
def store_url(backend: str, databases: Databases, migrated_file: Path, tmp_path: Path) -> str:
    """Return the URL of a migrated store without a job, on each database that is reachable."""
    if backend == "sqlite":
        shutil.copy(migrated_file, tmp_path / "hqserver.db")
        return f"sqlite:///{tmp_path}/hqserver.db"
    found = databases.get(backend)
    found.close_store()
    return found.url


@pytest.fixture
def store(
    backend: str,
    databases: Databases,
    migrated_file: Path,
    tmp_path: Path,
    clock: FakeClock,
) -> Iterator[Store]:
    """Return an open store, on each database that is reachable; afterwards what it holds must make sense."""
    if backend == "sqlite":
        shutil.copy(migrated_file, tmp_path / "hqserver.db")
        yield from _opened(f"sqlite:///{tmp_path}/hqserver.db", clock)
        return
    opened = databases.get(backend).open_store(clock)
    yield opened
    check_invariants(opened)


@pytest.fixture
def sqlite_store(migrated_file: Path, tmp_path: Path, clock: FakeClock) -> Iterator[Store]:
    """Return an open store on SQLite alone."""
    shutil.copy(migrated_file, tmp_path / "hqserver.db")
    yield from _opened(f"sqlite:///{tmp_path}/hqserver.db", clock)


def _opened(url: str, clock: FakeClock) -> Iterator[Store]:
    opened = Store(url, clock=clock)
    opened.open()
    try:
        yield opened
        check_invariants(opened)
    finally:
        opened.close()


@pytest.fixture
def farm(store: Store, clock: FakeClock) -> StoreFarm:
    """Return a farm without a network, on each database that is reachable."""
    return StoreFarm(store, clock)


@pytest.fixture
def sqlite_farm(sqlite_store: Store, clock: FakeClock) -> StoreFarm:
    """Return a farm without a network, on SQLite alone."""
    return StoreFarm(sqlite_store, clock)
