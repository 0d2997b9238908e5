"""All that differs between Linux, macOS and Windows on a farm machine.

Only the Linux side is exercised by the tests; the macOS and Windows branches follow the documentation of those systems.
The runner imports this module, so what is heavy (psutil) is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAME = {"win32": "windows", "darwin": "macosx"}.get(sys.platform, "linux")
SOCKET_NAME = "runner.sock"
PORT_NAME = "runner.port"
SHORT_ENOUGH = 100  # bytes of a socket's path; the kernels' limits are 104 (macOS) and 108 (Linux)


class ProcessRow(NamedTuple):
    """One process of this machine; `started` tells it from a later one with the same pid."""

    pid: int
    parent: int
    group: int
    session: int
    started: float
    zombie: bool


def architecture() -> str:
    """Return this machine's HQCLIENTARCH, such as `linux-x86_64` or `macos-arm64`."""
    machine = "x86_64" if NAME == "windows" else os.uname().machine
    if NAME == "macosx":
        return "macos-arm64" if machine == "arm64" else "macosx-x86_64"
    return f"{NAME}-{machine}"


def boot_id() -> str:
    """Return a text that changes with every start of the machine."""
    if NAME == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    import psutil  # noqa: PLC0415 - not wanted in the runner

    return str(int(psutil.boot_time()))


# -- processes ---------------------------------------------------------------------------------------------------------


def process_start(pid: int) -> float | None:
    """Return when a process was started, in the units of `ProcessRow.started`; None when it is gone or a zombie.

    Units: clock ticks since boot on Linux (a wall clock that is set does not change them), seconds elsewhere. 0.0: this
    interpreter cannot tell (the runner has no psutil off Linux; the daemon looks again).
    """
    if NAME == "linux":
        row = _linux_row(pid)
        return None if row is None or row.zombie else row.started
    try:
        import psutil  # noqa: PLC0415 - not wanted in the runner
    except ImportError:
        return 0.0
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def child_start(pid: int) -> float:
    """Return when a child of this process, not yet waited for, was started; 0.0 when this interpreter cannot tell."""
    if NAME == "linux":
        row = _linux_row(pid)
        return row.started if row is not None else 0.0
    return process_start(pid) or 0.0


def processes() -> Iterator[ProcessRow]:
    """Yield every process of this machine that this user can see."""
    if NAME == "linux":
        for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of names, and no use for thousands of Paths
            if name.isdigit() and (row := _linux_row(int(name))) is not None:
                yield row
        return
    import psutil  # noqa: PLC0415 - not wanted in the runner

    for process in psutil.process_iter(["pid", "ppid", "create_time", "status"]):
        info = process.info
        group = session = 0
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                group, session = os.getpgid(info["pid"]), os.getsid(info["pid"])
        zombie = info["status"] == psutil.STATUS_ZOMBIE
        yield ProcessRow(info["pid"], info["ppid"] or 0, group, session, info["create_time"] or 0.0, zombie)


def _linux_row(pid: int) -> ProcessRow | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - called for each process of a scan
            text = file.read()
    except OSError:
        return None
    # The command's name may hold blanks and brackets; what follows its last bracket is plain numbers.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessRow(
        pid, int(fields[1]), int(fields[2]), int(fields[3]), float(fields[19]), fields[0] in {b"Z", b"X", b"x"}
    )


def carries(pid: int, name: str, value: str) -> bool:
    """Tell whether a process was started with this environment variable; False when it may not be looked at."""
    if NAME == "linux":
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - as above
                environment = file.readall()
        except OSError:
            return False
        return b"\0" + os.fsencode(f"{name}={value}") + b"\0" in b"\0" + (environment or b"")
    import psutil  # noqa: PLC0415 - not wanted in the runner

    try:
        return bool(psutil.Process(pid).environ().get(name) == value)
    except (psutil.Error, OSError):
        return False


def send_signal(pid: int, number: int) -> None:
    """Send one process a signal; on Windows its nearest relative (suspend, resume, terminate).

    Errors: ProcessLookupError, PermissionError.
    """
    if NAME != "windows":
        os.kill(pid, number)
        return
    import psutil  # noqa: PLC0415 - not wanted in the runner

    try:
        process = psutil.Process(pid)
        act = {STOP: process.suspend, CONTINUE: process.resume}.get(number, process.terminate)
        act()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(str(error)) from error
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error


def send_group_signal(group: int, number: int) -> None:
    """Send all processes of a group a signal at one stroke; nothing on Windows, where groups are no such thing."""
    if sys.platform != "win32":
        os.killpg(group, number)


# Windows has neither of these four; the numbers stand for what send_signal does there.
STOP = int(getattr(signal, "SIGSTOP", 19))
CONTINUE = int(getattr(signal, "SIGCONT", 18))
KILL = int(getattr(signal, "SIGKILL", 9))
INTERRUPT = int(signal.SIGINT)
TERMINATE = int(signal.SIGTERM)


def start_options() -> dict[str, Any]:
    """Return what Popen needs so that a process has a session of its own and no terminal."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


# -- shells ------------------------------------------------------------------------------------------------------------


class Shell(NamedTuple):
    """How a script is run: the program with its own arguments, what the script's name ends in, a remark for the log."""

    argv: tuple[str, ...]
    suffix: str
    remark: str


SCRIPT_SUFFIXES = (".script", ".cmd") if NAME == "windows" else (".script",)


def find_shell(wanted: str, environment: Mapping[str, str]) -> Shell | None:
    """Find the program that runs a command; None when this machine has none of that name.

    `wanted` may bring arguments (`bash -l`); "" is bash where there is one, else sh; cmd on Windows, also in place of a
    bash that is not there. The job's own PATH is searched; for bash and sh this client's own PATH too.
    """
    import shutil  # noqa: PLC0415 - not wanted in the runner

    # A job may bring the PATH of another machine.
    paths = [environment.get("PATH", os.defpath), os.environ.get("PATH", os.defpath)]

    def find(name: str) -> str | None:
        searched = paths if name in {"bash", "sh"} else paths[:1]
        return next(filter(None, (shutil.which(name, path=path) for path in searched)), None)

    program = find(wanted) if wanted else None
    name, *options = [wanted] if program or not wanted.strip() else wanted.split()
    if NAME == "windows" and (name in {"", "cmd"} or (name == "bash" and not find("bash"))):
        remark = "there is no bash on this machine; cmd runs the command" if name == "bash" else ""
        return Shell((environment.get("COMSPEC", "cmd.exe"), "/d", "/c"), ".cmd", remark)
    if not name:
        at_job = shutil.which("bash", path=paths[0]) or shutil.which("sh", path=paths[0])
        program = at_job or find("bash") or find("sh")
    program = program or find(name)
    return Shell((program, *options), ".script", "") if program else None


# -- files and sockets -------------------------------------------------------------------------------------------------


def lock_file(path: Path) -> int | None:
    """Take a lock that ends with this process and return its descriptor; None when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - exists on Windows alone

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - exists on POSIX alone

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def free_bytes(folder: str) -> int:
    """Return how much more this user can write on the disk of a folder; very much where that is not told.

    Errors: OSError.
    """
    if sys.platform == "win32":
        import shutil  # noqa: PLC0415 - not wanted in the runner

        return shutil.disk_usage(folder).free
    room = os.statvfs(folder)
    if not room.f_blocks:
        return sys.maxsize
    return room.f_frsize * (room.f_bavail if os.geteuid() else room.f_bfree)


def listen_in(folder: Path) -> socket.socket:
    """Listen for the daemon in the state folder, which nobody else may enter.

    A Unix socket by its bare name, for which the process moves to the folder: its path may be longer than such a socket
    allows. On Windows a port of the loopback, written to a file.
    """
    if sys.platform == "win32":
        listener = socket.create_server(("127.0.0.1", 0))
        (folder / PORT_NAME).write_text(str(listener.getsockname()[1]), encoding="ascii")
        return listener
    os.chdir(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME)  # noqa: PTH108 - by its bare name, as it is bound
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        listener.bind(SOCKET_NAME)
    finally:
        os.umask(before)
    listener.listen(8)
    return listener


def connect_in(folder: Path, seconds: float) -> socket.socket:
    """Connect to what listens in the state folder.

    Errors: OSError when nothing does.
    """
    if sys.platform == "win32":
        port = int((folder / PORT_NAME).read_text(encoding="ascii"))
        return socket.create_connection(("127.0.0.1", port), seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        path = folder / SOCKET_NAME
        if len(os.fsencode(path)) <= SHORT_ENOUGH:
            connection.connect(str(path))
        else:
            import tempfile  # noqa: PLC0415 - not wanted in the runner

            with tempfile.TemporaryDirectory(prefix="hq", dir="/tmp") as short:
                link = Path(short) / "s"
                link.symlink_to(folder)
                connection.connect(str(link / SOCKET_NAME))
    except OSError:
        connection.close()
        raise
    return connection


# -- children ----------------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a child ended: its exit code, or the signal that ended it (else 0), and its peak memory in KB."""

    pid: int
    exit_code: int
    signal: int
    peak_kb: int


class Children:
    """Learns at once when a child ends; `fileno` is readable then.

    POSIX: SIGCHLD, and one wait for all children, so the cost does not grow with their number. Windows: a thread per
    child, for there is nothing else to wait on together with sockets.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)
        self._ended: list[Ended] = []
        if sys.platform != "win32":
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, _heard)

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._reader.fileno()

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        """Start looking after a child; needed on Windows only."""
        if sys.platform == "win32":
            import threading  # noqa: PLC0415 - on Windows alone

            threading.Thread(target=self._wait_for, args=(child,), daemon=True).start()

    def _wait_for(self, child: subprocess.Popen[bytes]) -> None:
        status = child.wait()
        self._ended.append(Ended(child.pid, status & 0xFFFFFFFF, 0, 0))
        self._writer.send(b"\0")

    def drain(self) -> None:
        """Take back the readiness of `fileno`; what ended afterwards sets it anew."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def reap(self, spares_group_of: Callable[[int], bool]) -> list[Ended]:
        """Return the children that have ended since the last call.

        What is left of a child's process group is killed first, unless `spares_group_of` says no. That happens before
        the child is waited for: until then nobody else can get its number.
        """
        if sys.platform == "win32":
            ended, self._ended = self._ended, []
            return ended
        ended = []
        while (pid := _next_zombie()) > 0:
            if not spares_group_of(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, KILL)
            _, status, usage = os.wait4(pid, 0)
            peak = usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss
            code = os.waitstatus_to_exitcode(status)
            ended.append(Ended(pid, max(code, 0), max(-code, 0), peak))
        return ended


def _heard(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor has been written to, and a handler (unlike SIG_IGN) is not inherited."""


def _next_zombie() -> int:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if found is None else found.si_pid


def hear_signals() -> None:
    """Take note of the signals that would end this process, without dying, and without passing that on to children.

    A process started with `nohup` or in the background of a script has some of them ignored, which children inherit: a
    command could then not be interrupted.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGTTIN", "SIGTTOU"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, _heard)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
