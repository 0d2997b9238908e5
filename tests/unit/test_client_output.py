from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hqueue.client.output import Output

if TYPE_CHECKING:
    from pathlib import Path


class Server:
    """Takes pieces as the farm does."""

    def __init__(self) -> None:
        self.data = b""

    def take(self, output: Output, limit: int = 1 << 18) -> None:
        while not output.delivered:
            offset, data = output.piece(limit)
            if offset <= len(self.data):
                self.data += data[len(self.data) - offset :]
            output.server_has(len(self.data))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "Ausgabe"


def test_it_is_handed_over_in_pieces(file: Path) -> None:
    server, output = Server(), Output(str(file))
    output.look()
    assert output.delivered
    file.write_bytes(b"0123456789PROGRESS: 1/2\n")
    output.look()
    assert not output.delivered
    server.take(output, 7)
    assert server.data == file.read_bytes()
    assert output.progress == (1, 2)


def test_from_where_the_server_says(file: Path) -> None:
    server, output = Server(), Output(str(file))
    file.write_bytes(b"0123456789")
    output.look()
    server.take(output)
    server.data = server.data[:4]
    output.server_has(4)
    assert not output.delivered
    server.take(output)
    assert server.data == b"0123456789"


def test_a_new_daemon_asks_how_much_there_is(file: Path) -> None:
    file.write_bytes(b"ALF_PROGRESS 30%\nrest")
    server, output = Server(), Output(str(file))
    server.data = b"ALF_PROGRESS 30%\n"
    output.adopt()
    assert output.piece(100) == (21, b"")
    server.take(output)
    assert server.data == file.read_bytes()
    assert output.progress == (30, 100)


def test_a_server_that_has_more_than_the_file(file: Path) -> None:
    file.write_bytes(b"short")
    server, output = Server(), Output(str(file))
    server.data = b"what was there before a power cut"
    output.adopt()
    server.take(output)
    with file.open("ab") as more:
        more.write(b" and more")
    output.look()
    server.take(output)
    assert server.data == b"what was there before a power cut and more"


def test_an_unknown_run_wants_no_output(file: Path) -> None:
    file.write_bytes(b"0123456789")
    output = Output(str(file))
    output.look()
    output.server_has(-1)
    assert output.delivered


@pytest.mark.parametrize("after", [b"", b"ab", b"abcdefghij", b"abcdefghijklmno"])
def test_a_file_that_was_cut_short_goes_on_where_it_was(file: Path, after: bytes) -> None:
    file.write_bytes(b"0123456789")
    server, output = Server(), Output(str(file))
    output.look()
    server.take(output)
    file.write_bytes(after)
    output.look(closely=True)
    server.take(output)
    assert server.data == b"0123456789" + after
    again = Output(str(file), shift=output.shift)
    again.adopt()
    server.take(again)
    assert server.data == b"0123456789" + after


def test_what_cannot_be_read_holds_nothing_up(file: Path) -> None:
    file.write_bytes(b"0123456789")
    server, output = Server(), Output(str(file))
    output.look()
    file.unlink()
    server.take(output)
    assert output.delivered
    assert output.sent == 0
    assert output.lost == "10 bytes of its file cannot be read any more"


def test_a_file_that_is_removed_while_a_command_writes_to_it(file: Path) -> None:
    server, output = Server(), Output(str(file))
    output.look()
    assert output.lost == ""  # no command has been started
    output.begun = True
    file.write_bytes(b"0123456789")
    output.look()
    server.take(output, 4)
    file.write_bytes(b"0123456789abc")
    output.look()
    assert output.lost == ""
    file.unlink()
    server.take(output)
    output.look()
    assert output.delivered
    assert output.lost == "its file was removed, with 3 bytes or more"
    assert server.data == b"0123456789"


def test_what_a_server_lost_and_nobody_has_any_more(file: Path) -> None:
    file.write_bytes(b"0123456789")
    server, output = Server(), Output(str(file))
    output.look()
    server.take(output)
    file.write_bytes(b"ab")
    output.look()
    output.server_has(4)
    assert output.lost == "the server lost 6 bytes that the client no longer has"
