from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest

from hqueue.client import machine, platforms
from hqueue.client.statefolder import StateFolder
from hqueue.client.workspace import Workspaces, remove_tree
from hqueue.errors import ConfigError
from tests.fakes import FakeClock


def test_what_registers_a_client(tmp_path: Path) -> None:
    identity = machine.identity(tmp_path, name="zwei", key="k", incarnation=4, cpus=8, port=5002)
    assert (identity.name, identity.key, identity.incarnation) == ("zwei", "k", 4)
    assert (identity.cpus, identity.port) == (8, 5002)
    assert identity.hostname
    assert re.fullmatch(r"(linux|windows|macosx|macos)-\w+", identity.platform)
    assert 100_000 < identity.memory_kb < 2**40
    assert identity.disk_kb > 0
    assert all(isinstance(each, int) for each in (identity.memory_kb, identity.cpu_speed_mhz, identity.disk_kb))


def test_load_is_measured_once_a_second_at_most(tmp_path: Path) -> None:
    clock = FakeClock()
    load = machine.Load(tmp_path, 4, clock)
    first = dict(load())
    assert 0 <= first["load"] <= 4
    assert first["free_memory_kb"] > 0
    assert first["free_disk_kb"] > 0
    assert first["idle_minutes"] >= -1
    load._sample["load"] = "kept"
    assert load()["load"] == "kept"
    clock.advance(1.0)
    assert load()["load"] != "kept"


class TestStateFolder:
    def test_a_key_for_ever_and_a_number_for_each_start(self, tmp_path: Path) -> None:
        first = StateFolder(tmp_path / "größe" / "zustand")
        assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
        assert (first.path / "hqnode.pid").read_text() == f"{os.getpid()}\n"
        first.note_port(5003)
        assert (first.path / "hqnode.port").read_text() == "5003\n"
        first.close()
        assert not (first.path / "hqnode.pid").exists()
        second = StateFolder(first.path)
        assert (second.key, second.incarnation) == (first.key, first.incarnation + 1)
        second.close()
        assert re.fullmatch(r"[0-9a-f]{32}", first.key)

    def test_one_daemon_at_a_time(self, tmp_path: Path) -> None:
        folder = StateFolder(tmp_path)
        with pytest.raises(ConfigError, match="another client works on the state folder"):
            StateFolder(tmp_path)
        folder.close()
        StateFolder(tmp_path).close()

    def test_a_folder_that_cannot_be_is_said_in_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "datei").touch()
        with pytest.raises(ConfigError, match="cannot use its state folder"):
            StateFolder(tmp_path / "datei" / "zustand")


class TestRemoving:
    def test_all_kinds_of_things(self, tmp_path: Path) -> None:
        outside = tmp_path / "draußen"
        outside.mkdir()
        (outside / "bleibt").touch()
        tree = tmp_path / "baum"
        (tree / "ast" / "zweig").mkdir(parents=True)
        (tree / "ast" / "blatt").touch()
        (tree / "weg").symlink_to(outside)
        (tree / "ast").chmod(0o500)
        remove_tree(str(tree))
        link = tmp_path / "verweis"
        link.symlink_to(outside)
        remove_tree(str(link))
        remove_tree(str(tmp_path / "nie-gewesen"))
        assert [path.name for path in tmp_path.iterdir()] == ["draußen"]
        assert (outside / "bleibt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the shells of POSIX")
class TestShells:
    @pytest.fixture
    def programs(self, tmp_path: Path) -> Path:
        for name in ("sh", "tcsh"):
            program = tmp_path / name
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        return tmp_path

    def test_bash_where_there_is_one_and_else_sh(self, programs: Path) -> None:
        environment = {"PATH": str(programs)}
        shell = platforms.find_shell("", environment)
        assert shell is not None
        assert shell.argv == (str(programs / "sh"),)
        (programs / "bash").write_text("#!/bin/sh\n")
        (programs / "bash").chmod(0o755)
        shell = platforms.find_shell("", environment)
        assert shell is not None
        assert shell.argv == (str(programs / "bash"),)

    def test_with_arguments_of_its_own(self, programs: Path) -> None:
        shell = platforms.find_shell("tcsh -f -e", {"PATH": str(programs)})
        assert shell is not None
        assert shell.argv == (str(programs / "tcsh"), "-f", "-e")

    def test_none_of_that_name(self, programs: Path) -> None:
        assert platforms.find_shell("fisch", {"PATH": str(programs)}) is None
        assert platforms.find_shell("fisch -l", {"PATH": str(programs)}) is None


class TestShellsOfWindows:
    @pytest.fixture
    def programs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        monkeypatch.setattr(platforms, "NAME", "windows")
        monkeypatch.setenv("PATH", str(tmp_path))  # of the client itself
        return {"PATH": str(tmp_path), "COMSPEC": "C:/cmd.exe"}

    @pytest.mark.parametrize(("wanted", "remark"), [("", ""), ("cmd", ""), ("bash", "no bash"), ("bash -l", "no bash")])
    def test_cmd_also_in_place_of_a_bash(self, programs: dict[str, str], wanted: str, remark: str) -> None:
        shell = platforms.find_shell(wanted, programs)
        assert shell is not None
        assert shell.argv == ("C:/cmd.exe", "/d", "/c")
        assert remark in shell.remark

    def test_with_arguments_of_its_own(self, programs: dict[str, str], tmp_path: Path) -> None:
        (tmp_path / "bash").write_text("")
        (tmp_path / "bash").chmod(0o755)
        shell = platforms.find_shell("bash -l", programs)
        assert shell is not None
        assert shell.argv == (str(tmp_path / "bash"), "-l")

    def test_the_lines_of_a_command_end_as_cmd_wants_them(self, programs: dict[str, str], tmp_path: Path) -> None:
        workspaces = Workspaces(tmp_path / "runs", lambda _: None)
        argv, _ = workspaces.prepare("t", ":a\ngoto a", "cmd", programs)
        assert Path(argv[-1]).read_bytes() == b":a\r\ngoto a\r\n"
