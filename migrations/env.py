"""Alembic's environment: runs the migrations on the connection it is given, or on the one `-x url=` names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from hqueue.schema import metadata

connection = context.config.attributes.get("connection")


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if connection is not None:
    _run(connection)
else:
    url = context.get_x_argument(as_dictionary=True).get("url", "sqlite:///hqserver.db")
    with sa.create_engine(url).connect() as own_connection:
        _run(own_connection)
        own_connection.commit()
