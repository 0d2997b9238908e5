"""Files and folders that survive a power cut; apart from `durability`, for the client's runner loads no more."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "darwin":
    import fcntl


def flush_file(fd: int) -> None:
    """Make what was written to a file survive a power cut."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync() there leaves it in the disk's own memory
        except OSError:
            os.fsync(fd)  # a file system, of the network perhaps, that does not know the other
    else:
        # Not every platform has the one that leaves out what is not needed to read the data back.
        getattr(os, "fdatasync", os.fsync)(fd)


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; Windows needs nothing of the kind."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
