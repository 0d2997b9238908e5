"""What the README lists is what there is: methods, faults, settings, options."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from hqueue.cli import hq, hqclient, hqserver
from hqueue.cli.connection import SERVER_VARIABLES
from hqueue.client import daemon, statefolder
from hqueue.config import ClientConfig, ServerConfig, load_server_config
from hqueue.config.settings import settings_of
from hqueue.jobspec.graph import JobSpec
from hqueue.server import Server
from hqueue.states import JobStatus
from tests.docs import readme

if TYPE_CHECKING:
    from pathlib import Path

# Write the generated sections instead of comparing them.
UPDATE = os.environ.get("HQ_UPDATE_README", "") not in {"", "0"}

SETUP_FARM = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/hqserver --with-client\n"
SETUP_TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest\n"


def _agree(name: str, expected: str) -> None:
    if UPDATE:
        readme.replace_generated(name, expected)
    assert readme.generated(name) == expected, f"HQ_UPDATE_README=1 pytest {__file__} writes this section anew"


def test_methods(tmp_path: Path) -> None:
    ini = tmp_path / "hqserver.ini"
    ini.write_text("[main]\n", encoding="utf-8")
    _agree("methods", readme.methods(Server(load_server_config(ini, environ={})).table))


def test_faults() -> None:
    _agree("faults", readme.faults())


def test_setup_commands_come_first_and_are_those_that_ci_runs() -> None:
    first, second = [block.text for block in readme.blocks() if block.language == "sh"][:2]
    assert (first, second) == (SETUP_FARM, SETUP_TESTS)
    for number, command in enumerate((first, second), 1):
        script = f"eval \"$(sed -n '/^readme_command()/,/^}}/p' .ci/run)\"; readme_command {number}"
        done = subprocess.run(["bash", "-c", script], cwd=readme.ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == command


def test_ci_run_names_no_place_of_one_machine() -> None:
    text = (readme.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!127\.0\.0\.1)|(?<!scratch)/(root|home|work|opt)/|index-url", text)


class TestSettings:
    shipped = (readme.ROOT / "hqserver.ini").read_text(encoding="utf-8")

    @pytest.mark.parametrize("key", [one.key for one in settings_of(ServerConfig)])
    def test_server_setting_is_in_the_shipped_file_with_a_comment(self, key: str) -> None:
        lines = self.shipped.splitlines()
        (at,) = (number for number, line in enumerate(lines) if re.match(rf"{re.escape(key)}\s*=", line))
        # Keys that belong together share the comment above the first of them.
        while lines[at - 1].partition("=")[0].strip().startswith("sharedNetwork."):
            at -= 1
        assert lines[at - 1].startswith("# ")

    @pytest.mark.parametrize("name", [one.key for one in settings_of(ClientConfig)])
    def test_client_setting_is_in_the_readme(self, name: str) -> None:
        (one,) = (one for one in settings_of(ClientConfig) if one.key == name)
        rows = [line for line in readme.section("Another machine").splitlines() if f"| `{name}` |" in line]
        assert len(rows) == 1, f"no row, or several, for {name}"
        assert not one.variable or f"`{one.variable}`" in rows[0]

    def test_readme_names_no_setting_that_is_not_there(self) -> None:
        keys = {spelling for one in settings_of(ServerConfig) for spelling in one.spellings}
        named = re.findall(
            r"\| `([a-z_]+(?:\.[a-z]+)*)(?: = \d+)?`", readme.section("Settings") + readme.section("Limits")
        )
        assert named
        assert set(named) <= keys

    def test_defaults_in_the_readme(self) -> None:
        for row in re.findall(r"^\| .*\| `\w+` \|$", readme.section("Limits"), re.MULTILINE):
            _, said, key = (cell.strip(" `") for cell in row.strip("|").split("|"))
            (default,) = (one.default for one in settings_of(ServerConfig) if one.key == key)
            assert said.replace(",", "").split(", ")[0].startswith(default), row


class TestOptions:
    @pytest.mark.parametrize("option", hqclient.SETTINGS)
    def test_client_option_is_in_the_readme(self, option: str) -> None:
        assert f"| `--{option.replace('_', '-')} " in readme.section("Another machine")

    @pytest.mark.parametrize("program", [hqserver, hqclient])
    def test_daemon_options_are_in_the_readme_and_explained(self, program: object) -> None:
        parser: argparse.ArgumentParser = program.parser()  # type: ignore[attr-defined]
        text = readme.README.read_text(encoding="utf-8")
        for action in parser._actions:
            assert action.help, action.option_strings
            for option in action.option_strings:
                assert option in {"-h", "--help", "--version"} or f"`{option}" in text, option

    def test_flags_are_settings(self) -> None:
        assert set(hqclient.SETTINGS) <= {one.key for one in settings_of(ClientConfig)}
        assert set(hqserver.SETTINGS) <= {one.key for one in settings_of(ServerConfig)}

    def test_every_command_and_option_of_hq_is_explained(self) -> None:
        (commands,) = (one for one in hq.parser()._actions if isinstance(one, argparse._SubParsersAction))
        text = readme.README.read_text(encoding="utf-8")
        for name, parser in commands.choices.items():
            assert f"hq {name}" in text, f"the README does not show hq {name}"
            assert parser.description
            for action in parser._actions:
                assert action.help or action.dest in {"id", "ids"}, (name, action.dest)

    def test_variables_that_name_the_server(self) -> None:
        text = readme.section("A first job")
        positions = [text.index(f"`{name}`") for name in SERVER_VARIABLES]
        assert positions == sorted(positions)


class TestWords:
    def test_every_property_of_a_job(self) -> None:
        text = readme.section("What a job can say")
        wire = {
            "parent": None,
            "command": "command",
            "child_ids": "childrenIds",
            "parent_ids": "parentIds",
            "stub_id": "stubId",
            "max_time_s": "maxTime",
            "tries": "triesLeft",
            "log": None,
            "path": None,
        }
        for name in JobSpec._fields:
            key = wire.get(name, re.sub(r"_(\w)", lambda match: match[1].upper(), name))
            assert key is None or f"`{key}`" in text, key

    def test_every_status(self) -> None:
        text = readme.section("What a job can say")
        assert all(f"`{status.value}`" in text for status in JobStatus)

    def test_state_folder(self) -> None:
        text = readme.section("Files and folders")
        names = re.findall(r"^([\w.]+)(?:/\w+/)?\*?  +", inspect.getdoc(statefolder) or "", re.MULTILINE)
        assert "hqnode.key" in names
        assert all(name in text for name in names), names

    def test_exit_codes(self) -> None:
        text = readme.section("Run it as a service")
        assert f"{daemon.EXIT_STOPPED} stopped in order" in text
        assert f"{daemon.EXIT_UNUSABLE} cannot start" in text
        assert f"{daemon.EXIT_REFUSED} (client) refused" in text

    def test_config_has_nothing_but_settings_and_what_is_made_of_them(self) -> None:
        made = {field.name for field in fields(ServerConfig) if "setting" not in field.metadata}
        assert made == {"network_folders", "folder", "path", "warnings", "texts"}


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (readme.ROOT / page).read_text(encoding="utf-8")
        headings = {
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in headings, f"{page}: {target}"
            else:
                assert (readme.ROOT / target).exists(), f"{page}: {target}"
