"""What server and client say to each other: one struct per message, read and filled by both sides.

A field has a name of ours and one on the wire: the same in camelCase, or the one given. What a reader does not know
it passes over, and what a message lacks has its default: two versions go on talking to each other. Numbers are held
to what the columns they are stored in can take.
"""

from __future__ import annotations

import re
import reprlib
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, field

from hqueue.config import client_label
from hqueue.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

EXITED: Final = "exited"  # by itself
KILLED: Final = "killed"  # after the client had begun to kill it, whatever its exit code
REFUSED: Final = "refused"  # never started
LOST: Final = "lost"  # gone without a result, and proved dead
Outcome = Literal["exited", "killed", "refused", "lost"]
# Whose fault a refusal is. A shell is not found: the job's fault, unless clients have run that shell lately.
Fault = Literal["job", "shell", "machine"]
State = Literal["held", "running", "halted", "dying", "ended"]
Asked = Literal["run", "halt", "die"]

MOST_OUTPUT_BYTES: Final = 256 * 1024  # in one call

Small = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Long = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Real = Annotated[float, Meta(ge=-1e300, le=1e300)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]
Short = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=255)]


class Message(msgspec.Struct, rename="camel"):
    """A message, or a part of one."""


class Machine(Message):
    """What a client's machine has: kept by the server as it was sent."""

    memory_kb: Amount = field(default=0, name="memory")
    disk_kb: Amount = field(default=0, name="diskCapacity")
    install_location: str = ""
    gpus: list[str | dict[str, str | bool | Long | Real]] = []


class Identity(Machine, kw_only=True):
    """Who a client is, and what its machine has."""

    hostname: Name
    name: Name = ""  # "" for the only client of a machine
    key: Short = ""  # random, kept in the client's state folder
    incarnation: Amount  # grows with each start of the daemon
    port: Annotated[int, Meta(ge=0, le=65535)]  # where it can be woken up
    cpus: Annotated[int, Meta(ge=1, le=1_000_000)]
    platform: Short = ""
    version: Short = ""
    cpu_speed_mhz: Real = field(default=0.0, name="cpuSpeed")

    def __post_init__(self) -> None:
        self.hostname, self.name = self.hostname.strip(), self.name.strip()
        if not self.hostname or ":" in self.hostname + self.name:
            raise ValueError(
                f"hostname is {self.hostname!r} and its name {self.name!r}, but a hostname of at least one character "
                "and a name, both without a colon, were expected"
            )

    @property
    def label(self) -> str:
        """Return what people call it."""
        return client_label(self.hostname, self.name)

    @property
    def label_key(self) -> str:
        """Return what tells it from others: hostnames do not depend on case, names do."""
        return f"{self.hostname.lower()}:{self.name}"

    @property
    def machine_json(self) -> str:
        """Return what its machine has, as the server stores it."""
        return msgspec.json.encode(msgspec.convert(self, Machine, from_attributes=True)).decode()


class NetworkFolder(Message):
    """A folder that all machines share, under the name of its environment variable; "" where a platform lacks it."""

    name: str
    linux: str = ""
    windows: str = ""
    macosx: str = ""
    main: bool = False


class Welcome(Message):
    """The answer to a registration."""

    client_id: Long
    heartbeat_s: Seconds = field(name="heartbeatSeconds")
    kill_grace_s: Seconds = field(name="killGraceSeconds")
    network_folders: list[NetworkFolder] = []
    server_time: datetime | None = None
    max_output_bytes: Amount = 0


class Listed(Message, omit_defaults=True):
    """A run that a client says it holds."""

    token: str
    state: State
    wish: Count = 0  # number of the last wish it has carried out
    seconds: Seconds = 0.0  # not halted so far
    pid: Small | None = None
    progress: tuple[Real, Real] | None = None


class Report(Message, omit_defaults=True):
    """How a run ended."""

    token: str
    outcome: Outcome
    exit_code: Long | None = None
    signal: Small | None = None
    kill_reason: str = field(default="", name="reason")
    seconds: Seconds = 0.0
    peak_memory_kb: Amount = field(default=0, name="peakMemory")
    output_bytes: Amount = 0
    message: str = ""
    progress: tuple[Real, Real] | None = None
    lost_output: str = ""  # what became of output that nobody will ever see, as the end of a sentence
    fault: Fault = "machine"  # of a refusal
    line: str = ""  # of the output, the one that tells most; the server finds it, whatever a client says


class Beat(Message):
    """The body of a heartbeat."""

    load: Real = 0.0
    idle_minutes: Small = field(default=-1, name="idleTime")  # -1: unknown
    free_memory_kb: Amount = field(default=0, name="freeMemory")
    free_disk_kb: Amount = field(default=0, name="freeDisk")
    condemned: str = ""  # why it takes no more work
    terminating: bool = False
    runs: list[Listed] = []
    reports: list[Report] = []

    def signature(self) -> frozenset[tuple[str, str, int]]:
        """Return what must be the same for a heartbeat to bring no news."""
        return frozenset((listed.token, listed.state, listed.wish) for listed in self.runs)


class Assignment(Message):
    """A run that a client is to start."""

    token: str
    job_id: Long
    command: str
    run_id: Long = 0
    attempt: Count = 1
    name: str = ""
    shell: str = ""
    environment: dict[str, str] = {}
    max_time_s: Real = field(default=0, name="maxTime")  # 0: any
    hosts: list[str] = []
    tags: list[str] = []
    cpus: Count = 1
    root_id: Long = 0  # 0: from a server that does not say it
    hook: Short = ""  # its name, where the command is a hook of the job


class Wish(Message):
    """What a client is to do with a run."""

    token: str
    wish: Asked
    number: Long  # grows with each wish of a run
    reason: str = ""


class Resend(Message):
    """A run whose output is to be sent again from `length` on, and then its report."""

    token: str
    length: Long


class Acknowledgement(Message):
    """The answer to reports: the tokens of those that need not come again, and what is missing of the others."""

    acknowledged: list[str] = []
    resend: list[Resend] = []


class Orders(Message):
    """What there is to tell a client: new runs, and wishes that it has not confirmed."""

    assignments: list[Assignment] = []
    wishes: list[Wish] = []


class Answer(Orders, kw_only=True):
    """The answer to a heartbeat."""

    number: Long  # the heartbeat's
    interval_s: Seconds = field(name="interval")
    stale: bool = False
    acknowledged: list[str] = []
    resend: list[Resend] = []


class Place(Message, omit_defaults=True):
    """Where a run takes place on its client: for the head of its log."""

    pid: Long | None = None
    shell: str = ""
    folder: str = ""
    remark: str = ""  # what was done otherwise than asked: another shell


class Piece(Place, kw_only=True, omit_defaults=True):
    """A piece of a run's output; the first of a run also says where it takes place."""

    token: str
    offset: Amount = 0
    data: bytes
    progress: tuple[Real, Real] | None = None  # the latest of the output up to the end of this piece


def write(message: Message | Sequence[Message]) -> Any:
    """Return a message, or several, as it goes over the wire."""
    return msgspec.to_builtins(message, builtin_types=(bytes, datetime))


def read(value: Any, kind: type[T], name: str) -> T:
    """Return what came over the wire as the message it should be; `name` is what a complaint calls it.

    Errors: InvalidArgumentError.
    """
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(_sentence(str(error), value, name)) from None


def read_beat(value: Any) -> tuple[Beat, list[str]]:
    """Return a heartbeat's body, and what was wrong with it.

    A whole number that is out of bounds counts as not given; of reports as `read_reports` says. All else is refused.
    Errors: InvalidArgumentError.
    """
    try:
        return read(value, Beat, "body"), []
    except InvalidArgumentError:
        if not isinstance(value, dict):
            raise
    fields = dict(value)
    reports, complaints = read_reports(fields.pop("reports", []), "body.reports")
    if isinstance(fields.get("runs"), list):
        fields["runs"] = [
            _without_impossible(each, Listed, f"body.runs[{place}]", complaints)
            for place, each in enumerate(fields["runs"])
        ]
    beat = read(_without_impossible(fields, Beat, "body", complaints), Beat, "body")
    beat.reports = reports
    return beat, complaints


def read_reports(value: Any, name: str = "reports") -> tuple[list[Report], list[str]]:
    """Return how runs ended, and what was wrong with it.

    One report that cannot be read holds up no other: its run counts as lost, for the client has nothing more of it.
    Errors: InvalidArgumentError.
    """
    reports, complaints = [], []
    for place, each in enumerate(read(value, list[Any], name)):
        try:
            reports.append(read(each, Report, f"{name}[{place}]"))
        except InvalidArgumentError as error:
            complaints.append(error.message)
            token = each.get("token") if isinstance(each, dict) else None
            if isinstance(token, str):
                reports.append(Report(token, LOST, message=f"its end cannot be understood: {error.message}"))
    return reports, complaints


def _without_impossible(value: Any, kind: type[Message], name: str, complaints: list[str]) -> Any:
    """Return a struct without the whole numbers that are out of bounds, where they need not be given."""
    if not isinstance(value, dict):
        return value
    kept = dict(value)
    for each in msgspec.structs.fields(kind):
        if each.encode_name not in kept or each.required:
            continue
        try:
            msgspec.convert(kept[each.encode_name], each.type, strict=False)
        except msgspec.ValidationError as error:
            if re.match("Expected `int` [<>]=", str(error)):
                complaints.append(_sentence(str(error), kept.pop(each.encode_name), f"{name}.{each.encode_name}"))
    return kept


_COMPLAINT: Final = re.compile(r"(.*?)(?: - at (?:`key` in )?`\$([^`]*)`)?", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected (.*?)(?:, got .*)?", re.DOTALL)
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
_IN_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "True or False",
    "bytes": "base64 data",
    "array": "a list",
    "object": "a struct",
    "null": "nothing",
}
_WORDS: Final[dict[str, Any]] = {"outcome": Outcome, "state": State, "wish": Asked, "fault": Fault}


def _sentence(complaint: str, value: Any, name: str) -> str:
    """Return msgspec's complaint about a value as a sentence: what was found where, and what was expected."""
    found = _COMPLAINT.fullmatch(complaint)
    what, path = (found[1], found[2] or "") if found is not None else (complaint, "")
    for member, index in _STEP.findall(path):
        value = value[member] if member else value[int(index)]
    expected = _EXPECTED.fullmatch(what)
    if expected is not None:
        plain = expected[1].replace("`", "").replace(" | ", " or ")
        wanted = re.sub(r"\w+", lambda word: _IN_WORDS.get(word[0], word[0]), plain)
    elif what.startswith("Invalid enum value"):
        wanted = f"one of {', '.join(get_args(_WORDS[path.rpartition('.')[2]]))}"
    elif what.startswith("Invalid base64"):
        wanted = _IN_WORDS["bytes"]
    elif what.startswith("Object missing required field"):
        return f"{name}{path} has no {what.split('`')[1]}, which every one must have"
    else:
        return f"{name}{path}.{what}"  # what a struct of ours says of itself
    return f"{name}{path} is {reprlib.repr(value)}, but {wanted} was expected"
