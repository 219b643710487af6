"""Inside a warm interpreter and its children: what a fork hands on and a run must not have."""

# Text paths are what the import system and the audit compare.
# ruff: noqa: PTH101, PTH102, PTH109, PTH118, PTH123, PTH208

from __future__ import annotations

import os
import sys

__all__ = [
    "Folder",
    "address_of_mark",
    "default_tmp",
    "forget_folders",
    "whole",
    "write_all",
    "write_mark",
]


class Folder:
    """An empty working folder to import in; that of a run is empty at first, too.

    A process that outlives this one removes it, however this one ends.
    """

    def __init__(self, base: str) -> None:
        """Make it below `base` and go there."""
        self.path = os.path.realpath(os.path.join(base, f"engram-warm-{os.urandom(6).hex()}"))
        os.mkdir(self.path, 0o700)
        end, self.end = os.pipe()
        self.keeper = os.fork()
        if self.keeper == 0:
            self._keep(end)
        os.close(end)
        os.chdir(self.path)

    def _keep(self, end: int) -> None:
        """Wait for the end of the other process; runs in the forked one."""
        try:
            for entry in os.listdir("/proc/self/fd"):
                if int(entry) != end:
                    _close(int(entry))
            os.read(end, 1)
            import shutil

            shutil.rmtree(self.path, ignore_errors=True)
        finally:
            os._exit(0)

    def leave(self) -> list[str]:
        """Have it removed; name what was left in it."""
        os.chdir("/")
        left = sorted(os.listdir(self.path))
        os.write(self.end, b"x")
        os.close(self.end)
        try:
            os.waitpid(self.keeper, 0)
        except ChildProcessError:  # somebody ignores SIGCHLD
            return left
        return left


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:  # the descriptor of a listing
        return


def whole(fd: int) -> bytes:
    """Read all of a file."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however often that takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def default_tmp() -> bool:
    """Tell whether tempfile has looked for the temporary folder: each run has its own."""
    tempfile = sys.modules.get("tempfile")
    if tempfile is None or tempfile.tempdir is None:
        return False
    return tempfile.tempdir in tempfile._candidate_tempdir_list()


def forget_folders(folder: str, *, fresh_tmp: bool) -> None:
    """Correct what modules of the standard library have remembered of where they were imported."""
    if fresh_tmp:
        sys.modules["tempfile"].tempdir = None  # type: ignore[attr-defined]
    process = sys.modules.get("multiprocessing.process")
    if process is not None and folder == process.ORIGINAL_DIR:
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]


def address_of_mark(name: str) -> int | None:
    """Find where in memory the value of a variable lies that /proc shows; None where unknown."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            at = (b"\0" + stream.read()).find(f"\0{name}=".encode())
        with open("/proc/self/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    start = int(fields[47])  # env_start, the 50th field of the whole line
    return start + at + len(name) + 1 if at >= 0 and start else None


def write_mark(address: int | None, token: str) -> None:
    """Put the token of this run where /proc shows it, for `processes.marked`."""
    if address is None:
        return
    try:
        fd = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.pwrite(fd, token.encode(), address)
    except OSError:
        return
    finally:
        os.close(fd)
