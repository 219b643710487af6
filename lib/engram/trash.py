"""Deleting what may be large and may be half gone: weighed first, moved aside in one step, erased.

A run that is killed while it is deleted is either whole where it was, or in the trash, where the
next `gc` finds it. Nothing here follows a symlink: inputs/ is full of links to other people's data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engram.paths import RootPaths, RunPaths

__all__ = ["Weight", "erase", "left_aside", "put_aside", "unlocked"]

ASIDE = ".removed"
# Others may be erasing the same folder: what one finds gone, it looks at again.
ATTEMPTS = 100


class Weight:
    """How many bytes lie in files and folders, and how many of them are free once these are gone.

    The two differ for a file that keeps a name elsewhere: source packs are hard links.
    """

    def __init__(self, *paths: Path) -> None:
        """Weigh files and folders; what is missing weighs nothing.

        Args:
            paths: links are not followed.
        """
        # Of each file: the names that were met, those it has, its bytes.
        self._files: dict[tuple[int, int], tuple[int, int, int]] = {}
        for path in paths:
            for found in _files(path):
                self._add((found.st_dev, found.st_ino), (1, found.st_nlink, found.st_size))

    def _add(self, file: tuple[int, int], facts: tuple[int, int, int]) -> None:
        met = self._files[file][0] if file in self._files else 0
        self._files[file] = (met + facts[0], *facts[1:])

    def merge(self, other: Weight) -> None:
        """Take in what `other` weighed; the two have no path in common."""
        for file, facts in other._files.items():
            self._add(file, facts)

    @property
    def size(self) -> int:
        """The bytes of all files, each counted once."""
        return sum(size for _, _, size in self._files.values())

    @property
    def freed(self) -> int:
        """The bytes of the files that have no name outside of what was weighed."""
        return sum(size for met, names, size in self._files.values() if met >= names)


def _files(path: Path) -> Iterator[os.stat_result]:
    """The regular files at or below a path."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            yield found
        if not stat.S_ISDIR(found.st_mode):
            return
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(f"{folder}/{name}")
                if stat.S_ISREG(found.st_mode):
                    yield found


@contextlib.contextmanager
def unlocked(path: Path) -> Iterator[bool]:
    """Try to lock a file, without waiting and without write permission.

    Yields:
        Whether nobody else holds it, now and until the block ends; also for a file that is gone,
        or on a file system without locks.
    """
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EBADF):
                raise
        yield free
    finally:
        os.close(descriptor)


def put_aside(paths: RunPaths, root: RootPaths) -> Path:
    """Take a run out of its root in one step.

    Args:
        paths: the run's folder.
        root: the root it lies in.

    Returns:
        Where it is now; `erase` it.

    Raises:
        OSError: the root cannot be written.
    """
    root.trash.mkdir(parents=True, exist_ok=True)
    name = f"{paths.run_id}.{os.urandom(3).hex()}"
    # A folder that gets another parent must be writable itself.
    _open_up(paths.folder)
    try:
        return paths.folder.rename(root.trash / name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    # The folder between root and run is a link to another disk.
    return paths.folder.rename(paths.folder.with_name(f".{name}{ASIDE}"))


def left_aside(root: RootPaths) -> list[Path]:
    """What was put aside in a root and is still there."""
    found = list(root.trash.iterdir()) if root.trash.is_dir() else []
    return sorted(found + list(root.folder.glob(f"*/.*{ASIDE}")))


def erase(path: Path) -> None:
    """Delete a file, a link or a whole folder, whatever permissions a script gave to what is in it.

    Raises:
        OSError: something cannot be deleted; the rest may be gone.
    """
    import shutil

    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for _ in range(ATTEMPTS):
        try:
            _open_up(path)
            for folder, inner, _ in os.walk(path):
                for name in inner:
                    _open_up(path / folder / name)
            shutil.rmtree(path)
        except FileNotFoundError:
            if os.path.lexists(path):
                continue
        return


def _open_up(folder: Path) -> None:
    """Give back the rights that removing what is in a folder needs."""
    if not folder.is_symlink() and not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
        folder.chmod(stat.S_IRWXU)
