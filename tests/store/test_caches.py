"""The page caches of SQLite's connections share one budget, however many readers there are."""

from __future__ import annotations

import subprocess
import sys

MIB = 1 << 20
READERS = 12
# In a process of its own: what SQLite has taken from the system is never asked for by anybody else there.
SCRIPT = f"""
import sys
from contextlib import ExitStack

import psutil

from hqueue import database
from hqueue.clock import SystemClock
from hqueue.store import Store

store = Store("sqlite:///" + sys.argv[1], clock=SystemClock())
store.open()
with store.writing() as session:
    session.connection.exec_driver_sql("CREATE TABLE ballast (text TEXT)")
    for _ in range(40):
        session.connection.exec_driver_sql("INSERT INTO ballast VALUES (zeroblob({MIB}))")
before = psutil.Process().memory_info().rss
with ExitStack() as opened:
    for _ in range({READERS}):
        connection = opened.enter_context(store.reading())
        assert connection.exec_driver_sql("SELECT sum(instr(text, x'01')) FROM ballast").scalar_one() == 0
    print(psutil.Process().memory_info().rss - before)
store.close()
"""


def test_many_readers_take_no_more_than_the_budget(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "größe.db")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    taken = int(done.stdout)
    assert taken < 160 * MIB, f"{taken / MIB:.0f} MiB"
