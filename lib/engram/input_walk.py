"""Walk an input as somebody who reads through its links finds it, and refuse what is no input."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from engram.errors import InputError
from engram.manifest import Found, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Bounds", "refuse", "walk"]

KINDS = {
    stat.S_IFIFO: "a named pipe (fifo)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Identity = tuple[int, int]  # device and inode of a folder


class Bounds(NamedTuple):
    """The run root that inputs must stay clear of.

    Attributes:
        output: its path without links.
        holders: the run root and every folder that it lies in; a walk that gets there has gone
            astray, also by a link or a bind mount.
    """

    output: str
    holders: frozenset[Identity]

    @classmethod
    def around(cls, output_dir: Path) -> Bounds:
        """The bounds of a run root, which need not exist yet."""
        output = os.path.realpath(output_dir)
        holders = set()
        for folder in (Path(output), *Path(output).parents):
            with contextlib.suppress(OSError):
                status = folder.stat()
                holders.add((status.st_dev, status.st_ino))
        return cls(output, frozenset(holders))

    def require_outside(self, path: Path, where: str, *, is_run: bool) -> None:
        """Refuse an input that holds the run root or, unless it is an earlier run's, lies in it.

        Raises:
            InputError: it does.
        """
        source = os.path.realpath(path)
        if _is_inside(self.output, source):
            what = (
                f"holds the run root {self.output!r}: declare a folder below it, or move output_dir"
            )
            refuse(where, str(path), what)
        if not is_run and self.holds(source):
            what = f"lies inside the run root {self.output!r}: for an earlier run's outputs write"
            refuse(where, str(path), what + ' run = "RUN"')

    def holds(self, path: str) -> bool:
        """Whether a path leads into the run root."""
        return _is_inside(os.path.realpath(path), self.output)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def walk(
    path: Path, name: str, *, where: str, bounds: Bounds | None = None, is_run: bool = False
) -> list[Found]:
    """Find every file of an input.

    Args:
        path: a file or folder; links are followed, also those inside a folder.
        name: what the manifest calls it when it is a file.
        where: what messages call the input.
        bounds: the run root to stay clear of, if any.
        is_run: whether these are outputs of an earlier run, which may link to each other.

    Raises:
        InputError: something is missing, unreadable, no file or folder, a loop, or leads to the run
            root.
    """
    start = os.path.realpath(path)
    if not os.path.lexists(start):
        start = str(path)  # a loop of links has no real path; the declared one tells more
    return list(_Walk(where, bounds, is_run).files(start, name, "", ()))


class _Walk(NamedTuple):
    """What every step of one walk needs to know."""

    where: str
    bounds: Bounds | None
    is_run: bool

    def files(
        self, path: str, name: str, prefix: str, trail: tuple[Identity, ...]
    ) -> Iterator[Found]:
        """Yield the files at and below `path`."""
        status = self.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            self.require_file(path, status)
            yield Found(path, name, status)
            return
        here = (status.st_dev, status.st_ino)
        self.require_folder(path, here, trail)
        for entry in self.listing(path):
            below = prefix + printable(entry.name)
            if entry.is_symlink():
                self.require_target(entry.path)
            yield from self.files(entry.path, below, below + "/", (*trail, here))

    def stat(self, path: str) -> os.stat_result:
        """The stat of what a path leads to."""
        try:
            return os.stat(path)  # noqa: PTH116
        except OSError as error:
            refuse(self.where, path, _reason(path, error))

    def require_file(self, path: str, status: os.stat_result) -> None:
        """Refuse what is no regular file, and what may not be read."""
        if not stat.S_ISREG(status.st_mode):
            kind = KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
            refuse(self.where, path, f"is {kind}: only files and folders can be inputs")
        if not os.access(path, os.R_OK, effective_ids=True):
            refuse(self.where, path, "cannot be read: Permission denied")

    def require_folder(self, path: str, here: Identity, trail: tuple[Identity, ...]) -> None:
        """Refuse a folder that holds itself or the run root."""
        if here in trail:
            refuse(
                self.where, path, "is a loop of links: it leads back into a folder that holds it"
            )
        if self.bounds is not None and here in self.bounds.holders:
            what = f"leads to a folder that holds the run root {self.bounds.output!r}"
            refuse(self.where, path, what)

    def require_target(self, path: str) -> None:
        """Refuse a link inside a folder that leads into the run root."""
        if self.bounds is not None and not self.is_run and self.bounds.holds(path):
            refuse(self.where, path, f"leads into the run root {self.bounds.output!r}")

    def listing(self, path: str) -> list[os.DirEntry[str]]:
        """The items of a folder."""
        try:
            with os.scandir(path) as items:
                return list(items)
        except OSError as error:
            refuse(self.where, path, f"cannot be read: {error.strerror}")


def _reason(path: str, error: OSError) -> str:
    """Why a path has no stat."""
    if error.errno == errno.ELOOP:
        return "is a loop of links"
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be read: {error.strerror}"
    if Path(path).is_symlink():
        return f"links to {str(Path(path).readlink())!r}, which is missing"
    return "does not exist"


def refuse(where: str, path: str, what: str) -> NoReturn:
    """Say what is wrong with a path.

    Raises:
        InputError: always.
    """
    msg = f"{where}: {path!r} {what}"
    raise InputError(msg)
