"""What stands around a command's output in its log: what was run, and how it ended."""

from __future__ import annotations

import re
import signal as signals
from typing import TYPE_CHECKING, Final

from hqueue.lifecycle.runs import EXITED, KILLED, Report, describe

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET: Final = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|APIKEY|API_KEY|PRIVATE|(^|_)KEY$", re.IGNORECASE)


def head(
    *,
    job_id: int,
    name: str,
    attempt: int,
    client: str,
    pid: int | None,
    shell: str,
    folder: str,
    remark: str,
    environment: Mapping[str, str],
    command: str,
) -> str:
    """Return the head of a run's log; what looks like a secret in the environment is masked."""
    lines = [
        f"job {job_id}, {name}",
        f"attempt {attempt} on {client}" + (f", pid {pid}" if pid else ""),
    ]
    if shell or folder:
        lines.append(", ".join(filter(None, (f"shell {shell}" if shell else "", f"folder {folder}" if folder else ""))))
    if remark:
        lines.append(remark)
    lines += [f"{key}={'***' if _SECRET.search(key) else environment[key]}" for key in sorted(environment)]
    lines.append(f"$ {command}")
    return "\n".join(lines) + "\n"


def end_line(report: Report) -> str:
    """Return the last line of a run's log: `exit 3 after 4m12s, peak 31.2 GB`."""
    text = f"{describe(report)}{_explained(report)} after {duration(report.seconds)}"
    if report.peak_memory_kb:
        text += f", peak {size(report.peak_memory_kb)}"
    return text


def _explained(report: Report) -> str:
    """Say what a number means that people keep asking about."""
    if report.outcome not in {EXITED, KILLED}:
        return ""
    number = report.signal
    if number is None and report.exit_code is not None and 128 < report.exit_code < 193:
        number = report.exit_code - 128  # how a shell passes on that its last command died of a signal
    if number is None:
        return ""
    try:
        name = signals.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if report.outcome == EXITED and name == "SIGKILL":
        return f" ({name}: most often the machine ran out of memory)"
    return f" ({name})"


def duration(seconds: float) -> str:
    """Return a duration as people say it: `0.4s`, `4m12s`, `3h05m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(kilobytes: int) -> str:
    """Return an amount of memory as people say it: `31.2 GB`."""
    if kilobytes < 1024:
        return f"{kilobytes} KB"
    if kilobytes < 1024 * 1024:
        return f"{kilobytes / 1024:.1f} MB"
    return f"{kilobytes / 1024 / 1024:.1f} GB"
