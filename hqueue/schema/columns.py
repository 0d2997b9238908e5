"""What all tables have in common: names of constraints, options of databases, types."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Integer, MetaData, Text
from sqlalchemy.dialects.mysql import LONGTEXT

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    },
)

# MySQL compares and sorts like the others only byte by byte, and its TEXT ends at 64 KiB.
_TABLES: Final = {"charset": "utf8mb4", "collate": "utf8mb4_bin", "engine": "InnoDB"}
OPTIONS: Final[dict[str, Any]] = {
    f"{dialect}_{name}": value for dialect in ("mysql", "mariadb") for name, value in _TABLES.items()
} | {"sqlite_autoincrement": True}
NO_AUTOINCREMENT: Final = {name: value for name, value in OPTIONS.items() if name != "sqlite_autoincrement"}
LongText = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
# SQLite gives out ids only for the type INTEGER, which there has 64 bits; nor can it change a column's type.
Long = BigInteger().with_variant(Integer(), "sqlite")
Id = Long


def one_of(column: str, values: Any) -> str:
    """Return the SQL text that allows a column these values only."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"
