"""The queue as a whole: is it there, what is it called, what is it set to; and new jobs for it."""
# ruff: noqa: N802 - methods have the names that they have on the wire

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hqueue import __version__, jobspec
from hqueue.context import Chapter
from hqueue.errors import InvalidArgumentError, UnknownJobError
from hqueue.lifecycle.submission import submit
from hqueue.rpc import arguments
from hqueue.rpc.method import Where, exposed
from hqueue.states import PUBLISHED_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from datetime import datetime


_LONGEST_COMMAND_NAME: Final = 200


class Queue(Chapter):
    """The methods about the server, and those that submit."""

    @exposed(Where.LOOP)
    def ping(self) -> bool:
        """Return True, to say that the server is there.

        Source: 12.
        """
        return True

    @exposed(Where.LOOP)
    def getVersion(self) -> str:
        """Return the server's version: three numbers with dots, as scripts compare them with Houdini's.

        Source: 12. `reported_version` in hqserver.ini replaces ours.
        """
        return self._config.reported_version or __version__

    @exposed(Where.LOOP)
    def getServerTime(self) -> datetime:
        """Return the server's time in UTC.

        Source: 12.
        """
        return self._clock.now()

    @exposed(Where.LOOP)
    def getConfig(self, key: Any) -> str | None:
        """Return the value in force of a key of hqserver.ini, None for an unknown one; passwords are shown as ***.

        Shapes: a text, as the file would have it. Both spellings of a key are known.
        Source: 12.
        """
        return self._config.value_of(arguments.text(key, "key"))

    @exposed(Where.LOOP)
    def getHQRoot(self, platform: Any, is_client: Any = True) -> str | None:
        r"""Return what $HQROOT is on `linux`, `windows` or `macosx`; None for another platform.

        Shapes: for windows and is_client `\\host\path`, of sharedNetwork.host and sharedNetwork.path.windows; the
        mapped drive where one of them is not set.
        Source: 12.
        """
        as_client = arguments.flag(is_client, "is_client")
        host, path = self._config.shared_network_host, self._config.shared_network_path_windows
        if platform == "windows" and as_client and host and path:
            return "\\\\" + host.strip("\\/") + "\\" + path.replace("/", "\\").strip("\\")
        return self._config.hqroot.on(platform) if isinstance(platform, str) else None

    @exposed(Where.LOOP)
    def getNetworkFolders(self) -> list[dict[str, Any]]:
        """Return the folders that all machines share.

        Shapes: {name, linux, windows, macosx, main}; name is that of the environment variable, main marks $HQROOT.
        Source: 17.
        """
        return [
            {
                "name": folder.name,
                "linux": folder.linux,
                "windows": folder.windows,
                "macosx": folder.macosx,
                "main": folder.main,
            }
            for folder in self._config.network_folders
        ]

    @exposed(Where.LOOP)
    def getEnvRoot(self, name: Any, platform: Any) -> str | None:
        """Return the path of a network folder on `linux`, `windows` or `macosx`; None for what is unknown.

        Shapes: name is that of the folder's environment variable.
        Source: 17.
        """
        wanted = arguments.text(name, "name")
        for folder in self._config.network_folders:
            if folder.name == wanted and isinstance(platform, str):
                return folder.on(platform)
        return None

    @exposed()
    def newjob(self, jobspec: Any, parent_id: Any = None, child_ids: Any = None) -> Future[list[int]] | list[int]:
        """Submit jobs and return their ids: those of the given specifications in order, then of what is nested in them.

        Shapes: jobspec is a dict, a JSON text, or a list of either; an empty list submits nothing. parent_id and
        child_ids name existing jobs, and hold for every given specification. All or nothing is stored. With a
        submissionId in the first one the same call within a day is answered with the ids of the first time.
        Errors: InvalidSpecError with the path of what is wrong, LimitExceededError, CyclicGraphError,
        UnknownJobError, JobStateError for a cancelled parent.
        Source: 12.
        """
        parent = arguments.optional_id(parent_id, "parent_id")
        if parent is not None and parent < 0:
            raise UnknownJobError(f"parent_id is {arguments.shown(parent_id)}, but there is no job with this id")
        children = [] if child_ids is None or child_ids == "" else arguments.ids(child_ids, "child_ids")
        return self._submit(jobspec, parent, children)

    @exposed()
    def runcmd(self, cmd: Any) -> Future[int]:
        """Run a command as a job of its own, named after the command's first line, and return the job's id.

        Errors: InvalidArgumentError for a command that is blank; InvalidSpecError.
        Source: 12.
        """
        command = arguments.text(cmd, "cmd")
        lines = command.strip().splitlines()
        if not lines:
            raise InvalidArgumentError(f"cmd is {arguments.shown(cmd)}, but a command was expected")
        spec = {"name": lines[0].strip()[:_LONGEST_COMMAND_NAME], "command": command}
        graph = jobspec.parse(spec, max_depth=1)
        return self._store.write_soon(
            lambda session: submit(session, graph)[0],
        )

    def _submit(self, spec: Any, parent_id: int | None, child_ids: list[int]) -> Future[list[int]] | list[int]:
        # Parsed before the transaction: what is wrong with it is the caller's alone to wait for.
        graph = jobspec.parse(spec, max_depth=self._config.max_spec_depth)
        if not graph.jobs:
            return []
        return self._incoming.put(graph, parent_id, child_ids)


def _published(method: str, what: str) -> Callable[[Queue], list[str]]:
    """Return the method that answers with published names."""

    def names(_self: Queue) -> list[str]:
        return list(PUBLISHED_NAMES[method])

    names.__doc__ = f"Return the names of {what}.\n\nSource: 12."
    return exposed(Where.LOOP)(names)


for _method, _what in {
    "getAllJobStatusNames": "all statuses",
    "getRunningJobStatusNames": "the statuses of jobs that a client is executing",
    "getPausedJobStatusNames": "the statuses of paused jobs",
    "getFinishedJobStatusNames": "the statuses of finished jobs; an abandoned one counts as finished, but may come "
    "back",
    "getSucceededStatusNames": "the statuses of jobs that succeeded",
    "getFailedJobStatusNames": "the statuses of jobs that finished without success",
    "getUnfinishedJobStatusNames": "all statuses but those of finished jobs",
    "getWaitingJobStatusNames": "the statuses of jobs that wait",
    "getStartedJobEventNames": "the events that start a job",
    "getResumedEventNames": "the events that resume a job",
    "getRescheduledEventNames": "the events that reschedule a job",
    "getPriorityChangedEventNames": "the events that change a job's priority",
}.items():
    setattr(Queue, _method, _published(_method, _what))
