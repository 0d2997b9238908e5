"""What goes over the wire and what comes back."""

from __future__ import annotations

import enum
import xmlrpc.client
from collections import namedtuple
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqueue import wire
from hqueue.errors import HQueueError, LimitExceededError, MalformedRequestError
from hqueue.wire import quick
from hqueue.wire.reading import _REQUEST, _Reader

DEPTH = 50


def loads(body: bytes | str, depth: int = DEPTH) -> tuple[str, list[object]]:
    return wire.loads_request(body.encode() if isinstance(body, str) else body, max_depth=depth)


def thoroughly(body: bytes, depth: int = DEPTH) -> tuple[str, list[object]]:
    reader = _Reader(_REQUEST, depth)
    reader.read(body)
    return reader.method, reader.values


def call(value: str, name: str = "m") -> str:
    return (
        f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{name}</methodName>\n<params>\n<param>\n"
        f"{value}\n</param>\n</params>\n</methodCall>\n"
    )


def fault_of(body: bytes | str, depth: int = DEPTH) -> HQueueError:
    with pytest.raises(HQueueError) as caught:
        loads(body, depth)
    return caught.value


# --- Text ---


@pytest.mark.parametrize(
    ("text", "scrubbed", "index"),
    [
        ("Żółć → 影 🎬\t\n\r", "Żółć → 影 🎬\t\n\r", None),
        ("\x1b[31mrot\x1b[0m", "[31mrot[0m", 0),
        ("a\x00b", "ab", 1),
        ("\ud83d halb", "\ufffd halb", 0),
        ("x\ufffe\uffff", "x\ufffd\ufffd", 1),
        ("", "", None),
    ],
)
def test_text_that_xml_cannot_carry(text: str, scrubbed: str, index: int | None) -> None:
    assert wire.scrub(text) == scrubbed
    assert wire.find_unencodable(text) == index


def test_scrubbing_is_the_same_in_pieces() -> None:
    text = ("é\x1b&\r\n" * 100_000)[: wire.PIECE_BYTES + 77_777]
    assert wire.scrub(text) == text.replace("\x1b", "")
    assert wire.escape(text) == text.replace("\x1b", "").replace("&", "&amp;").replace("\r", "&#13;")


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_whatever_is_sent_a_stock_client_reads_the_scrubbed_text(text: str) -> None:
    assert xmlrpc.client.loads(wire.dumps_response(text))[0][0] == wire.scrub(text)


# --- Writing ---


class Status(enum.StrEnum):
    DONE = "succeeded"


class Mixed(str, enum.Enum):  # noqa: UP042 - the older way, whose str() is not its value
    DONE = "succeeded"


class Level(enum.IntEnum):
    HIGH = 3


Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - the plain kind


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        (True, True),
        (False, False),
        (0, 0),
        (-(2**31), -(2**31)),
        (2**31 - 1, 2**31 - 1),
        (2**31, 2**31),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (1e300, 1e300),
        ("", ""),
        ("<&>\"'", "<&>\"'"),
        ("line\rline\r\n", "line\rline\r\n"),
        ([], []),
        ((1, [2, ("drei",)]), [1, [2, ["drei"]]]),
        ({}, {}),
        ({"größe": {"x": [None]}}, {"größe": {"x": [None]}}),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({"a<b": 1}, {"a<b": 1}),
        (Status.DONE, "succeeded"),
        (Mixed.DONE, "succeeded"),
        (Level.HIGH, 3),
        (Pair(1, "zwei"), [1, "zwei"]),
    ],
)
def test_values_reach_a_stock_client(value: object, read: object) -> None:
    (result,), _ = xmlrpc.client.loads(wire.dumps_response(value))
    assert result == read
    assert type(result) is type(read)
    assert wire.loads_response(wire.dumps_response(value)) == read


def test_binary_reaches_a_stock_client() -> None:
    data = bytes(range(256)) * 3000
    for value in (data, bytearray(data), xmlrpc.client.Binary(data)):
        (result,), _ = xmlrpc.client.loads(wire.dumps_response(value))
        assert result.data == data


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 9, 4, 5, 6, 999_999, UTC),
        datetime(2026, 3, 9, 4, 5, 6),  # noqa: DTZ001 - naive means UTC
        datetime(2026, 3, 9, 9, 35, 6, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_dates_are_utc_without_zone_and_fraction(moment: datetime) -> None:
    (result,), _ = xmlrpc.client.loads(wire.dumps_response(moment))
    assert result.value == "20260309T04:05:06"


def test_early_years_keep_four_digits() -> None:
    assert b">00070102T00:00:00<" in wire.dumps_response(datetime(7, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, object(), {1, 2}, [3j]])
def test_what_xml_rpc_has_no_type_for_is_our_bug(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        wire.dumps_response(value)


def test_faults() -> None:
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(wire.dumps_fault(30, "kein Job <12>\x07"))
    assert (caught.value.faultCode, caught.value.faultString) == (30, "kein Job <12>")
    with pytest.raises(xmlrpc.client.Fault, match="kein Job <12>"):
        wire.loads_response(wire.dumps_fault(30, "kein Job <12>"))


def test_prepared_values_are_sent_as_they_are() -> None:
    raw = wire.Raw(wire.dumps_value({"id": 1, "name": "Größe & Maß"}))
    row = {"id": 1, "name": "Größe & Maß"}
    (result,), _ = xmlrpc.client.loads(wire.dumps_response({"jobs": [raw, "x", raw], "one": raw, "in": [[raw]]}))
    assert result == {"jobs": [row, "x", row], "one": row, "in": [[row]]}
    assert xmlrpc.client.loads(wire.dumps_response(raw))[0][0] == row


def test_big_answers_come_in_pieces() -> None:
    rows = [{"id": number, "name": "Zeile ü"} for number in range(20_000)]
    raws = [wire.Raw(wire.dumps_value(row)) for row in rows]
    text = "<ü>\n" * 300_000
    for value, read in ((rows, rows), (raws, rows), ({"text": text}, {"text": text}), (text, text)):
        pieces = wire.response_pieces(value)
        assert len(pieces) > 3
        assert max(map(len, pieces)) < 8 * wire.PIECE_BYTES
        assert wire.loads_response(b"".join(pieces)) == read


def test_requests() -> None:
    body = wire.dumps_request("newjob", [{"name": "Ångström"}, None, 2**40])
    assert loads(body) == ("newjob", [{"name": "Ångström"}, None, 2**40])
    assert xmlrpc.client.loads(body) == (({"name": "Ångström"}, None, 2**40), "newjob")


# --- Reading ---

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\r", exclude_categories=("Cs",)))
    | st.binary().map(xmlrpc.client.Binary)
    | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda moment: moment.replace(microsecond=0))  # noqa: DTZ001 - as the library has them
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs", "Cc"))), inner),
)


def as_read(value: object) -> object:
    if isinstance(value, dict):
        return {key: as_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return value.data if isinstance(value, xmlrpc.client.Binary) else value


@given(st.lists(VALUES, max_size=4))
def test_both_readers_read_what_a_stock_client_sends(params: list[object]) -> None:
    body = xmlrpc.client.dumps(tuple(params), "naïve.method", allow_none=True).encode()
    assert thoroughly(body) == ("naïve.method", [as_read(param) for param in params])
    assert quick.read_request(body, DEPTH) == thoroughly(body)


@given(st.lists(VALUES, max_size=2), st.data())
def test_both_readers_agree_on_damaged_documents(params: list[object], data: st.DataObject) -> None:
    body = xmlrpc.client.dumps(tuple(params), "m", allow_none=True)
    at = data.draw(st.integers(0, len(body)))
    cut = data.draw(st.integers(0, 12))
    inserted = data.draw(
        st.sampled_from(["", "<", ">", "&", "&amp;", "</value>", "<value>", "<nil/>", "\r", "]]", "<!-- -->"])
    )
    damaged = (body[:at] + inserted + body[at + cut :]).encode()
    try:
        expected: object = thoroughly(damaged)
    except HQueueError as error:
        expected = (error.code, error.message)
    try:
        read: object = loads(damaged)
    except HQueueError as error:
        read = (error.code, error.message)
    assert read == expected


@given(st.binary(max_size=300))
def test_no_document_raises_anything_but_our_errors(body: bytes) -> None:
    for document in (body, b"<methodCall>" + body, call("<value>").encode() + body):
        with pytest.raises(HQueueError):
            loads(document)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("<value><string>a &lt;&amp;&gt; &quot;&apos; &#252;&#xfc;</string></value>", "a <&> \"' üü"),
        ("<value>untyped <!-- really --> text</value>", "untyped  text"),
        ("<value/>", ""),
        ("<value></value>", ""),
        ("<value> <int> 7 </int> </value>", 7),
        ("<value><string/></value>", ""),
        ("<value><string><![CDATA[a < b & c]]></string></value>", "a < b & c"),
        ("<value><i1>1</i1></value>", 1),
        ("<value><i2>1</i2></value>", 1),
        ("<value><i4>1</i4></value>", 1),
        ("<value><i8>4294967296</i8></value>", 2**32),
        ("<value><biginteger>4294967296</biginteger></value>", 2**32),
        ("<value><ex:i8 xmlns:ex='x'>1</ex:i8></value>", 1),
        ("<value><boolean>true</boolean></value>", True),
        ("<value><nil/></value>", None),
        ("<value><ex:nil/></value>", None),
        ("<value><double>-1.5e3</double></value>", -1500.0),
        ("<value><base64>w6Q=\n</base64></value>", "ä".encode()),
        ("<value><base64></base64></value>", b""),
        ("<value><array/></value>", []),
        ("<value><array><data/></array></value>", []),
        ("<value><struct/></value>", {}),
        ("<value><struct><member><name>a</name><value>b</value></member></struct></value>", {"a": "b"}),
        ("<value><string>a\r\nb\rc&#13;</string></value>", "a\nb\nc\r"),
    ],
)
def test_values_of_other_clients(value: str, read: object) -> None:
    result = loads(call(value))[1][0]
    assert result == read
    assert type(result) is type(read)
    assert thoroughly(call(value).encode())[1][0] == read


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20260309T04:05:06", datetime(2026, 3, 9, 4, 5, 6, tzinfo=UTC)),
        ("2026-03-09T04:05:06Z", datetime(2026, 3, 9, 4, 5, 6, tzinfo=UTC)),
        (" 20260309T040506.25 ", datetime(2026, 3, 9, 4, 5, 6, tzinfo=UTC)),
        ("20260309T04:05:06+0530", datetime(2026, 3, 8, 22, 35, 6, tzinfo=UTC)),
        ("20260309T04:05:06-01:30", datetime(2026, 3, 9, 5, 35, 6, tzinfo=UTC)),
    ],
)
def test_dates(text: str, moment: datetime) -> None:
    value = loads(call(f"<value><dateTime.iso8601>{text}</dateTime.iso8601></value>"))[1][0]
    assert value == moment
    assert value.tzinfo is UTC


@pytest.mark.parametrize(
    "document",
    [
        "<methodCall><methodName>m</methodName></methodCall>",
        "<methodCall><methodName>m</methodName><params/></methodCall>",
        "  <methodCall><methodName> m </methodName><params></params></methodCall>\n\n",
        '\ufeff<?xml version="1.0" encoding="UTF-8"?><methodCall><methodName>m</methodName></methodCall>',
    ],
)
def test_calls_without_arguments(document: str) -> None:
    assert loads(document) == ("m", [])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "no element found"),
        ("not xml", "line 1, column 1"),
        ("<methodCall>", "no element found"),
        ("<methodResponse/>", "<methodResponse> where <methodCall> is expected"),
        ("<methodCall></methodCall>", "<methodCall> lacks a <methodName>"),
        ("<methodCall><params/></methodCall>", "<params> where <methodName> is expected"),
        (call("<value><colour>red</colour></value>"), "unknown type <colour>"),
        (call("<value><int>1</int><int>2</int></value>"), "<int> where no further element is expected"),
        (call("<value><struct><member><name>a</name></member></struct></value>"), "<member> lacks a <value>"),
        (call("<value><struct><member><value>a</value></member></struct></value>"), "<value> where <name> is expected"),
        (call("<value><struct><value>a</value></struct></value>"), "<value> where <member> is expected"),
        (call("<value><array><value>a</value></array></value>"), "<value> where <data> is expected"),
        (call(""), "<param> lacks a <value>"),
        (call("<value><int>zwölf</int></value>"), "'zwölf' as <int>"),
        (call("<value><int></int></value>"), "'' as <int>"),
        (call(f"<value><int>{'9' * 30}</int></value>"), "at most 64 bits"),
        (call(f"<value><int>{'9' * 9000}</int></value>"), "…' as <int>"),
        (call("<value><double>nan</double></value>"), "finite"),
        (call("<value><boolean>2</boolean></value>"), "'2' as <boolean>"),
        (call("<value><dateTime.iso8601>morgen</dateTime.iso8601></value>"), "YYYYMMDDTHH:MM:SS"),
        (call("<value><dateTime.iso8601>20261309T04:05:06</dateTime.iso8601></value>"), "as <dateTime.iso8601>"),
        (call("<value><dateTime.iso8601>00010101T00:00:00+2300</dateTime.iso8601></value>"), "as <dateTime.iso8601>"),
        (call("<value><base64>a</base64></value>"), "'a' as <base64>"),
        (call("<value><string>&nope;</string></value>"), "undefined entity"),
        (call("<value><string>&#1114112;</string></value>"), "invalid character number"),
        ("<?xml version='1.0' encoding='zlib'?><methodCall/>", "'zlib'; send UTF-8"),
        ("<!DOCTYPE x><methodCall/>", "document type declaration"),
        ('<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><methodCall>&b;</methodCall>', "document type"),
        ('<!DOCTYPE l SYSTEM "file:///etc/passwd"><methodCall/>', "document type"),
    ],
)
def test_what_is_wrong_is_said(document: str, said: str) -> None:
    fault = fault_of(document)
    assert isinstance(fault, MalformedRequestError)
    assert said in fault.message
    assert len(fault.message) < 200


def nested(levels: int) -> str:
    return call("<value><array><data>" * levels + "<value>x</value>" + "</data></array></value>" * levels)


def test_depth_is_limited_and_costs_no_stack() -> None:
    value = loads(nested(5000), 5000)[1][0]
    depth = 0
    while isinstance(value, list):
        depth, value = depth + 1, value[0]
    assert (depth, value) == (5000, "x")
    fault = fault_of(nested(5001), 5000)
    assert isinstance(fault, LimitExceededError)
    assert "5000" in fault.message


def test_a_thousand_levels_of_specification() -> None:
    body = "<value><struct><member><name>children</name><value><array><data>" * 1000
    body += "<value><struct></struct></value>" + "</data></array></value></member></struct></value>" * 1000
    for document in (call(body), call(body).replace("<array>", "<array ><!-- -->")):
        value, depth = loads(document, 2016)[1][0], 0
        while value:
            depth, value = depth + 1, value["children"][0]
        assert depth == 1000


def test_unclosed_depth_is_refused_early() -> None:
    assert isinstance(
        fault_of("<methodCall><methodName>m</methodName><params><param>" + "<value><array><data>" * 100_000),
        LimitExceededError,
    )


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    body = call("<value><string>Gr\udcfc\udcdfe</string></value>").encode("utf-8", "surrogateescape")
    assert loads(body)[1] == ["Gr\ufffd\ufffde"]
    assert thoroughly(body)[1] == ["Gr\ufffd\ufffde"]


@pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1252", "UTF-16", "shift_jis", "us-ascii"])
def test_other_declared_encodings(encoding: str) -> None:
    text = "影" if encoding == "shift_jis" else "plain" if encoding == "us-ascii" else "Größe"
    body = call(f"<value><string>{text}</string></value>").replace("'1.0'", f"'1.0' encoding='{encoding}'")
    assert loads(body.encode(encoding))[1] == [text]


@pytest.mark.parametrize("text", ["\x1b[1m", "\x00", "\ud83d", "\ufffe\uffff", "\U0001fffe27;", "\x1b\U0001fffe\x02ü"])
def test_what_xml_cannot_carry_arrives_all_the_same(text: str) -> None:
    raw = call(f"<value><string>{text}</string></value>")
    references = call(f"<value><string>{''.join(f'&#{ord(each)};' for each in text)}</string></value>")
    hexadecimal = call(f"<value><string>{''.join(f'&#x{ord(each):x};' for each in text)}</string></value>")
    stock = xmlrpc.client.dumps((text,), "m").encode("utf-8", "xmlcharrefreplace")
    for body in (references.encode(), hexadecimal.encode(), stock):
        assert loads(body)[1] == [text]
        assert thoroughly(body)[1] == [text]
    if "\ud83d" not in text:
        assert loads(raw)[1] == [text]
        assert thoroughly(raw.encode())[1] == [text]


def test_pieces_may_end_anywhere() -> None:
    unit = "ü&amp;&#27;\x1b影<!-- -->"
    text = unit * (3 * wire.PIECE_BYTES // len(unit.encode()))
    for shift in range(12):
        body = call(f"<value><string>{'x' * shift}{text}</string></value>").encode()
        expected = "x" * shift + text.replace("<!-- -->", "").replace("&amp;", "&").replace("&#27;", "\x1b")
        assert loads(body)[1] == [expected]


@pytest.mark.timeout(30)
def test_a_long_tag_does_not_take_quadratic_time() -> None:
    body = b"<methodCall x='" + b"y" * 64_000_000 + b"'/>"
    assert isinstance(fault_of(body), LimitExceededError)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<methodResponse/>",
        b"<methodResponse><params/></methodResponse>",
        b"<methodResponse><fault><value>x</value></fault></methodResponse>",
        wire.dumps_request("ping", []),
    ],
)
def test_what_is_no_answer(document: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        wire.loads_response(document)
