"""hq: the farm for people at a command line."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from hqueue import __version__
from hqueue.cli.program import run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXAMPLES: Final = """\
examples:
  hq submit -- echo hello
  hq submit --name shot_010 --cpus 4 --frames 1-240:10 -- render -s {start} -e {end} shot_010.ifd
  hq submit job.json --wait
  hq jobs
  hq output -f 12
"""
SERVER_HELP: Final = (
    "the server as host, host:port or URL; without it $HQUEUE_SERVER, $HQSERVER, $HOUDINI_HQUEUE_SERVER, hqnode.ini, "
    "else this machine"
)
ACTIONS: Final = {
    "cancel": "end jobs, and the jobs below them",
    "pause": "halt jobs where they are, and start none below them",
    "resume": "go on with paused jobs",
    "reschedule": "run finished jobs again, and what failed below them",
    "eject": "take running jobs from their clients and queue them again",
    "delete": "forget finished jobs, the jobs below them and their output, for good",
}


def parser() -> argparse.ArgumentParser:
    """Return the options of hq and of its commands."""
    found = argparse.ArgumentParser(
        prog="hq",
        description="Submit jobs to a farm, see what becomes of them, and act on them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(found, default=True)
    found.add_argument("--version", action="version", version=f"hq {__version__}")
    commands = found.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_common(common, default=False)

    def add(name: str, what: str, runs: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", parents=[common], allow_abbrev=False
        )
        one.set_defaults(runs=runs)
        return one

    _add_submit(add("submit", "submit a command, or a JSON file of job specifications", "jobs.submit"))
    _add_jobs(add("jobs", "list jobs, newest first", "jobs.jobs"))
    one = add("job", "show all about one job", "jobs.job")
    one.add_argument("id", metavar="ID", type=_id)
    one = add("why", "say why a job waits, and what each machine lacks for it", "jobs.why")
    one.add_argument("id", metavar="ID", type=_id)
    one = add("output", "print a job's output", "following.output")
    one.add_argument("id", metavar="ID", type=_id)
    one.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    for name, what in ACTIONS.items():
        one = add(name, what, "jobs.act")
        one.add_argument("ids", metavar="ID", type=_id, nargs="+")
        one.add_argument("--yes", action="store_true", help="do not ask, also when there are more than 10")
    add("clients", "list the machines of the farm", "clients.clients")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows a -- is the command to submit, whatever it looks like.
    literal = None
    if "--" in words:
        at = words.index("--")
        words, literal = words[:at], words[at + 1 :]
    whole = parser()
    options, unknown = whole.parse_known_args(words)
    if options.command == "submit":
        options.literal = literal
        if unknown:
            whole.error(
                f"unknown option {unknown[0]}; what belongs to your own command goes after --, "
                f'as in "hq submit -- render -s 1"'
            )
    elif unknown or literal:
        whole.error(f"unexpected: {' '.join([*unknown, *(literal or ())])}")
    return run_program("hq", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    from hqueue.cli.connection import Farm, find_server  # noqa: PLC0415 - --help and bad usage answer at once
    from hqueue.cli.screen import Screen  # noqa: PLC0415 - same

    module, _, function = options.runs.rpartition(".")
    run: Callable[[argparse.Namespace, Farm, Screen], int] = getattr(import_module(f"hqueue.cli.{module}"), function)
    with Farm(find_server(options.server, os.environ)) as farm:
        return run(options, farm, Screen(json_wanted=options.json))


def _add_common(one: argparse.ArgumentParser, *, default: bool) -> None:
    """Add what may stand before the command as well as after it."""
    one.add_argument("--server", metavar="URL", help=SERVER_HELP, default=None if default else argparse.SUPPRESS)
    one.add_argument(
        "--json",
        action="store_true",
        help="answer in JSON, for scripts",
        default=False if default else argparse.SUPPRESS,
    )


def _add_submit(one: argparse.ArgumentParser) -> None:
    one.usage = "hq submit [options] [--] COMMAND [WORD ...]  |  hq submit [options] FILE.json | -"
    one.description = (
        "Submit a job and print its id. One word is a line for the shell, as in sh -c; several words are one command, "
        "exactly as they stand. A file (- for standard input) holds a job specification in JSON, or a list of them; "
        "options then apply to each."
    )
    one.add_argument("words", metavar="COMMAND", nargs="*", help="the command, a .json file, or - for JSON on stdin")
    one.add_argument("--spec", metavar="FILE", help="a JSON file that is not called .json")
    one.add_argument("--name", help="what the job is called; default: the command's first line")
    one.add_argument("--priority", metavar="N", type=_count, help="higher goes first; default: 0")
    one.add_argument("--cpus", metavar="N", type=_count, help="CPUs it takes; default: 1")
    one.add_argument("--group", metavar="NAME", action="append", default=[], help="only on clients of this group")
    one.add_argument("--host", metavar="NAME", action="append", default=[], help="only on this machine")
    one.add_argument("--tag", metavar="TAG", action="append", default=[], help='such as "single": alone on its machine')
    one.add_argument(
        "--resource",
        metavar="NAME[=N]",
        action="append",
        default=[],
        help="take N of a licence or the like; default: 1",
    )
    one.add_argument("--tries", metavar="N", type=_count, help="run it again up to N times if it fails; default: 0")
    one.add_argument("--max-time", metavar="SECONDS", type=_count, help="cancel it after so long")
    one.add_argument("--parent", metavar="ID", type=_id, help="make it a child of this job")
    one.add_argument("--env", metavar="NAME=VALUE", action="append", default=[], help="add to its environment")
    one.add_argument("--description", metavar="TEXT", help="for people")
    one.add_argument("--shell", metavar="PROGRAM", help="what runs the command; default: bash, on Windows cmd")
    one.add_argument(
        "--frames",
        metavar="RANGE",
        help="a job for each frame, or for each N of them: 1-240, 1-240:N, 1-10,15; {start} and {end} in the command "
        "are the frames of each",
    )
    one.add_argument("--dry-run", action="store_true", help="print what would be submitted, as JSON, and stop")
    one.add_argument("--wait", action="store_true", help="wait for the end and exit as the job did; Ctrl-C leaves it")


def _add_jobs(one: argparse.ArgumentParser) -> None:
    one.description = "List the unfinished root jobs, newest first."
    which = one.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="finished ones too")
    which.add_argument(
        "--status", metavar="NAME", action="append", default=[], help="all jobs of this status, children too"
    )
    one.add_argument("--limit", metavar="N", type=_count, default=50, help="at most so many; 0: all; default: 50")


def _id(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no job id; expected a number such as 12")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 0 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
