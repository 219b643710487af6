"""Files that several processes write: taken one at a time, and never left with half a line."""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["append_whole", "cut_torn_line", "locked"]


def locked(path: Path, *, create: bool = False) -> FileIO:
    """Take the one lock on a file, for a with-block.

    Whoever waited may have got the lock of a file that was replaced meanwhile, and tries again.

    What is returned is an open file and no context manager in Python: a signal whose handler raises
    would now and then come between two lines of one, and the lock would outlive the with-block. A
    runner that then brings its record to an end waits for its own lock, for ever.

    Args:
        path: the file; it may be replaced by rename while locked.
        create: whether to make it, and its folder, when it is missing.

    Returns:
        The file, open for reading and appending; its end gives the lock back.

    Raises:
        OSError: the file is missing or cannot be opened for writing.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        file = FileIO(path, "r+", opener=lambda name, mode: _open(path, flags))
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file.fileno(), path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def append_whole(path: Path, data: bytes) -> None:
    """Append `data` so that readers and other writers see all of it or nothing.

    A line that an earlier crash cut short is closed first; when the disk fills up, the file is cut
    back to its former length.

    Args:
        path: the file; made, with its folder, when it is missing.
        data: whole lines, the last one with its newline.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    with locked(path, create=True) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            _write_all(descriptor, data)
        except OSError:
            os.ftruncate(descriptor, size)
            raise


def cut_torn_line(path: Path) -> None:
    """Take away a last line without an end, left by a process that was killed while it wrote.

    Args:
        path: a file that nobody writes now; it may be missing.

    Raises:
        OSError: the file cannot be read or written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _open(path: Path, flags: int) -> int:
    """Open `path`; its folder is made only when it turns out to be missing."""
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, flags, 0o666)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that bears the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a single write may take fewer."""
    while data:
        data = data[os.write(descriptor, data) :]
