"""Connections over the network on which nothing waits for ever, on either side.

A path may fall silent without being closed. Then the database ends what it is asked for after `_STATEMENT_S`, and we
give a connection up that has not answered a little later. The session that holds the server's lock is ended by the
database when it has heard nothing of it for `_SILENT_S`, so that a server which died unheard soon loses the lock.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from hqueue.clock import SystemClock
from hqueue.errors import ConfigError
from hqueue.schema import counter

if TYPE_CHECKING:
    from collections.abc import Generator

_CONNECT_S: Final = 5
_STATEMENT_S: Final = 15
_LOCKED_S: Final = 10
_ANSWER_S: Final = 18
_SILENT_S: Final = 15

_POSTGRESQL: Final = (
    f"SET statement_timeout = '{_STATEMENT_S}s'",
    f"SET lock_timeout = '{_LOCKED_S}s'",
    # For queries of minutes. It takes ours, whose tables look large to it, for such and compiles for 40 ms.
    "SET jit = off",
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
    f"SET tcp_user_timeout = '{_SILENT_S}s'",
)
_MYSQL: Final = (
    f"SET SESSION innodb_lock_wait_timeout = {_LOCKED_S}, lock_wait_timeout = {_LOCKED_S}",
    f"SET SESSION net_read_timeout = {_SILENT_S}, net_write_timeout = {_SILENT_S}",
)


def create_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Return an engine for a database over the network; what the URL says of time-outs holds."""
    if url.get_backend_name() == "postgresql":
        wanted: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": _SILENT_S * 1000,
        }
        statements: tuple[str, ...] = _POSTGRESQL
    else:
        wanted = {"connect_timeout": _CONNECT_S, "read_timeout": _ANSWER_S, "write_timeout": _ANSWER_S}
        statements = _MYSQL
    arguments = {name: value for name, value in wanted.items() if name not in url.query}
    engine = sa.create_engine(url, connect_args=arguments, **options)
    if engine.dialect.driver == "psycopg":
        sa_event.listen(engine, "do_connect", _connect_postgresql)

    def set_up(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            if engine.dialect.name in {"mysql", "mariadb"}:
                cursor.execute(_statement_limit(connection.get_server_info()))
        connection.commit()

    sa_event.listen(engine, "connect", set_up)
    return engine


class Epoch:
    """A number in the store that each transaction of a server raises: it tells who has written last.

    Its upper part counts the sessions that have written, those of all servers, the lower part a session's transactions.
    Whoever has the server's lock finds what the session that had it before has stored, and nothing of that is under
    way any more: the lock goes with the session.
    """

    def __init__(self) -> None:
        self._value: int | None = None  # after our latest transaction
        self._is_doubtful = False
        self.was_stored: bool | None = None  # the transaction that was in doubt: None where nobody can tell

    def begin(self, connection: sa.Connection) -> bool:
        """Begin with a new session; tell whether another server has written since our latest transaction."""
        with connection.begin():
            found = connection.execute(_READ).scalar()
            if found is None:
                connection.execute(_INSERT, {"given": 0})
            ours = self._is_ours(found)
            value = (((found or 0) >> _BITS) + 1) << _BITS
            connection.execute(_SET, {"given": value})
        self._value = value
        return not ours

    def _is_ours(self, found: int | None) -> bool:
        value, doubtful = self._value, self._is_doubtful
        self._is_doubtful = False
        if value is None or not doubtful or found not in {value, value + 1}:
            return value is None or found == value
        self.was_stored, self._value = found != value, found
        return True

    def count(self, connection: sa.Connection) -> None:
        """Count a transaction, as its last statement."""
        assert self._value is not None  # noqa: S101 - there is no session without it
        connection.execute(_SET, {"given": self._value + 1})

    def counted(self) -> None:
        """Note that the transaction was stored."""
        assert self._value is not None  # noqa: S101
        self._value += 1

    def doubt(self) -> None:
        """Note that it is not known whether the transaction was stored; the next session finds out."""
        self._is_doubtful, self.was_stored = True, None


_BITS: Final = 32
_ROW: Final = counter.c.name == "epoch"
_READ: Final = sa.select(counter.c.value).where(_ROW)
_INSERT: Final = sa.insert(counter).values(name="epoch", value=sa.bindparam("given"))
_SET: Final = sa.update(counter).where(_ROW).values(value=sa.bindparam("given"))


def keep_short(connection: sa.Connection) -> None:
    """Have the database end this session when it hears nothing of it for a while."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET idle_in_transaction_session_timeout = '{_SILENT_S}s'")
        if connection.dialect.server_version_info >= (14,):  # type: ignore[operator]
            connection.exec_driver_sql(f"SET idle_session_timeout = '{_SILENT_S}s'")
    else:
        connection.exec_driver_sql(f"SET SESSION wait_timeout = {_SILENT_S}")
    connection.commit()


def check_session(connection: sa.Connection) -> None:
    """See that the server's lock was taken by a session that is ours.

    Errors: ConfigError behind a pooler which gives each transaction a session of its own.
    """
    if connection.dialect.name != "postgresql":
        return
    sessions = set()
    for _ in range(3):
        sessions.add(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        connection.rollback()
    held = connection.exec_driver_sql(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
    ).scalar_one()
    connection.rollback()
    if len(sessions) > 1 or not held:
        raise ConfigError(
            "database_url leads to a pooler that gives each transaction another session, so that no server can keep "
            "its lock; let it pool sessions (pool_mode = session), or connect to the database itself",
        )


def _statement_limit(version: str) -> str:
    if "mariadb" in version.lower():
        return f"SET SESSION max_statement_time = {_STATEMENT_S}"
    return f"SET SESSION max_execution_time = {_STATEMENT_S * 1000}"


def _connect_postgresql(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    return _limited_connection().connect(*arguments, **options)


@functools.cache
def _limited_connection() -> Any:
    """Return the driver's class of connections, as one that does not wait for ever for what it has asked."""
    import psycopg  # noqa: PLC0415 - an extra that only this database needs

    clock = SystemClock()

    def limited(connection: Any, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        until = clock.monotonic() + _ANSWER_S
        try:
            asked = next(steps)
            while True:
                ready = yield asked
                if not ready and clock.monotonic() > until:
                    connection.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {_ANSWER_S} s; the connection is given up")
                asked = steps.send(ready)
        except StopIteration as end:
            return end.value

    class Limited(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *rest: Any, **more: Any) -> Any:
            return super().wait(limited(self, gen), *rest, **more)

    return Limited
