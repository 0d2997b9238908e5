"""The README's commands and examples, run in order on a farm of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hqueue.cli import hqclient, hqserver
from hqueue.config import load_server_config
from tests.docs import readme
from tests.farm import PATIENCE_S, Farm, eventually, running_farm
from tests.pythons import python2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README_PORT = "localhost:5000"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with running_farm(tmp_path_factory.mktemp("farm"), {"eins": 4}) as farm:
        yield farm


@pytest.fixture
def environment(farm: Farm, tmp_path: Path) -> dict[str, str]:
    """What a shell has whose user followed the README, but for the port: `hq` on the path, nothing said of a server."""
    programs = tmp_path / "programme"
    programs.mkdir()
    script = programs / "hq"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hqueue.cli.hq "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(readme.ROOT),
        "HQUEUE_SERVER": farm.url,
    }


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_first_job(farm: Farm, environment: dict[str, str], tmp_path: Path) -> None:
    """Every hq command of the README, with the numbers it names, and what stands in a job.json."""
    folder = tmp_path / "Aufträge"
    folder.mkdir()
    proxy = farm.proxy()
    first = last = 0
    for block in readme.blocks():
        if block.heading != "A first job":
            continue
        if block.language == "json":
            (folder / "job.json").write_text(block.text, encoding="utf-8")
        if block.language != "sh":
            continue
        for line in block.text.splitlines():
            if line == ". .venv/bin/activate":
                continue
            # The README's job 1 is the first of all, and 12 an example: here the first and the last one submitted.
            said = re.sub(r" 1$", f" {first}", re.sub(r" 12$", f" {last}", line))
            answer = _run(["sh", "-c", said], folder, environment)
            if line.startswith("hq submit"):
                last = int(answer.split()[0])
                first = first or last
            if line == "hq output -f 1":
                assert answer == "hello\n"
            if line in {"hq cancel 12", "hq eject 12", "hq reschedule 12"}:
                eventually(
                    lambda job_id=last: (
                        proxy.getJob(job_id, ["status"])["status"] in {"cancelled", "running", "runnable"}
                    ),
                    f"{line} is carried out",
                )
    names = {job["name"]: job["status"] for job in proxy.getJobs(proxy.getFinishedRootJobIds(), ["name", "status"])}
    assert names["turntable"] == names["encode"] == "succeeded"
    assert proxy.getJob(last) is None


@pytest.mark.parametrize("version", [2, 3])
def test_scripts(farm: Farm, tmp_path: Path, version: int) -> None:
    """The recipes as one script: each goes on from those before it."""
    program, environment = python2() if version == 2 else (sys.executable, dict(os.environ))
    text = "\n".join(block.text for block in readme.blocks() if block.language == "python")
    assert README_PORT in text
    (tmp_path / "skript.py").write_text(text.replace(README_PORT, f"127.0.0.1:{farm.port}"), encoding="utf-8")
    answer = _run([program, "skript.py"], tmp_path, environment)
    said = re.search(r"succeeded\nPROGRESS: 1/2\ndone\n\n\d+: (\w+)\nfollowed to the end of job (\d+)\n\Z", answer)
    assert said is not None, answer
    assert said[1] == "cancelled"
    assert farm.proxy().getJob(said[2], ["status"]) == {"status": "succeeded"}


def test_every_command_is_one_that_is_there() -> None:
    """What is not run here can at least be parsed: no option that does not exist, no program nobody has."""
    for block in readme.blocks()[2:]:
        for line in block.text.splitlines() if block.language == "sh" else ():
            program, *words = shlex.split(line)
            if program == "hqserver":
                hqserver.parser().parse_args(words)
            elif program == "hqclient":
                hqclient.parser().parse_args(words)
            elif program == ".venv/bin/pip":
                extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
                assert extra is not None
                assert f"\n{extra[1]} = [" in (readme.ROOT / "pyproject.toml").read_text(encoding="utf-8")
            else:
                assert program == "hq" or line == ". .venv/bin/activate", line


def test_ini_lines_can_be_used(tmp_path: Path) -> None:
    found = 0
    for block in readme.blocks():
        if block.language == "ini" and not block.text.startswith("[Unit]"):
            ini = tmp_path / "hqserver.ini"
            ini.write_text("[main]\n" + block.text, encoding="utf-8")
            load_server_config(ini, environ={})
            found += 1
    assert found == 2


def test_json_is_json() -> None:
    texts = [block.text for block in readme.blocks() if block.language == "json"]
    assert all(json.loads(text)["name"] for text in texts)
