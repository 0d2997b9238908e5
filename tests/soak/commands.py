"""What the jobs of a soak run, and what their commands wrote of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_LINES = 12
# Who runs is told apart by number and birth of its process, for numbers are used again. Each start looks for the ones
# before it: whether two run at the same time is known by them alone. Lines are short, so that each is written whole.
_COMMAND = r"""
LC_ALL=C
key={key}
me={folder}/$key
{{ read -r line < /proc/$$/stat; }} 2>/dev/null
set -- ${{line##*) }}
born=${{20}}
if [ -e $me ]; then
    while read -r mark pid was rest; do
        [ "$mark" = B ] || continue
        line=
        {{ read -r line < /proc/$pid/stat; }} 2>/dev/null
        [ -n "$line" ] || continue
        set -- ${{line##*) }}
        if [ "$1" != Z ] && [ "$1" != X ] && [ "${{20}}" = "$was" ]; then
            echo "$key $pid $was $EPOCHREALTIME ${{rest##*/clients/}}" >> {twice}
        fi
    done < $me
fi
echo "B $$ $born $EPOCHREALTIME $TMPDIR" >> $me
i=0
while [ $i -lt {lines} ]; do i=$((i+1)); echo "$key Zeile $i ünïcode"; [ $((i % 4)) = 0 ] && sleep {pause:.3f}; done
echo "E $$ {code} $EPOCHREALTIME" >> $me
exit {code}
"""


@dataclass(frozen=True)
class Meeting:
    """A command that began while one before it for the same job was still there. at: seconds of the wall clock."""

    key: str
    pid: int
    born: str
    at: float
    client: str  # where the first one is


@dataclass
class Record:
    """What a job's commands wrote: how many began, and the exit codes of those that came to their end."""

    begun: list[int] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)


class Commands:
    """The folder to which commands write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "commands"
        self._folder.mkdir()
        self._twice = folder / "twice"
        self._read = 0

    def command(self, key: str, code: int, seconds: float) -> str:
        """Return the command of a job."""
        return _COMMAND.format(
            key=key, folder=self._folder, twice=self._twice, lines=_LINES, pause=seconds / 3, code=code
        )

    @staticmethod
    def output(key: str) -> str:
        """Return what a command prints that comes to its end."""
        return "".join(f"{key} Zeile {number} ünïcode\n" for number in range(1, _LINES + 1))

    def meetings(self) -> list[Meeting]:
        """Return those not returned before."""
        if not self._twice.exists():
            return []
        lines = self._twice.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        found = []
        for line in new:
            key, pid, born, at, rest = line.split(maxsplit=4)
            found.append(Meeting(key, int(pid), born, float(at), rest.partition("/")[0]))
        return found

    def record(self, key: str) -> Record:
        """Return what is known of a job's commands."""
        record = Record()
        path = self._folder / key
        for line in path.read_text().splitlines() if path.exists() else ():
            mark, pid, *rest = line.split()
            if mark == "B":
                record.begun.append(int(pid))
            else:
                record.ended[int(pid)] = int(rest[0])
        return record


def is_alive(pid: int, born: str) -> bool:
    """Tell whether a process that was seen before is still there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return False
    return fields[0] not in {"Z", "X"} and fields[19] == born
