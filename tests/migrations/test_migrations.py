"""The migrations make the tables that the code speaks of, on each database, and can be undone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hqueue import database
from hqueue.schema import bulk, bulk_job, counter, job_row, metadata, resource, run
from hqueue.states import SETTLED, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def engine(fresh_url: str) -> Iterator[sa.Engine]:
    made = database.create_engine(fresh_url, pool_size=2, max_overflow=0)
    yield made
    made.dispose()


def tables(engine: sa.Engine) -> set[str]:
    with engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_up_from_nothing_and_twice(engine: sa.Engine) -> None:
    assert tables(engine) == set()
    database.upgrade(engine)
    database.upgrade(engine)
    assert tables(engine) == {*metadata.tables, "alembic_version"}


def test_what_exists_from_the_start(engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.connect() as connection:
        assert dict(connection.execute(sa.select(counter.c.name, counter.c.value)).all()) == {
            "job": 0,
            "run": 0,
            "event": 0,
        }
        found = connection.execute(sa.select(resource.c.name, resource.c.maximum, resource.c.per_machine)).all()
        assert sorted(map(tuple, found)) == [
            (f"sidefx.license.{name}", None, True) for name in ("houdini", "karma", "render")
        ]


def test_down_to_nothing_and_up_again(engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.connect().execution_options(**{database.WRITING: True}) as connection, connection.begin():
        command.downgrade(database.alembic_config(connection), "base")
    assert tables(engine) <= {"alembic_version"}
    database.upgrade(engine)
    assert set(metadata.tables) < tables(engine)


def test_the_tables_are_those_of_the_code(engine: sa.Engine) -> None:
    """What `alembic check` looks at: tables, columns, types, indexes, unique constraints, foreign keys."""
    database.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []


def test_the_checks_are_those_of_the_code(engine: sa.Engine) -> None:
    """What `alembic check` does not see."""
    database.upgrade(engine)
    expected = {
        (table.name, str(check.name)): check.sqltext
        for table in metadata.tables.values()
        for check in table.constraints
        if isinstance(check, sa.CheckConstraint)
    }
    assert expected
    found: dict[tuple[str, str], str] = {}
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        for name in metadata.tables:
            for check in inspector.get_check_constraints(name):
                found[name, str(check["name"])] = str(check["sqltext"])
    assert set(found) == set(expected)
    for key, sqltext in expected.items():
        # Databases write a CHECK down in their own words; the texts in it are ours.
        assert _literals(found[key]) == _literals(str(sqltext)), key
        assert _names(found[key]) >= _names(str(sqltext)), key


def test_unfinished_actions_come_along(engine: sa.Engine) -> None:
    """What 0.1.0 had begun is known under the names of 0002, takes turns (0005), and new ones come after it."""
    with engine.connect().execution_options(**{database.WRITING: True}) as connection, connection.begin():
        command.upgrade(database.alembic_config(connection), "0001")
        connection.exec_driver_sql(
            "INSERT INTO wish (id, action, phase, value_json, created_at) VALUES (7, 'cancel', 'spread', NULL, 5)"
        )
        connection.exec_driver_sql(
            "INSERT INTO wish_job (wish_id, job_id, state, child_cursor) VALUES (7, 12, 'expand', 3)"
        )
    database.upgrade(engine)
    with engine.connect().execution_options(**{database.WRITING: True}) as connection, connection.begin():
        assert connection.execute(sa.select(bulk)).one() == (7, "cancel", "spread", None, "[]", 0, None, 5)
        columns = (bulk_job.c.bulk_id, bulk_job.c.job_id, bulk_job.c.root_id, bulk_job.c.state, bulk_job.c.child_cursor)
        assert connection.execute(sa.select(*columns)).one() == (7, 12, 12, "expand", 3)
        values = {"action": "pause", "phase": "spread", "named_json": "[]", "steps": 0, "created_at": 6}
        made = connection.execute(sa.insert(bulk).values(values))
        assert made.inserted_primary_key is not None
        assert made.inserted_primary_key[0] > 7


def test_exit_codes_get_longer(engine: sa.Engine) -> None:
    """0003: 3221225477 is how Windows says that a program crashed."""
    database.upgrade(engine)
    with engine.connect() as connection:
        found = {table.name: sa.inspect(connection).get_columns(table.name) for table in (job_row, run)}
    for name, described in found.items():
        (kind,) = (each["type"] for each in described if each["name"] == "exit_code")
        assert isinstance(kind, sa.INTEGER if engine.dialect.name == "sqlite" else sa.BIGINT), name


def _literals(text: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", text))


def _names(text: str) -> set[str]:
    without_literals = re.sub(r"'[^']*'", "", text)
    return set(re.findall(r"[a-z_]+", without_literals.lower())) - {"in", "is", "not", "null", "and", "or"}


def test_statuses_in_the_checks_are_the_enum() -> None:
    checks = {str(check.name): str(check.sqltext) for check in metadata.tables["job"].constraints if _is_check(check)}
    assert _literals(checks["ck_job_status"]) == set(JobStatus)
    assert _literals(checks["ck_job_settled_has_end"]) == set(SETTLED)


def _is_check(constraint: Any) -> bool:
    return isinstance(constraint, sa.CheckConstraint)


@pytest.mark.databases("mysql")
def test_text_on_mysql_is_compared_byte_by_byte(engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT table_name, column_name, collation_name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND table_name <> 'alembic_version'"
        ).all()
        engines = connection.exec_driver_sql(
            "SELECT DISTINCT engine FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'"
        ).scalars()
        assert list(engines) == ["InnoDB"]
    assert rows
    assert {collation for _, _, collation in rows} == {"utf8mb4_bin"}


@pytest.mark.databases("sqlite")
def test_ids_of_sqlite_are_never_used_again(engine: sa.Engine) -> None:
    database.upgrade(engine)
    with engine.connect() as connection:
        texts = dict(connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'").all())
    own_ids = {"client", "requirement", "bulk", "bulk_job", "client_group", "resource", "note_thread", "note"}
    for name in own_ids:
        assert "AUTOINCREMENT" in texts[name], name


def test_there_is_one_line_of_revisions() -> None:
    script = ScriptDirectory.from_config(database.alembic_config())
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_the_scripts_are_found_in_a_checkout_and_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(str(database.alembic_config().get_main_option("script_location"))).samefile(ROOT / "migrations")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["migrations"] == "hqueue/migrations"
    package = tmp_path / "site-packages" / "hqueue"
    (package / "migrations").mkdir(parents=True)
    monkeypatch.setattr(database, "__file__", str(package / "database.py"))
    assert database.alembic_config().get_main_option("script_location") == str(package / "migrations")


def test_alembic_finds_its_settings_in_pyproject() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["alembic"]
    assert settings["script_location"] == "%(here)s/migrations"
