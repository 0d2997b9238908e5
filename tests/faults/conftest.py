"""The injections as fixtures, and farms that are built on them."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.farm import Farm
from tests.faults.injections import FailingFlush, SmallDisk, TcpPath, cannot_mount, small_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


@pytest.fixture
def make_farm(tmp_path: Path) -> Iterator[Callable[..., Farm]]:
    """Return a function that starts a server and clients (name: CPUs); they end with the test."""
    with ExitStack() as opened:

        def make(clients: dict[str, int] | None = None, **options: Any) -> Farm:
            folder = tmp_path / "farm"
            folder.mkdir()
            farm = Farm(folder, **options)
            opened.callback(farm.close)
            farm.server.start()
            for name, cpus in (clients or {}).items():
                farm.add_client(name, cpus=cpus)
            return farm

        yield make


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Return a file system of 24 MiB."""
    if reason := cannot_mount():
        pytest.skip(reason)
    with small_disk(tmp_path / "small", 24) as made:
        yield made


@pytest.fixture
def failing_flush(tmp_path: Path) -> FailingFlush:
    if sys.platform != "linux":
        pytest.skip("another system: a library is put before another by LD_PRELOAD")
    if shutil.which("gcc") is None:
        pytest.skip("not installable: a C compiler, for a flush that fails")
    return FailingFlush(tmp_path)


@pytest.fixture
def database_path(fresh_url: str, backend: str) -> Iterator[tuple[str, TcpPath]]:
    """Return the URL of a new database through a path that can be cut or fall silent, and that path."""
    url = sa.make_url(fresh_url)
    path = TcpPath((url.host or "127.0.0.1", url.port or DEFAULT_PORTS[backend]))
    through = url.set(host="127.0.0.1", port=path.port)
    if backend == "postgresql":
        through = through.update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
    yield through.render_as_string(hide_password=False), path
    path.close()
