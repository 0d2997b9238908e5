"""Tells the five kinds of failure apart where they happen: by number, never by the class of an exception.

SQLSTATE of PostgreSQL, errno of MySQL and MariaDB, extended result code of SQLite, errno of the system.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Any, Final

from hqueue.errors import BrokenPromiseError, HQueueError, Kind

_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG})

_SQLITE: Final = {
    # Extended codes first: they say more than the code that they belong to.
    sqlite3.SQLITE_IOERR_FSYNC: Kind.BROKEN_PROMISE,
    sqlite3.SQLITE_IOERR_DIR_FSYNC: Kind.BROKEN_PROMISE,
    sqlite3.SQLITE_IOERR_WRITE: Kind.FULL,  # of a quota: SQLite knows no other word for EDQUOT
    sqlite3.SQLITE_IOERR_SHMSIZE: Kind.FULL,
    sqlite3.SQLITE_IOERR_SHMMAP: Kind.FULL,
    sqlite3.SQLITE_IOERR_NOMEM: Kind.FULL,
    sqlite3.SQLITE_FULL: Kind.FULL,
    sqlite3.SQLITE_NOMEM: Kind.FULL,
    sqlite3.SQLITE_BUSY: Kind.AWAY,
    sqlite3.SQLITE_LOCKED: Kind.AWAY,
    sqlite3.SQLITE_IOERR: Kind.AWAY,
    sqlite3.SQLITE_CANTOPEN: Kind.AWAY,
    sqlite3.SQLITE_READONLY: Kind.AWAY,
    sqlite3.SQLITE_PROTOCOL: Kind.AWAY,
    sqlite3.SQLITE_INTERRUPT: Kind.AWAY,
}

_POSTGRESQL: Final = {
    # Whole states first, then classes, their first two characters.
    "40003": Kind.UNKNOWN,  # statement completion unknown
    "25006": Kind.AWAY,  # read-only: a standby, or about to be one
    "25P03": Kind.AWAY,  # idle in a transaction for too long
    "25P04": Kind.AWAY,  # a transaction that took too long
    "3D000": Kind.AWAY,  # no such database
    "53100": Kind.FULL,  # disk
    "53200": Kind.FULL,  # memory
    "08": Kind.AWAY,  # connection
    "28": Kind.AWAY,  # not let in
    "40": Kind.AWAY,  # rolled back for somebody else's sake
    "53": Kind.AWAY,  # too many connections
    "55": Kind.AWAY,  # locked
    "57": Kind.AWAY,  # an operator, a restart or a time limit ended it
    "58": Kind.AWAY,  # the machine's own errors
}

_MYSQL: Final = {
    **dict.fromkeys((1021, 1037, 1038, 1041, 1114), Kind.FULL),  # disk, memory or table
    **dict.fromkeys((1040, 1042, 1043, 1044, 1045, 1049, 1129, 1130, 1203, 1226), Kind.AWAY),  # not let in
    **dict.fromkeys((1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031), Kind.AWAY),  # going away
    **dict.fromkeys((1290, 1792, 1836), Kind.AWAY),  # read-only
    **dict.fromkeys((1205, 1213, 1317, 1969, 3024), Kind.AWAY),  # somebody else in the way, or a time limit
    **dict.fromkeys(range(2000, 2100), Kind.AWAY),  # the driver's own: no connection, or a broken one
    2020: Kind.BAD_ITEM,  # larger than a packet may be
}
# "Error writing" and "got an error from the storage engine": why is told by the system's errno in the text.
_MYSQL_WITH_ERRNO: Final = frozenset({3, 1026, 1030})


def kind_of(error: BaseException) -> Kind:
    """Return what kind of failure an error is; BAD_ITEM where nothing says otherwise, bugs of ours too."""
    if isinstance(error, HQueueError | BrokenPromiseError):
        return error.kind
    original = getattr(error, "orig", None) or error
    code = getattr(original, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code) or _SQLITE.get(code & 0xFF, Kind.BAD_ITEM)
    if isinstance(original, OSError):
        return of_errno(original.errno)
    if hasattr(original, "sqlstate"):
        return _of_sqlstate(original.sqlstate, error)
    return Kind.BAD_ITEM if original is error else _of_mysql(original, getattr(error, "connection_invalidated", False))


def of_errno(number: int | None) -> Kind:
    """Return what kind of failure an error of the system is."""
    return Kind.FULL if number in _FULL_ERRNOS else Kind.AWAY


def _of_sqlstate(state: str | None, error: Any) -> Kind:
    if state is not None:
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], Kind.BAD_ITEM)
    # The driver's own. Without a connection before or after it, it is about that; else about the statement.
    no_connection = getattr(error, "connection_invalidated", False) or getattr(error, "statement", None) is None
    return Kind.AWAY if no_connection else Kind.BAD_ITEM


def _of_mysql(error: BaseException, broken: bool) -> Kind:
    number = next(iter(error.args), None)
    if number in _MYSQL_WITH_ERRNO:
        return Kind.FULL if _names_a_full_disk(error) else Kind.AWAY
    known = _MYSQL.get(number) if isinstance(number, int) else None
    return known or (Kind.AWAY if broken else Kind.BAD_ITEM)


def _names_a_full_disk(error: Any) -> bool:
    text = str(error)
    return any(f"rror {number} " in text or f"rrcode: {number} " in text for number in _FULL_ERRNOS)
