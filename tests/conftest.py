"""Fixtures of all tests, and what a skip means.

`store` is a real, migrated store: a SQLite file, and a database of its own on each of PostgreSQL and MariaDB that
answers. Where they are is told by HQ_TEST_POSTGRESQL_URL and HQ_TEST_MYSQL_URL (the user needs the right to create
databases); without them a server on this machine is tried. What needs one that does not answer is not collected, and
the run says so in one line at its end. Tests of logic that no database has a say in are marked `databases("sqlite")`,
and are three times as fast for it; or they ask for `sqlite_store`.

HQ_TEST_STRICT=1 turns every skip into a failure, except one whose reason begins with

    another system:     the test is about an operating system that this is not
    not installable:    it needs something that this machine has no way to install

which the run lists at its end.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

from hqueue import database
from hqueue.config import Policy
from hqueue.remote import Epoch
from hqueue.schema import counter, incoming, metadata, resource
from hqueue.store import Store
from tests.fakes import FakeClock
from tests.invariants import check_invariants
from tests.storefarm import StoreFarm

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

STRICT = os.environ.get("HQ_TEST_STRICT", "") not in {"", "0"}
# As many examples as a change can wait for, and as many as .ci/run takes. A busy machine is no failure.
for _name, _examples in (("quick", 25), ("thorough", 100)):
    settings.register_profile(
        _name, max_examples=_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )

EXCUSES = ("another system: ", "not installable: ")
BACKENDS = ("sqlite", "postgresql", "mysql")
MISSING = pytest.StashKey[dict[str, str]]()  # why databases cannot be used, by their kind
LEFT_OUT = pytest.StashKey[int]()  # how many tests that were
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


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    skipped = terminalreporter.stats.get("skipped", ())
    if STRICT and skipped:
        terminalreporter.section("left out on this machine")
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {skip_reason(report)}")
    lines = [f"{count} skipped: {reason}" for reason, count in Counter(map(skip_reason, skipped)).items()]
    if config.stash[LEFT_OUT]:
        lines.append(
            f"{config.stash[LEFT_OUT]} not collected for want of a database: "
            f"{'; '.join(missing_databases(config).values())} (drivers: pip install '.[postgresql,mysql]')"
        )
    if lines and not STRICT:
        terminalreporter.section("not run on this machine")
        for line in lines:
            terminalreporter.line(line)


def missing_databases(config: pytest.Config) -> dict[str, str]:
    """Return why databases cannot be used here, by their kind."""
    if MISSING in config.stash:
        return config.stash[MISSING]
    missing = config.stash[MISSING] = {}
    for backend in SERVERS:
        server = sa.make_url(_server_url(backend))
        name = f"hqueue_test_{os.getpid()}_probe"
        try:
            _administer(server, f"CREATE DATABASE {name}", f"DROP DATABASE {name}")
        except (sa.exc.OperationalError, ModuleNotFoundError) as error:
            missing[backend] = _unreachable(backend, error)
    return missing


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "databases(*names): the kinds of database a test is run on; without it, on each")
    config.stash[LEFT_OUT] = 0
    if hasattr(config, "workerinput"):
        config.stash[MISSING] = config.workerinput["missing_databases"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    # One more than there are cores: what starts processes mostly waits for them.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    # All processes of a run have to collect the same tests: the first one looks, and tells the others.
    node.workerinput["missing_databases"] = missing_databases(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("databases")
        metafunc.parametrize("backend", mark.args if mark else BACKENDS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if STRICT:
        return  # there they are skipped one by one, and so fail
    missing = missing_databases(config)
    left_out = [item for item in items if hasattr(item, "callspec") and item.callspec.params.get("backend") in missing]
    if left_out:
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
        config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = len(left_out)


class SharedStore:
    """A store that tests use one after the other, each finding it as freshly opened.

    It stays open between them: to open one, and to compile its statements, takes several times as long as most tests.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._attributes: frozenset[str] = frozenset()

    def _open(self, url: str, clock: FakeClock) -> Store:
        self._store = Store(url, clock=clock)
        self._attributes = frozenset(vars(self._store))
        self._store.open()
        return self._store

    def _renew(self, store: Store, clock: FakeClock) -> Store:
        for name in vars(store).keys() - self._attributes:
            delattr(store, name)  # what a test put in the place of a method
        store._clock = clock
        store.policy = Policy()
        store._counters = type(store._counters)()
        store._requirement_ids.clear()
        store.on_commit = lambda _: None
        store.on_forget = lambda: None
        return store

    def close_store(self) -> None:
        """Let a test open a store of its own."""
        if self._store is not None:
            self._store.close()


class SharedFile(SharedStore):
    """A store in a SQLite file that each test finds as a copy of the migrated one."""

    def __init__(self, migrated: Path, folder: Path) -> None:
        super().__init__()
        self._migrated = migrated
        self._folder = folder
        self._numbers = itertools.count()
        self._path = folder

    def open_store(self, clock: FakeClock) -> Store:
        """Return the store, open and as if it had just been opened."""
        store = self._store
        if store is None or not store.is_open or store._lock._held:  # closed, or left behind by a test
            self._path = self._folder / f"größe-{next(self._numbers)}.db"
            shutil.copy(self._migrated, self._path)
            return self._open(f"sqlite:///{self._path}", clock)
        with store._lock:
            store._drop_writer()
            store.engine.dispose()
            for end in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            shutil.copy(self._migrated, self._path)
        return self._renew(store, clock)


class TestDatabase(SharedStore):
    """A database over the network that tests use one after the other, each finding it as freshly migrated."""

    __test__ = False

    def __init__(self, backend: str, url: str) -> None:
        super().__init__()
        self.backend = backend
        self.url = url
        engine = database.create_engine(url, pool_size=1, max_overflow=0)
        database.upgrade(engine)
        engine.dispose()
        # A test may have ended every connection of the database.
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        with self._engine.connect() as connection:
            self._resources = [row._asdict() for row in connection.execute(sa.select(resource))]

    def empty(self) -> None:
        """Bring it back to how the migrations left it."""
        with self._engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                if table not in (counter, incoming):
                    connection.execute(sa.delete(table))
            connection.execute(sa.update(counter).values(value=0))
            connection.execute(sa.update(incoming).values(first_id=0, last_id=0))
            connection.execute(sa.insert(resource), self._resources)

    def open_store(self, clock: FakeClock) -> Store:
        """Return the store, open and as if it had just been opened."""
        if self._store is None or not self._store.is_open:
            return self._open(self.url, clock)
        store = self._renew(self._store, clock)
        with store._lock:  # a session of its own: the database ends one that was silent for some seconds
            store._drop_writer()
            store._epoch = Epoch()
        with store.writing():
            pass
        return store

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
        """Return an empty database over the network; skip the test when there is no such server."""
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
    return f"no {backend} answers, say where one is in {SERVERS[backend][0]}: {first_line}"


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


@pytest.fixture(scope="session")
def shared_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFile]:
    made = SharedFile(migrated_file, tmp_path_factory.mktemp("shared"))
    yield made
    made.close_store()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(auto=True)


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
    shared_file: SharedFile,
    clock: FakeClock,
) -> Iterator[Store]:
    """Return an open store, on each database that is reachable; afterwards what it holds must make sense."""
    opened = (shared_file if backend == "sqlite" else databases.get(backend)).open_store(clock)
    yield opened
    check_invariants(opened)


@pytest.fixture
def sqlite_store(shared_file: SharedFile, clock: FakeClock) -> Iterator[Store]:
    """Return an open store on SQLite alone; afterwards what it holds must make sense."""
    opened = shared_file.open_store(clock)
    yield opened
    check_invariants(opened)


@pytest.fixture
def farm(store: Store, clock: FakeClock) -> StoreFarm:
    """Return a farm without a network, on each database that is reachable."""
    return StoreFarm(store, clock)


@pytest.fixture
def sqlite_farm(sqlite_store: Store, clock: FakeClock) -> StoreFarm:
    """Return a farm without a network, on SQLite alone."""
    return StoreFarm(sqlite_store, clock)
