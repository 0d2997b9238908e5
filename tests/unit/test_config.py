from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hqueue.config import (
    ClientConfig,
    ServerConfig,
    address_url,
    load_client_config,
    load_server_config,
    server_address,
)
from hqueue.config.ini import find_ini, read_ini
from hqueue.config.settings import settings_of
from hqueue.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SHIPPED = Path(__file__).parents[2] / "hqserver.ini"
NOBODY: Mapping[str, str] = {"HOME": "/nirgendwo"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "Höhle 50%"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server(folder: Path) -> Callable[..., ServerConfig]:
    def load(text: str, **overrides: str) -> ServerConfig:
        path = folder / "hqserver.ini"
        path.write_text(text, encoding="utf-8")
        return load_server_config(path, overrides, NOBODY)

    return load


@pytest.fixture
def client(folder: Path) -> Callable[..., ClientConfig]:
    def load(text: str, flags: Mapping[str, str] | None = None, **environ: str) -> ClientConfig:
        path = folder / "hqnode.ini"
        path.write_text(text, encoding="utf-8")
        return load_client_config(path, flags, {**NOBODY, **environ})

    return load


def refused(load: Callable[..., object], *given: str, **named: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*given, **named)
    message = caught.value.message
    assert "\n" not in message
    return message


class TestShippedFile:
    def test_it_says_the_defaults_and_nothing_else(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        defaults = server("[main]\n")
        shutil.copy(SHIPPED, folder / "hqserver.ini")
        assert load_server_config(folder / "hqserver.ini", {}, NOBODY) == defaults
        assert defaults.warnings == ()

    def test_it_has_every_key_once_under_its_new_name(self) -> None:
        written = [entry.key for entry in read_ini(SHIPPED).entries]
        assert sorted(written) == sorted(one.key for one in settings_of(ServerConfig))

    def test_every_key_has_a_comment_with_its_default_and_its_unit(self) -> None:
        blocks = {}
        for block in SHIPPED.read_text(encoding="utf-8").split("\n\n"):
            keys = re.findall(r"^([\w.]+) *=", block, re.MULTILINE)
            blocks |= dict.fromkeys(keys, " ".join(re.findall(r"^# ?(.*)", block, re.MULTILINE)))
        units = {"_s": "Seconds", "_bytes": "Size", "_days": "Days", "_minutes": "Minutes"}
        for one in settings_of(ServerConfig):
            comment = blocks[one.key]
            assert re.search(r"Defaults?: ", comment), one.key
            assert one.default in comment, one.key
            for ending, unit in units.items():
                if one.key.endswith(ending):
                    assert unit in comment, one.key


class TestDefaults:
    def test_the_documented_ones(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        config = server("")
        assert (config.port, config.host, config.active_timeout_s, config.heartbeat_s) == (5000, "127.0.0.1", 120, 5)
        assert config.database_url == f"sqlite:///{folder}/hqserver.db"
        assert config.job_logs_dir == folder / "job_logs"
        assert (config.max_request_bytes, config.max_output_bytes) == (64 << 20, 1 << 30)
        assert (config.max_rescues, config.max_client_failures, config.rescue_abandoned_minutes) == (2, 3, 15)
        assert (config.email_to, config.smtp_password, config.debug) == ((), "", False)
        assert config.hqroot.on("linux") == "/mnt/hq"
        assert config.hqroot.on("windows") == "H:/"
        assert config.hqroot.on("amiga") is None

    def test_without_any_file_store_and_logs_are_in_the_state_folder(self, folder: Path) -> None:
        config = load_server_config(None, {}, {"HOME": str(folder)})
        state = folder / ".local/state/hqueue"
        assert (config.path, config.folder) == (None, state)
        assert config.database_url == f"sqlite:///{state}/hqserver.db"
        assert config.job_logs_dir == state / "job_logs"
        named = load_server_config(None, {}, {"HOME": "/nirgendwo", "XDG_STATE_HOME": str(folder)})
        assert named.job_logs_dir == folder / "hqueue/job_logs"

    @pytest.mark.usefixtures("folder")
    def test_a_relative_xdg_folder_is_ignored(self) -> None:
        config = load_server_config(None, {}, {"HOME": "/nirgendwo", "XDG_STATE_HOME": "state"})
        assert config.folder == Path("/nirgendwo/.local/state/hqueue")

    def test_every_default_can_be_written_into_a_file(self, server: Callable[..., ServerConfig]) -> None:
        text = "".join(f"{one.key} = {one.default}\n" for one in settings_of(ServerConfig))
        assert server(f"[main]\n{text}") == server("")


class TestWhereFilesAreFound:
    def test_current_folder_then_the_users_then_the_systems(self, tmp_path: Path) -> None:
        places = [tmp_path / "hier", tmp_path / "home/.config/hqueue", tmp_path / "etc"]
        environ = {"HOME": str(tmp_path / "home")}
        found = []
        for place in reversed(places):
            place.mkdir(parents=True)
            (place / "hqserver.ini").touch()
            found.append(find_ini("hqserver.ini", environ, folder=places[0], system=places[2]))
        assert found == [place / "hqserver.ini" for place in reversed(places)]

    def test_none_is_found_where_there_is_none(self, tmp_path: Path) -> None:
        assert find_ini("hqserver.ini", {"HOME": str(tmp_path)}, folder=tmp_path, system=tmp_path / "x") is None

    def test_it_is_looked_for_when_no_path_is_given(self, folder: Path) -> None:
        (folder / "hqserver.ini").write_text("[main]\nport = 6001\n")
        assert load_server_config(None, {}, NOBODY).port == 6001
        (folder / "hqnode.ini").write_text("[main]\nserver = farm\n")
        assert load_client_config(None, {}, NOBODY).server_url == "http://farm:5000"

    def test_one_that_was_named_must_be_there(self, folder: Path) -> None:
        message = refused(load_server_config, folder / "fehlt.ini")
        assert message.startswith(f"{folder}/fehlt.ini cannot be read: ")


class TestTheLanguageOfIniFiles:
    def test_comments_only_at_the_start_of_a_line(self, server: Callable[..., ServerConfig]) -> None:
        config = server("# ¡hola!\n[main]\n; port = 1\n  # indented\nsmtp_password = a#b ;c # d\n")
        assert config.smtp_password == "a#b ;c # d"

    def test_only_here_is_interpolated(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        config = server(
            "[main]\ndatabase_url = postgresql://hq:p%40ss%%w%(port)s@db/hq\njob_logs_dir = %(here)s/%(here)s\n"
            "smtp_password = 100%\n"
        )
        assert config.database_url == "postgresql+psycopg://hq:p%40ss%%w%(port)s@db/hq"
        assert config.job_logs_dir == Path(f"{folder}/{folder}")
        assert config.smtp_password == "100%"

    def test_separators_blanks_and_line_ends(self, folder: Path) -> None:
        path = folder / "hqserver.ini"
        path.write_bytes("\ufeff[ main ]\r\n  port:6000\r\n  host   =  ::1  \r\nsmtp_user = a=b:c\r\n".encode())
        config = load_server_config(path, {}, NOBODY)
        assert (config.port, config.host, config.smtp_user) == (6000, "::1", "a=b:c")

    def test_deeper_lines_continue_a_value(self, client: Callable[..., ClientConfig]) -> None:
        config = client(
            "[job_environment]\n  ZEILEN = eins\n    zwei\n    # no comment ends it\n    drei\n\n  Next = 1\n"
        )
        assert config.job_environment == {"ZEILEN": "eins\nzwei\ndrei", "Next": "1"}

    def test_lines_are_split_at_line_feeds_alone(self, server: Callable[..., ServerConfig]) -> None:
        assert server("[main]\nsmtp_user = a\u2028b\x85c\n").smtp_user == "a\u2028b\x85c"

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("port = 1\n", 1, "port stands above the first section; expected [main]"),
            ("[main\n", 1, "found '[main', expected a section such as [main]"),
            ("[main]\n\n= 5\n", 3, "expected a key before the '='"),
            ("[main]\nport\n", 2, "found 'port', expected key = value"),
            ("[main]\nhost = a\0b\n", 2, "NUL"),
            ("[main]\nport = 1\n# x\nport = 1\n", 4, "port is given again; line 2 gave it before"),
            ("[main]\nmax_output_answer = 1 MiB\nmax_output_answer_bytes = 1 MiB\n", 3, "line 2 gave it before"),
            ("[Main]\n", 1, "there is no section [Main]; expected [main]"),
        ],
    )
    def test_what_it_is_not(self, server: Callable[..., ServerConfig], text: str, line: int, words: str) -> None:
        message = refused(server, text)
        assert f"hqserver.ini, line {line}: " in message
        assert words in message

    def test_a_file_that_is_not_utf8(self, folder: Path) -> None:
        path = folder / "hqserver.ini"
        path.write_bytes(b"[main]\n# K\xf6ln\n")
        assert "line 2: this is not UTF-8" in refused(load_server_config, path)


class TestComplaints:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("port = abc", "port is 'abc', but must be a whole number from 0 to 65535."),
            ("port = 65536", "port is '65536', but must be a whole number from 0 to 65535."),
            ("port =", "port is '', but must be"),
            ("port = 5_000", "but must be a whole number"),
            ("port = \u0665\u0660", "but must be a whole number"),
            ("port = 5000 ; the usual", "65535. A comment needs a line of its own."),
            ("active_timeout = 0", "active_timeout is '0', but must be a number of minutes from 0.01 to 10080."),
            ("active_timeout = nan", "a number of minutes"),
            ("heartbeat_s = 1e3", "a number of seconds from 0.05 to 3600"),
            ("rescue_abandoned_minutes = -1", "a number of minutes from 0 to 525600"),
            ("debug = maybe", "debug is 'maybe', but must be true or false."),
            ("max_request_bytes = 64 MB", "a size in bytes, KiB, MiB or GiB from 64 KiB to 2 GiB, such as 64 MiB"),
            ("max_request_bytes = 1", "from 64 KiB"),
            ("smtp_tls = ssl", "smtp_tls is 'ssl', but must be one of off, starttls, tls."),
            ("reported_version = 20.5", "three numbers such as 20.5.332"),
            ("email_to = me@example.com, you", "mail addresses separated by commas"),
            ("error_email_from = farm", "one mail address"),
            ("job_logs_dir =", "the path of a folder"),
            ("host = 0.0.0.0 127.0.0.1", "an address to listen on"),
            ("database_url = /var/hq.db", "a URL such as"),
            ("database_url = oracle://x/y", "a URL such as"),
            ("database_url = sqlite://", "the URL of a database file"),
            ("database_url = sqlite:///:memory:", "the URL of a database file"),
            ("database_url = mysql://", "a URL such as"),
        ],
    )
    def test_a_value_that_cannot_be(self, server: Callable[..., ServerConfig], line: str, words: str) -> None:
        message = refused(server, f"[main]\n# Größe\n{line}\n")
        assert "hqserver.ini, line 3: " in message
        assert words in message

    def test_an_unknown_key_names_the_nearest_one(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        assert refused(server, "[main]\n\nprot = 1\n") == (
            f"{folder}/hqserver.ini, line 3: there is no key 'prot'; the nearest known key is 'port'."
        )
        assert refused(server, "[main]\nLärm = 1\n").endswith("there is no key 'Lärm'.")
        assert "'job_logs_dir'" in refused(server, "[main]\njob_log_dir = x\n")

    def test_a_flag_is_named_as_a_flag(self, server: Callable[..., ServerConfig]) -> None:
        assert refused(server, "", heartbeat_s="x").startswith("option --heartbeat-s: heartbeat_s is 'x', but")
        assert refused(server, "", prot="x").startswith("option --prot: there is no key 'prot'")

    @pytest.mark.parametrize(
        "url", ["oracle://hq:geheim@db/x", "mysql//hq:geheim@db", "x://hq:ge@heim@db?password=geheim"]
    )
    def test_no_complaint_tells_a_password(self, server: Callable[..., ServerConfig], url: str) -> None:
        assert "heim" not in refused(server, f"[main]\ndatabase_url = {url}\n").replace("/Höhle", "")

    def test_a_timeout_shorter_than_two_heartbeats(self, server: Callable[..., ServerConfig]) -> None:
        message = refused(server, "[main]\nheartbeat_s = 61\n")
        assert "line 2: active_timeout is 2 minutes and heartbeat_s is 61 seconds" in message
        assert server("[main]\nheartbeat_s = 60\n").heartbeat_s == 60

    def test_what_nothing_goes_by_yet_is_said_when_it_is_changed(self, server: Callable[..., ServerConfig]) -> None:
        config = server("[main]\nexpire_jobs_days = 5\nchanges_days = 7\nexpire_clients_days = 0\n")
        assert [each.partition("line ")[2] for each in config.warnings] == [
            "2: expire_jobs_days is kept, but nothing goes by it yet.",
            "4: expire_clients_days is kept, but nothing goes by it yet.",
        ]

    def test_calls_that_are_not_signed_are_warned_of(self, server: Callable[..., ServerConfig]) -> None:
        (warning,) = server("[main]\nwebhook_hosts = chat.example.com, 10.0.0.0/8\n").warnings
        assert "webhook_hosts is set but webhook_secret is not" in warning
        assert server("[main]\nwebhook_url = https://c.example/x\nwebhook_secret = s\n").warnings == ()

    def test_mail_without_a_mail_server_is_warned_of(self, server: Callable[..., ServerConfig]) -> None:
        (warning,) = server("[main]\nemail_to = jörg@example.com\n").warnings
        assert "line 2: email_to is set but smtp_server is not" in warning


class TestValues:
    def test_units_and_kinds(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        config = server(
            "[main]\nactive_timeout = .5\nheartbeat_s = 0.25\nmax_output_bytes = 2gib\nmax_request_bytes = 65536\n"
            "debug = Yes\nemail_to = Jörg <a@example.com>, , b@example.com\njob_logs_dir = logs/../Läufe\n"
            "smtp_server = post\nmax_overflow = -1\nsmtp_tls = STARTTLS\n"
        )
        assert (config.active_timeout_s, config.heartbeat_s) == (30, 0.25)
        assert (config.max_output_bytes, config.max_request_bytes) == (2 << 30, 65536)
        assert config.debug is True
        assert config.email_to == ("Jörg <a@example.com>", "b@example.com")
        assert config.job_logs_dir == folder / "Läufe"
        assert (config.max_overflow, config.smtp_tls) == (-1, "starttls")

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("mysql://hq:p@w@db:3306/hq?charset=x", "mysql+pymysql://hq:p@w@db:3306/hq?charset=x"),
            ("mysql+mysqldb://db/hq", "mysql+pymysql://db/hq"),
            ("mariadb://db/hq", "mariadb+pymysql://db/hq"),
            ("postgres://db/hq", "postgresql+psycopg://db/hq"),
            ("PostgreSQL+psycopg2://db/hq", "postgresql+psycopg://db/hq"),
            ("sqlite:////srv/hq.db?timeout=5", "sqlite:////srv/hq.db?timeout=5"),
        ],
    )
    def test_database_urls_get_our_drivers(self, server: Callable[..., ServerConfig], url: str, expected: str) -> None:
        assert server(f"[main]\ndatabase_url = {url}\n").database_url == expected

    def test_a_relative_database_is_beside_the_file_but_relative_to_the_caller_as_a_flag(
        self, server: Callable[..., ServerConfig], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = folder.parent
        monkeypatch.chdir(elsewhere)
        assert server("[main]\ndatabase_url = sqlite:///a.db\n").database_url == f"sqlite:///{folder}/a.db"
        flagged = server("[main]\ndatabase_url = sqlite:///a.db\n", database_url="sqlite:///b.db", job_logs_dir="l")
        assert flagged.database_url == f"sqlite:///{elsewhere}/b.db"
        assert flagged.job_logs_dir == elsewhere / "l"

    def test_flags_win_in_either_spelling(self, server: Callable[..., ServerConfig]) -> None:
        assert server("[main]\nport = 1\n", port="0").port == 0
        assert server("[main]\nport = 1\n", **{"hqserver.port": "7"}).port == 7

    def test_secrets_are_in_no_repr(self, server: Callable[..., ServerConfig]) -> None:
        config = server("[main]\nsmtp_password = geheim\ndatabase_url = mysql://hq:geheim@db/hq\n")
        assert "geheim" not in repr(config)
        assert replace(config, port=1).smtp_password == "geheim"


class TestValueOf:
    def test_both_spellings_and_any_case(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        config = server("[main]\nactive_timeout = 2.50\nport = 6000\n", heartbeat_s="2")
        assert config.value_of("active_timeout") == config.value_of("hqserver.activeTimeout") == "2.50"
        assert config.value_of("PORT") == config.value_of("hqserver.port") == "6000"
        assert config.value_of("heartbeat_s") == "2"
        assert config.value_of("job_logs_dir") == str(folder / "job_logs")
        assert config.value_of("hqserver.sharedNetwork.mount.windows") == "H:/"
        assert config.value_of("email_to") == ""
        assert config.value_of("keins") is None

    def test_secrets_are_masked(self, server: Callable[..., ServerConfig]) -> None:
        config = server("[main]\nsmtp_password = geheim\ndatabase_url = mysql://hq:ge@heim@db/hq?ssl_password=x&y=1\n")
        assert config.value_of("smtp_password") == "***"
        shown = "mysql+pymysql://hq:***@db/hq?ssl_password=***&y=1"
        assert config.value_of("database_url") == config.value_of("sqlalchemy.default.url") == shown
        assert server("").value_of("smtp_password") == ""


OLD = """\
[DEFAULT]
debug = true
email_to = farm@example.com
smtp_server = post

[server:main]
use = egg:Paste#http
host = 0.0.0.0
port = 5000

[app:main]
use = egg:hqserver
full_stack = true
cache_dir = %(here)s/data
beaker.session.secret = geheim
hqserver.port = 5000
hqserver.activeTimeout = 3
hqserver.expireJobsDays = 10
hqserver.upgradePriority = 50
hqserver.sharedNetwork.host = höhle
hqserver.sharedNetwork.path.linux = %(here)s/shared
hqserver.sharedNetwork.path.windows = hq
hqserver.sharedNetwork.mount.linux = /mnt/höhle
hqserver.sharedNetwork.mount.windows = Q:
job_logs_dir = %(here)s/job_logs
sqlalchemy.default.url = mysql://hq:a%40b@db/hqueue
sqlalchemy.default.pool_size = 300
sqlalchemy.default.max_overflow = -1
sqlalchemy.default.pool_recycle = 3600

[loggers]
keys = root
this line is nothing

[formatter_generic]
format = %(asctime)s,%(msecs)03d
    more
"""


class TestTheOriginalsFiles:
    def test_everything_known_is_in_force(self, server: Callable[..., ServerConfig], folder: Path) -> None:
        config = server(OLD)
        assert (config.host, config.port, config.debug) == ("0.0.0.0", 5000, True)
        assert (config.active_timeout_s, config.expire_jobs_days, config.upgrade_priority) == (180, 10, 50)
        assert (config.email_to, config.smtp_server) == (("farm@example.com",), "post")
        assert (config.pool_size, config.max_overflow) == (300, -1)
        assert config.database_url == "mysql+pymysql://hq:a%40b@db/hqueue"
        assert config.shared_network_host == "höhle"
        assert (config.shared_network_path_linux, config.shared_network_path_windows) == (f"{folder}/shared", "hq")
        assert (config.hqroot.linux, config.hqroot.windows) == ("/mnt/höhle", "Q:")
        assert config.job_logs_dir == folder / "job_logs"

    def test_what_is_not_ours_gives_one_warning_each(self, server: Callable[..., ServerConfig]) -> None:
        warnings = server(OLD).warnings
        said = [re.sub(r".*hqserver.ini, line (\d+): (\S+).*", r"\1 \2", warning) for warning in warnings]
        assert said == [
            "1 [DEFAULT]",
            "6 [server:main]",
            "11 [app:main]",
            "31 [loggers]",
            "35 [formatter_generic]",
            "7 use",
            "12 use",
            "13 full_stack",
            "14 cache_dir",
            "15 beaker.session.secret",
            "29 sqlalchemy.default.pool_recycle",
            "18 expire_jobs_days",  # ours, but nothing goes by it yet
        ]
        assert not any("geheim" in warning for warning in warnings)

    def test_a_misspelled_key_is_warned_of_with_the_nearest(self, server: Callable[..., ServerConfig]) -> None:
        (warning,) = server("[main]\nhqserver.activeTimeuot = 3\nhqserver.port = 5000\n").warnings
        assert "line 2: hqserver.activeTimeuot is not known here; the nearest known key is" in warning
        assert "'hqserver.activeTimeout'; it is ignored" in warning

    def test_main_wins_over_the_other_sections_wherever_it_stands(self, server: Callable[..., ServerConfig]) -> None:
        text = "[DEFAULT]\nport = 1\n[main]\nhqserver.port = 2\n[server:main]\nport = 3\n"
        config = server(text)
        assert config.port == 2
        disputes = [warning for warning in config.warnings if "port is given here and in" in warning]
        assert len(disputes) == 2
        assert all("line 4 says is in force" in warning for warning in disputes)

    def test_in_one_section_the_later_wins(self, server: Callable[..., ServerConfig]) -> None:
        config = server("[main]\nport = 1\nhqserver.port = 2\nhqserver.port = 2\n")
        assert config.port == 2
        assert len(config.warnings) == 1

    def test_a_bad_value_stops_it_all_the_same(self, server: Callable[..., ServerConfig]) -> None:
        message = refused(server, "[app:main]\nhqserver.expireJobsDays = never\n")
        assert "line 2: expire_jobs_days is 'never', but must be a whole number" in message

    def test_spellings_of_the_database_alone_leave_a_file_strict(self, server: Callable[..., ServerConfig]) -> None:
        text = "[main]\nsqlalchemy.default.pool_size = 7\n"
        assert server(text).pool_size == 7
        assert "there is no key 'use'" in refused(server, text + "use = x\n")

    def test_one_shared_path_stands_for_the_platforms_that_have_none(self, server: Callable[..., ServerConfig]) -> None:
        config = server("[main]\nsharedNetwork.path = /vol/hq\nsharedNetwork.path.windows =\n")
        assert (config.shared_network_path_linux, config.shared_network_path_windows) == ("/vol/hq", "")
        assert config.value_of("hqserver.sharedNetwork.path.macosx") == "/vol/hq"


class TestNetworkFolders:
    @pytest.fixture
    def beside(self, folder: Path, server: Callable[..., ServerConfig]) -> Callable[..., ServerConfig]:
        def load(folders: str, text: str = "") -> ServerConfig:
            (folder / "network_folders.ini").write_text(folders, encoding="utf-8")
            return server(text)

        return load

    def test_they_replace_the_shared_network(self, beside: Callable[..., ServerConfig], folder: Path) -> None:
        config = beside(
            "[TEXTURES]\nlinux = %(here)s/tex\n[PROJEKTE]\nlinux = /prj\nwindows = P:/\nmain = true\n",
            "[main]\nsharedNetwork.mount.linux = /mnt/alt\nsharedNetwork.mount.windows = P:/\n",
        )
        assert [one.name for one in config.network_folders] == ["TEXTURES", "PROJEKTE"]
        assert config.network_folders[0].linux == f"{folder}/tex"
        assert (config.network_folders[0].windows, config.network_folders[0].main) == ("", False)
        assert (config.hqroot.name, config.hqroot.linux) == ("PROJEKTE", "/prj")
        assert config.shared_network_mount_linux == config.value_of("sharedNetwork.mount.linux") == "/prj"
        assert config.value_of("hqserver.sharedNetwork.mount.macosx") == ""
        (warning,) = config.warnings
        assert "line 2: sharedNetwork.mount.linux is not in force" in warning

    def test_the_main_one_may_go_without_saying(self, beside: Callable[..., ServerConfig]) -> None:
        assert beside("[A]\nlinux = /a\n[HQROOT]\nlinux = /b\n").hqroot.name == "HQROOT"
        assert beside("[A]\nlinux = /a\n").hqroot.name == "A"

    @pytest.mark.parametrize(
        ("folders", "words"),
        [
            ("", "names no folder"),
            ("linux = /a\n[A]\nlinux = /a\n", "line 1: linux stands above the first section"),
            ("[A]\nlinux = /a\n[B]\nlinux = /b\n", "main folder is none, but must be one folder"),
            (
                "[A]\nlinux = /a\nmain = 1\n[B]\nlinux = /b\nmain = 1\n",
                "main folder is A and B, but must be one folder",
            ),
            ("[A]\nlinux = /a\nmain = 1\n[HQROOT]\nlinux = /b\n", "main folder is A, but must be HQROOT"),
            ("[A B]\nlinux = /a\n", "line 1: [A B] cannot be the variable"),
            ("[JOBID]\nlinux = /a\n", "line 1: [JOBID] cannot be the variable"),
            ("[A]\nmain = 1\n", "line 1: [A] has no path on any platform"),
            ("[A]\nlinux = /a\nmain = si\n", "main of [A] is 'si', but must be true or false"),
            ("[A]\nlinus = /a\n", "line 2: found 'linus', expected a value for linux, windows, macosx or main"),
            ("[A]\nlinux\n", "line 2: found 'linux'"),
            ("[A]\nlinux = /a\n[B]\nlinux = /b\n[A]\nlinux = /c\n", "line 6: linux of [A] is given again"),
        ],
    )
    def test_what_they_cannot_say(self, beside: Callable[..., ServerConfig], folders: str, words: str) -> None:
        message = refused(beside, folders)
        assert "network_folders.ini" in message
        assert words in message


class TestClient:
    def test_without_anything_it_looks_for_a_server_here(self, folder: Path) -> None:
        config = load_client_config(None, {}, {"HOME": str(folder)})
        assert config.server_url == "http://127.0.0.1:5000"
        assert (config.listen_port, config.next_free_port, config.name, config.cpus) == (5001, False, "", 0)
        assert (config.umask, config.auto_upgrade, config.network_mount) == (None, False, "")
        assert config.job_environment == {}
        assert config.state_dir.parent == folder / ".local/state/hqueue/client"

    def test_a_whole_file(self, client: Callable[..., ClientConfig], folder: Path) -> None:
        config = client(
            "[main]\nserver = höhle\nport = 6000\nlisten_port = 5009\nname = zwei\ncpus = 4\nauto_upgrade = 1\n"
            "sharedNetwork.mount = /mnt/eigen\numask = 002\nstate_dir = stand\n"
            "[job_environment]\nHOUDINI_PATH = %(here)s;&\nhoudini_path = klein\nPREIS = 100% #1\nLEER =\n"
        )
        assert config.server_url == "http://höhle:6000"
        assert (config.listen_port, config.next_free_port, config.name, config.cpus) == (5009, False, "zwei", 4)
        assert (config.auto_upgrade, config.network_mount, config.umask) == (True, "/mnt/eigen", 0o002)
        assert config.state_dir == folder / "stand"
        assert config.job_environment == {
            "HOUDINI_PATH": f"{folder};&",
            "houdini_path": "klein",
            "PREIS": "100% #1",
            "LEER": "",
        }

    def test_a_flag_beats_a_variable_beats_the_file(self, client: Callable[..., ClientConfig]) -> None:
        text = "[main]\nserver = a\nname = a\ncpus = 1\n"
        config = client(text, {"server": "c"}, HQUEUE_SERVER="b", HQUEUE_NAME="b", HQUEUE_CPUS="")
        assert (config.server.host, config.name, config.cpus) == ("c", "b", 1)

    def test_a_second_client_takes_the_next_free_port_and_its_own_folder(
        self, client: Callable[..., ClientConfig]
    ) -> None:
        first, second = client(""), client("[main]\nname = zweiter\n")
        assert (first.next_free_port, second.next_free_port) == (False, True)
        assert first.state_dir != second.state_dir
        assert second.state_dir.name == f"{first.state_dir.name}.zweiter"
        assert client("[main]\nname = a\n", {"listen_port": "0"}).next_free_port is False

    def test_the_port_said_with_the_server_is_in_force(self, client: Callable[..., ClientConfig]) -> None:
        config = client("[main]\nserver = a:7000\nport = 6000\n")
        assert config.server_url == "http://a:7000"
        (warning,) = config.warnings
        assert "line 3: port is 6000, but" in warning
        assert client("[main]\nserver = a:7000\nport = 7000\n").warnings == ()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[main]\ncups = 1\n", "line 2: there is no key 'cups'; the nearest known key is 'cpus'."),
            ("[job_enviroment]\n", "there is no section [job_enviroment]; expected [main] or [job_environment]."),
            ("[main]\numask = 8\n", "umask is '8', but must be octal digits"),
            ("[main]\nname = a:b\n", "name is 'a:b', but must be a name of at most 64 characters"),
            ("[main]\nname = ..\n", "name is '..', but"),
            ("[main]\nserver = https://a\n", "server is 'https://a', but must be a host, host:port or a URL"),
            ("[job_environment]\nA = 1\nA = 2\n", "line 3: A is given again; line 2 gave it before."),
        ],
    )
    def test_complaints(self, client: Callable[..., ClientConfig], text: str, words: str) -> None:
        assert words in refused(client, text)

    def test_a_variable_is_named_in_its_complaint(self, client: Callable[..., ClientConfig]) -> None:
        message = refused(client, "", HQUEUE_CPUS="viele")
        assert message.startswith("environment variable HQUEUE_CPUS: cpus is 'viele', but must be a whole number")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("farm", "http://farm:5000"),
        ("höhle.studio.lan:80", "http://höhle.studio.lan:80"),
        ("http://farm", "http://farm:5000"),
        ("HTTP://farm:6000/", "http://farm:6000"),
        ("http://farm:6000/RPC2", "http://farm:6000"),
        ("[::1]:6000", "http://[::1]:6000"),
        ("::1", "http://[::1]:5000"),
        ("fe80::1", "http://[fe80::1]:5000"),
        ("10.0.0.1", "http://10.0.0.1:5000"),
    ],
)
def test_a_server_is_a_host_a_host_with_a_port_or_a_url(text: str, url: str) -> None:
    assert address_url(server_address(text)) == url


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a:", "a:x", "a:0", "a:65536", "http://", "http://u:p@", "http://a/b", "ftp://a", "[::1", "/"],
)
def test_anything_else_is_no_server(text: str) -> None:
    assert "host, host:port or a URL" in refused(server_address, text)


def test_a_login_is_taken_and_never_shown(client: Callable[..., ClientConfig]) -> None:
    address = server_address("http://bär:ge%20heim@[::1]:6000/")
    assert address_url(address) == "http://[::1]:6000"
    assert address.authorization == "Basic " + base64.b64encode("bär:ge heim".encode()).decode()
    assert not server_address("farm").authorization
    assert "geheim" not in refused(server_address, "http://bär:geheim@farm/x")
    assert "geheim" not in refused(client, "", HQUEUE_SERVER="ftp://bär:geheim@farm")
    assert client("", HQUEUE_SERVER="http://bär:geheim@farm").server_url == "http://farm:5000"
