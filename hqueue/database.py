"""What differs between SQLite, PostgreSQL and MySQL/MariaDB, and the upgrade of a store's tables.

`store` holds the transactions; nothing outside these two modules knows which database it talks to.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import sqlite3
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import event as sa_event
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import roles

from hqueue import remote
from hqueue.errors import (
    BrokenPromiseError,
    ConfigError,
    Kind,
    OutcomeUnknownError,
    StoreFullError,
    StoreUnavailableError,
)
from hqueue.failures import kind_of
from hqueue.schema import OUR_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

T = TypeVar("T")
log = logging.getLogger(__name__)

WRITING: Final = "hqueue_writing"  # execution option of the connection that may write
_BUSY_TIMEOUT_MS: Final = 10_000
_LARGE_WAL_BYTES: Final = 64 * 1024 * 1024
_CACHE_BYTES: Final = 64 * 1024 * 1024  # pages that one connection keeps, while all together keep no more than
_ALL_CACHES_BYTES: Final = 128 * 1024 * 1024
# Advisory locks are named by a number on PostgreSQL and by a text on MySQL.
_LOCK_NUMBER: Final = 0x6871_7565_7565
_LOCK_NAME: Final = "CONCAT('hqueue ', MD5(DATABASE()))"  # MySQL takes 64 characters at the most
# After a broken connection the database may take a moment to see that its lock is free.
_LOCK_WAIT_S: Final = 2
_RAISED: Final[dict[Kind, type[Exception]]] = {
    Kind.AWAY: StoreUnavailableError,
    Kind.FULL: StoreFullError,
    Kind.UNKNOWN: OutcomeUnknownError,
    Kind.BROKEN_PROMISE: BrokenPromiseError,
}


def create_engine(url: str, *, pool_size: int, max_overflow: int) -> sa.Engine:
    """Return an engine whose connections are set up for this store.

    Errors: ConfigError when the URL cannot be used or its driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": 10}
        if parsed.get_backend_name() == "sqlite":
            # A connection costs a file handle here, and a reader on the loop's thread must never wait for one.
            options["max_overflow"] = -1
            engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000}, **options)
            sa_event.listen(engine, "connect", _set_up_sqlite)
            sa_event.listen(engine, "begin", _begin_sqlite)
            return engine
        return remote.create_engine(parsed, pool_pre_ping=True, isolation_level="REPEATABLE READ", **options)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(f"database_url {url!r} is not a database URL: {error}") from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"database_url needs the driver {error.name!r}, which is not installed: "
            "install hqueue[postgresql] or hqueue[mysql]",
        ) from None


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, and of which kind
    cursor = connection.cursor()
    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode not in {"wal", "memory"}:
        raise ConfigError(
            f"SQLite cannot keep a write-ahead log there (its journal is {mode!r}); put the store on a disk of this "
            "machine, not on one of the network, or use PostgreSQL or MariaDB",
        )
    cursor.execute("PRAGMA synchronous=NORMAL")  # durability.Flusher makes the commits survive a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    if cursor.execute("PRAGMA foreign_keys").fetchone() != (1,):
        raise ConfigError("this SQLite library was built without foreign keys; use another one")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA wal_autocheckpoint=0")  # checkpoint() does it, away from the writers
    cursor.execute("PRAGMA checkpoint_fullfsync=ON")  # macOS alone knows it
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_BYTES // 1024}")
    cursor.execute(f"PRAGMA soft_heap_limit={_ALL_CACHES_BYTES}")  # of the process: who is over it reuses its pages
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later fails under load with "database is locked": say so at once.
    if connection.get_execution_options().get(WRITING):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        # Past SQLAlchemy: a BEGIN by itself touches no file, and this is a quarter of what reading a row takes.
        connection.connection.cursor().execute("BEGIN")


def insert_row(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> int:
    """Store a row and return its id."""
    key = connection.execute(sa.insert(table).values(values)).inserted_primary_key
    assert key is not None  # noqa: S101 - every database gives the id of the row it has just stored
    return int(key[0])


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of a size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of the same columns; `sa.insert` takes twice as long, for it looks at each row anew."""
    dialect, columns = connection.dialect, tuple(rows[0])
    statement = _insert_of(table, dialect, columns)
    if statement.positional:
        values = itemgetter(*(statement.positiontup or ()))
        connection.exec_driver_sql(str(statement), [values(row) for row in rows])
    else:
        connection.exec_driver_sql(str(statement), list(rows))


@functools.lru_cache
def _insert_of(table: sa.Table, dialect: sa.Dialect, columns: tuple[str, ...]) -> SQLCompiler:
    return sa.insert(table).inline().compile(dialect=dialect, column_keys=columns)


def send(connection: sa.Connection, statement: str) -> None:
    """Send a statement that has no values and no answer, as it is: all that SQLAlchemy adds takes ten times as long.

    Errors: DBAPIError, as SQLAlchemy raises it.
    """
    dialect, driver = connection.dialect, connection.connection
    dbapi_error = dialect.loaded_dbapi.Error
    cursor = driver.cursor()
    try:
        cursor.execute(statement)
    except dbapi_error as error:
        lost = dialect.is_disconnect(error, driver.dbapi_connection, cursor)
        raise sa.exc.DBAPIError.instance(
            statement, None, error, dbapi_error, connection_invalidated=lost, dialect=dialect
        ) from error
    finally:
        cursor.close()


class _List(sa.types.TypeDecorator[Any]):
    """Many ids, or texts, as one value: an array where there are such, a JSON text elsewhere."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, *, texts: bool = False) -> None:
        super().__init__()
        self.texts = texts

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        array = ARRAY(sa.Text() if self.texts else sa.BigInteger())
        return dialect.type_descriptor(array if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: Collection[int | str] | None, dialect: sa.Dialect) -> Any:
        items = list(value or ())
        return items if dialect.name == "postgresql" else json.dumps(items)

    def literal_processor(self, dialect: sa.Dialect) -> Callable[[Any], str]:
        del dialect  # only MySQL gets the list as a part of the statement

        def write(items: Collection[int | str]) -> str:
            if self.texts:
                return ", ".join(f"_utf8mb4 x'{str(item).encode().hex()}'" for item in items) or _NOTHING
            return ", ".join(str(int(item)) for item in items) or _NOTHING

        return write


_NOTHING: Final = "SELECT 1 FROM DUAL WHERE FALSE"


class listed(roles.InElementRole, sa.sql.functions.GenericFunction[Any]):  # noqa: N801 - it reads as a function
    """The items of a list of any length, given under a name when it is executed: `column.in_(listed("ids"))`.

    No limit on the number of a statement's values applies: one value carries the list. On MySQL, which updates row by
    row what it finds through a sub-select (60 s for 1,000 rows of 100,000), the list is written into the statement.
    """

    inherit_cache = True
    name = "hqueue_listed"

    def __init__(self, name: str, *, texts: bool = False) -> None:
        super().__init__(sa.bindparam(name, type_=_List(texts=texts)))


@compiles(listed, "sqlite")
def _listed_on_sqlite(element: listed, compiler: SQLCompiler, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"  # noqa: S608 - a "?"


@compiles(listed, "postgresql")
def _listed_on_postgresql(element: listed, compiler: SQLCompiler, **options: Any) -> str:
    return f"(SELECT unnest({compiler.process(element.clauses, **options)}))"


@compiles(listed, "mysql", "mariadb")
def _listed_on_mysql(element: listed, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(element.clauses, **{**options, 'literal_execute': True})})"


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the error of its kind for what a database says; one bad item, and a bug of ours, stays what it is.

    Errors: StoreUnavailableError, StoreFullError, OutcomeUnknownError, BrokenPromiseError.
    """
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        kind = kind_of(error)
        if kind not in _RAISED:
            raise
        text = "has no room" if kind is Kind.FULL else "cannot be used at the moment"
        log.warning("the database %s: %s", text, getattr(error, "orig", error))
        raise _RAISED[kind] from error
    except sa.exc.TimeoutError as error:
        raise StoreUnavailableError from error


class ServerLock:
    """Keeps a second server away from a store; held until `release` or the death of the process."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._held: sqlite3.Connection | None = None
        self._was_ours = False

    def acquire(self) -> None:
        """Take the lock.

        Errors: ConfigError when another server has it. On databases over the network the lock belongs to the
        writing connection: `acquire_on` takes it there.
        """
        path = sqlite_path(self._engine)
        if path is None or self._held is not None:
            return
        # An exclusive transaction in a file of its own works on every platform and dies with its process.
        held: sqlite3.Connection | None = None
        try:
            held = sqlite3.connect(f"{path}.lock", timeout=0, isolation_level=None, check_same_thread=False)
            held.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if held is not None:
                held.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise ConfigError(f"another server uses the store {path}; stop that one first") from None
            raise ConfigError(
                f"cannot write the store {path} ({error}); its folder must exist and be writable for this user",
            ) from None
        self._held = held

    def acquire_on(self, connection: sa.Connection) -> None:
        """Take the lock on a new writing connection, where the database is one over the network.

        Errors: ConfigError when another server has it; StoreUnavailableError when it was ours before the connection
        broke, for then it most likely still belongs to that connection.
        """
        dialect = connection.dialect.name
        if dialect == "postgresql":
            taken = _lock_postgresql(connection)
        elif dialect in {"mysql", "mariadb"}:
            taken = bool(connection.exec_driver_sql(f"SELECT GET_LOCK({_LOCK_NAME}, {_LOCK_WAIT_S})").scalar())
        else:
            return
        connection.rollback()
        if taken:
            remote.check_session(connection)
            self._was_ours = True
        elif self._was_ours:
            raise StoreUnavailableError("the database has not let go of this server's lock yet; try again shortly")
        else:
            raise ConfigError(
                f"another server uses the database {self._engine.url.database!r}; stop that one first",
            )

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._held is not None:
            self._held.close()
            self._held = None


def _lock_postgresql(connection: sa.Connection) -> bool:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK_NUMBER})")
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", "") != "55P03":  # lock not available
            raise
        return False
    return True


def sqlite_path(engine: sa.Engine) -> Path | None:
    """Return the file of a SQLite store, None for another database or one in memory."""
    database = engine.url.database
    if engine.dialect.name != "sqlite" or not database or database == ":memory:":
        return None
    return Path(database)


def checkpoint(engine: sa.Engine, *, if_it_fits: bool = False) -> None:
    """Carry SQLite's write-ahead log over into the database file; nothing to do on other databases.

    if_it_fits: only where the disk has room for all that the file grows by. A part of that would help nobody, and take
    the room that heartbeats and cancelling need on a full disk.
    """
    path = sqlite_path(engine)
    if path is None:
        return
    wal = path.with_name(path.name + "-wal")
    large = wal.exists() and wal.stat().st_size > _LARGE_WAL_BYTES
    with translated_errors(), contextlib.closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        # A TRUNCATE that waits for a reader holds up every writer: try, and leave it for the next time.
        cursor.execute("PRAGMA busy_timeout=0")
        try:
            if if_it_fits and _growth(cursor, path) > shutil.disk_usage(path.parent).free:
                return
            cursor.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if large else 'PASSIVE'})")
        finally:
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
            cursor.close()


def _growth(cursor: Any, path: Path) -> int:
    """Return by how many bytes a SQLite file grows when its log is carried over."""
    pages, page_bytes = (cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages * page_bytes) - path.stat().st_size


def alembic_config(connection: sa.Connection | None = None) -> Config:
    """Return Alembic's settings, for a checkout and for an installed wheel alike."""
    beside_package = Path(__file__).parent.parent / "migrations"
    in_package = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(in_package if in_package.is_dir() else beside_package))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine) -> None:
    """Create the tables of an empty database, or bring an older store's up to date.

    Errors: ConfigError for a database that holds tables which are not ours: it is never touched.
    """
    # On databases over the network without deadlines: an upgrade may take long.
    patient = engine if engine.dialect.name == "sqlite" else sa.create_engine(engine.url, poolclass=sa.NullPool)
    with translated_errors(), patient.connect().execution_options(**{WRITING: True}) as connection:
        names = set(sa.inspect(connection).get_table_names())
        connection.rollback()
        foreign = names if "alembic_version" not in names else names - OUR_TABLES
        if foreign:
            raise ConfigError(
                f"the database {engine.url.render_as_string()} holds tables that are not ours "
                f"({', '.join(sorted(foreign)[:5])}); give hqserver an empty database of its own "
                "and never the original HQueue's",
            )
        try:
            with connection.begin():
                command.upgrade(alembic_config(connection), "head")
        except CommandError as error:
            raise ConfigError(
                f"the database {engine.url.render_as_string()} is that of a newer hqserver ({error}); install it",
            ) from None
