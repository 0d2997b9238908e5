"""HQ_TEST_STRICT, as tests/conftest.py explains it: a skip is a failure, but for two kinds of reasons."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no time for it")
def test_without_an_excuse():
    pass

@pytest.mark.skip(reason="another system: Windows has jobs, not process groups")
def test_of_another_system():
    pass

def test_of_what_cannot_be_installed():
    pytest.skip("not installable: nobody sells it any more")

@pytest.fixture
def gone():
    pytest.skip("no database answers")

def test_with_a_fixture_that_skips(gone):
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    assert False
"""


@pytest.mark.parametrize(("strict", "outcome"), [("", "1 passed, 4 skipped, 1 xfailed"), ("1", "2 skipped, 1 xfailed")])
def test_skips(tmp_path: Path, strict: str, outcome: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text('import pytest\npytest.skip("left out", allow_module_level=True)\n')
    names = ["test_some.py"] if not strict else ["test_some.py", "test_module.py", "--continue-on-collection-errors"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull, *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HQ_TEST_STRICT": strict, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    if not strict:
        assert done.returncode == 0
        assert "left out on this machine" not in done.stdout
        assert "1 skipped: no database answers\n" in done.stdout.split("not run on this machine")[1]
        return
    assert done.returncode == 1
    assert "HQ_TEST_STRICT forbids: no time for it" in done.stdout
    assert "HQ_TEST_STRICT forbids: no database answers" in done.stdout
    assert "HQ_TEST_STRICT forbids: left out" in done.stdout
    listed = done.stdout.split("left out on this machine")[1]
    assert "test_of_another_system: another system: Windows has jobs, not process groups" in listed
    assert "test_of_what_cannot_be_installed: not installable: nobody sells it any more" in listed
