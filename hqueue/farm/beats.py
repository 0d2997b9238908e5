"""What clients send, checked and typed: the one place that knows the spelling of the farm's own calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hqueue.errors import InvalidArgumentError
from hqueue.lifecycle.clients import Identity, Listed
from hqueue.lifecycle.runs import OUTCOMES, Report
from hqueue.rpc.arguments import flag, integer, shown, text

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATES: Final = ("held", "running", "halted", "dying", "ended")
_BIGGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat."""

    load: float
    idle_minutes: int
    free_memory_kb: int
    free_disk_kb: int
    condemned: str
    terminating: bool
    runs: tuple[Listed, ...]
    reports: tuple[Report, ...]

    def signature(self) -> frozenset[tuple[str, str, int]]:
        """Return what must be the same for a heartbeat to bring no news."""
        return frozenset((listed.token, listed.state, listed.wish) for listed in self.runs)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a run's output."""

    token: str
    offset: int
    data: bytes
    origin: Origin


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run takes place on its client: for the head of its log."""

    pid: int | None = None
    shell: str = ""
    folder: str = ""
    remark: str = ""  # what was done otherwise than asked: another shell


def read_identity(value: Any) -> Identity:
    """Return what a client says of itself.

    Errors: InvalidArgumentError.
    """
    fields = _struct(value, "identity")
    machine = {name: fields[name] for name in ("memory", "diskCapacity", "installLocation", "gpus") if name in fields}
    hostname = text(fields.get("hostname"), "identity.hostname").strip()
    name = text(fields.get("name", ""), "identity.name").strip()
    if not hostname or len(hostname) > 255 or len(name) > 255 or ":" in hostname + name:
        raise InvalidArgumentError(
            f"identity.hostname is {shown(hostname)} and identity.name {shown(name)}, but a hostname of 1 to 255 "
            "characters and a name of at most 255, both without a colon, were expected",
        )
    return Identity(
        hostname=hostname,
        name=name,
        key=_short(fields, "key", 64),
        incarnation=_number(fields, "incarnation", 0, _BIGGEST),
        port=_number(fields, "port", 0, 65535),
        cpus=_number(fields, "cpus", 1, 1_000_000),
        platform=_short(fields, "platform", 64),
        version=_short(fields, "version", 64),
        cpu_speed_mhz=_real(fields.get("cpuSpeed", 0), "identity.cpuSpeed"),
        machine=machine,
    )


def read_beat(value: Any) -> Beat:
    """Return a heartbeat's body.

    Errors: InvalidArgumentError.
    """
    fields = _struct(value, "body")
    return Beat(
        load=_real(fields.get("load", 0.0), "body.load"),
        idle_minutes=integer(fields.get("idleTime", -1), "body.idleTime"),
        free_memory_kb=integer(fields.get("freeMemory", 0), "body.freeMemory"),
        free_disk_kb=integer(fields.get("freeDisk", 0), "body.freeDisk"),
        condemned=text(fields.get("condemned", ""), "body.condemned"),
        terminating=flag(fields.get("terminating", False), "body.terminating"),
        runs=tuple(_listed(each, f"body.runs[{i}]") for i, each in enumerate(_array(fields, "runs", "body"))),
        reports=read_reports(fields.get("reports", []), "body.reports"),
    )


def read_reports(value: Any, name: str = "reports") -> tuple[Report, ...]:
    """Return how runs ended.

    Errors: InvalidArgumentError.
    """
    if not isinstance(value, (list, tuple)):
        raise InvalidArgumentError(f"{name} is {shown(value)}, but a list of reports was expected")
    return tuple(_report(each, f"{name}[{place}]") for place, each in enumerate(value))


def read_pieces(value: Any) -> list[Piece]:
    """Return pieces of output.

    Errors: InvalidArgumentError.
    """
    if not isinstance(value, (list, tuple)):
        raise InvalidArgumentError(f"pieces is {shown(value)}, but a list of pieces of output was expected")
    pieces = []
    for place, each in enumerate(value):
        fields = _struct(each, f"pieces[{place}]")
        data = fields.get("data")
        offset = integer(fields.get("offset", 0), f"pieces[{place}].offset")
        if not isinstance(data, bytes) or offset < 0:
            raise InvalidArgumentError(f"pieces[{place}] needs base64 data and an offset of 0 or more")
        pieces.append(Piece(text(fields.get("token"), f"pieces[{place}].token"), offset, data, _origin(fields)))
    return pieces


def _origin(fields: Mapping[str, Any]) -> Origin:
    pid = fields.get("pid")
    told = (str(fields.get(name, "")) for name in ("shell", "folder", "remark"))
    return Origin(pid if isinstance(pid, int) else None, *told)


def _report(value: Any, name: str) -> Report:
    fields = _struct(value, name)
    outcome = text(fields.get("outcome"), f"{name}.outcome")
    if outcome not in OUTCOMES:
        raise InvalidArgumentError(f"{name}.outcome is {shown(outcome)}, but one of {', '.join(OUTCOMES)} was expected")
    return Report(
        token=text(fields.get("token"), f"{name}.token"),
        outcome=outcome,
        exit_code=_optional(fields.get("exitCode"), f"{name}.exitCode"),
        signal=_optional(fields.get("signal"), f"{name}.signal"),
        kill_reason=text(fields.get("reason") or "", f"{name}.reason")[:32],
        seconds=max(0.0, _real(fields.get("seconds", 0.0), f"{name}.seconds")),
        peak_memory_kb=max(0, integer(fields.get("peakMemory") or 0, f"{name}.peakMemory")),
        output_bytes=max(0, integer(fields.get("outputBytes") or 0, f"{name}.outputBytes")),
        message=text(fields.get("message") or "", f"{name}.message"),
        progress=_progress(fields.get("progress"), f"{name}.progress"),
    )


def _listed(value: Any, name: str) -> Listed:
    fields = _struct(value, name)
    state = text(fields.get("state"), f"{name}.state")
    if state not in _STATES:
        raise InvalidArgumentError(f"{name}.state is {shown(state)}, but one of {', '.join(_STATES)} was expected")
    return Listed(
        token=text(fields.get("token"), f"{name}.token"),
        state=state,
        wish=integer(fields.get("wish", 0), f"{name}.wish"),
        seconds=_real(fields.get("seconds", 0.0), f"{name}.seconds"),
        pid=_optional(fields.get("pid"), f"{name}.pid"),
        progress=_progress(fields.get("progress"), f"{name}.progress"),
    )


def _struct(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{name} is {shown(value)}, but a struct was expected")
    return value


def _array(fields: Mapping[str, Any], key: str, name: str) -> list[Any]:
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise InvalidArgumentError(f"{name}.{key} is {shown(value)}, but a list was expected")
    return value


def _real(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) and value == value and abs(value) < 1e300:  # noqa: PLR0124 - NaN
        return float(value)
    raise InvalidArgumentError(f"{name} is {shown(value)}, but a number was expected")


def _optional(value: Any, name: str) -> int | None:
    return None if value is None else integer(value, name)


def _progress(value: Any, name: str) -> tuple[float, float] | None:
    if not value:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InvalidArgumentError(f"{name} is {shown(value)}, but two numbers were expected")
    return _real(value[0], f"{name}[0]"), _real(value[1], f"{name}[1]")


def _number(fields: Mapping[str, Any], key: str, least: int, most: int) -> int:
    number = integer(fields.get(key), f"identity.{key}")
    if not least <= number <= most:
        raise InvalidArgumentError(f"identity.{key} is {number}, but a number from {least} to {most} was expected")
    return number


def _short(fields: Mapping[str, Any], key: str, most: int) -> str:
    value = text(fields.get(key, ""), f"identity.{key}")
    if len(value) > most:
        raise InvalidArgumentError(f"identity.{key} is {shown(value)}, but at most {most} characters were expected")
    return value
