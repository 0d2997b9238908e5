"""Other interpreters that may be on this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest


@functools.cache
def _find_python2() -> tuple[str, dict[str, str]] | None:
    """Return a Python 2.7 that really runs, with the environment that it needs.

    A `python2.7` on the PATH may be a switch of pyenv's that answers for a version which is not active.
    """
    places = [shutil.which("python2.7"), *map(str, Path.home().glob(".pyenv/versions/2.7*/bin/python2.7"))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for place in filter(None, places):
        done = subprocess.run(
            [place, "-c", "import xmlrpclib"], env=environment, capture_output=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return place, environment
    return None


def python2() -> tuple[str, dict[str, str]]:
    """Return a Python 2.7 and its environment, or skip the test."""
    found = _find_python2()
    if found is None:
        pytest.skip("not installable: no python2.7 on this machine, and no package that would bring it")
    return found
