"""Known hashes of files, kept between runs; a file that was touched in any way is read again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engram.manifest import Found

__all__ = ["HashCache", "SeenFiles"]

SETTLED_S = (
    2.0  # a file changed later than this before it was read may change again within one clock tick
)
BATCH = 500  # paths in one query; SQLite allows 999
WAIT_S = 1.0

TABLE = """\
CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, signature TEXT, sha256 TEXT) WITHOUT ROWID
"""


class HashCache:
    """An SQLite file of (path, signature, sha256); losing it costs time, never truth.

    The signature is (device, inode, size, mtime_ns, ctime_ns): a content cannot change without a
    new ctime, which no program can set back.
    """

    def __init__(self, path: Path) -> None:
        """Open nothing yet.

        Args:
            path: the SQLite file; made on first use.
        """
        self.path = path

    def known(self, files: Sequence[Found]) -> dict[str, str]:
        """The hashes of those files that are as they were when last read, by path."""
        found: dict[str, str] = {}
        if files and self.path.exists():
            for start in range(0, len(files), BATCH):
                batch = files[start : start + BATCH]
                self._use(partial(_query, files=batch, found=found))
        return found

    def add(self, hashed: Sequence[tuple[Found, str]], *, began: float) -> None:
        """Remember hashes of files that had been left alone for a while before they were read.

        Args:
            hashed: files, with the stat taken before reading, and their sha256.
            began: when reading began, epoch seconds.
        """
        rows = [
            (os.fsencode(file.path), signature(file.stat), sha256)
            for file, sha256 in hashed
            if is_settled(file.stat, began)
        ]
        if rows:
            self._use(partial(_insert, rows=rows))

    def _use(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Use the SQLite file; whatever is wrong with it makes a cache that knows nothing."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=WAIT_S)) as connection:
                work(connection)
        except sqlite3.OperationalError:
            return  # locked for long, read-only or a full disk: next time all is hashed again
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                self.path.unlink()
        except OSError:
            return


class SeenFiles:
    """Hashes this process computed itself: the same questions as HashCache, without a file."""

    def __init__(self, files: Sequence[Found], hashes: Sequence[str], began: float) -> None:
        """Remember those that had been left alone for a while.

        Args:
            files: files, with the stat taken before reading.
            hashes: their sha256.
            began: when reading began, epoch seconds.
        """
        self._known = {
            file.path: (signature(file.stat), sha256)
            for file, sha256 in zip(files, hashes, strict=True)
            if is_settled(file.stat, began)
        }

    def known(self, files: Sequence[Found]) -> dict[str, str]:
        """The hashes of those files that are as they were."""
        return dict(_matching(files, {os.fsencode(k): v for k, v in self._known.items()}))

    def add(self, hashed: Sequence[tuple[Found, str]], *, began: float) -> None:
        """Nothing: what is seen once is seen."""


def _query(
    connection: sqlite3.Connection, *, files: Sequence[Found], found: dict[str, str]
) -> None:
    marks = ",".join("?" * len(files))
    rows = connection.execute(
        f"SELECT path, signature, sha256 FROM hashes WHERE path IN ({marks})",
        [os.fsencode(file.path) for file in files],
    )
    found.update(_matching(files, {path: (known, sha256) for path, known, sha256 in rows}))


def _matching(files: Sequence[Found], known: dict[bytes, tuple[str, str]]) -> list[tuple[str, str]]:
    """The files whose signature is the known one, with their hash."""
    answers = ((file, known.get(os.fsencode(file.path), ("", ""))) for file in files)
    return [(file.path, answer[1]) for file, answer in answers if answer[0] == signature(file.stat)]


def _insert(connection: sqlite3.Connection, *, rows: list[tuple[bytes, str, str]]) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(TABLE)
    connection.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", rows)
    connection.commit()


def signature(status: os.stat_result) -> str:
    """What changes whenever a file does."""
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{times}"


def is_settled(status: os.stat_result, began: float) -> bool:
    """Whether a file was old enough when reading began that any later change shows in its times."""
    return began - max(status.st_mtime, status.st_ctime) > SETTLED_S
