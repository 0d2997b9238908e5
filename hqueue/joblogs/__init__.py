"""The output of jobs, on disk: one file per run, appended by offset, read in pieces.

runfile   the format of one file, and what a crash leaves of it
logs      JobLogs: all files below one folder, for any number of threads

Layout, which people may rely on: ``<root>/<job id // 1000, six digits>/<job id>/<run id>.log``.
The files are POSIX's: the server runs on Linux and macOS.
"""

from hqueue.joblogs.logs import JobLogs, LogPiece, RunLog

__all__ = ["JobLogs", "LogPiece", "RunLog"]
