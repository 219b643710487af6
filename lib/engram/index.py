"""The index of a run root: folders are the truth, and the index can always be rebuilt from them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from engram import record as records
from engram.errors import StoreError
from engram.locks import append_whole, locked
from engram.paths import RootPaths, RunPaths

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from engram.filters import Filter

__all__ = ["Index", "Row"]

Answer = TypeVar("Answer")
# Two changes in one tick of the file system's clock show one time: what is younger is read again.
SETTLED_NS = 2_000_000_000
COLUMNS = "SELECT place, name, run_id, at, open, brief, 0, NULL, NULL FROM runs WHERE"


class Row(NamedTuple):
    """One run as the index knows it.

    Attributes:
        paths: its folder.
        run_id: as recorded; the folder may bear another name when it was copied.
        at: when it started, or was made.
        open: whether it had not ended when it was read; 0 or 1.
        text: the run in brief as JSON, see engram.brief.
        rank: what it sorts by: 0 a number, 1 a text, 2 nan, 3 nothing.
        number: the number it sorts by.
        word: the text it sorts by.
    """

    paths: RunPaths
    run_id: str
    at: str
    open: int
    text: str
    rank: int
    number: float | None
    word: str | None

    @property
    def brief(self) -> dict[str, Any]:
        """The run in brief, see engram.brief."""
        return json.loads(self.text)  # type: ignore[no-any-return]


class Work(NamedTuple):
    """What a look at the folders says is to be done.

    Attributes:
        read: (place, name) of run folders to read, or to forget when they are gone.
        places: when each folder of runs last changed, in ns, where that is new.
        gone: folders of runs that are not there anymore.
        journal: how much of the journal this covers, in bytes.
    """

    read: set[tuple[str, str]]
    places: dict[str, int]
    gone: set[str]
    journal: int

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.read or self.places or self.gone or self.journal)


def _warn(message: str) -> None:
    """Say something that the user should know, but that stops nothing."""
    sys.stderr.write(f"warning: {message}\n")


class Index:
    """The index of one run root."""

    def __init__(self, root: RootPaths, say: Callable[[str], None] = _warn) -> None:
        """Name the root; nothing is opened or made yet.

        Args:
            root: the run root.
            say: receives a line when the index is rebuilt, or cannot be written.
        """
        self.root = root
        self._say = say
        self._database: sqlite3.Connection | None = None
        self._private = False

    def note(self, folder: Path) -> None:
        """Journal that the record in `folder` is new or has changed; costs one appended line.

        Args:
            folder: a run folder in this root.

        Raises:
            StoreError: the root cannot be written.
        """
        line = json.dumps([folder.parent.name, folder.name]).encode() + b"\n"
        try:
            self._make_store()
            append_whole(self.root.pending, line)
        except OSError as error:
            raise records.store_error(self.root.pending, error) from error

    def rows(
        self,
        filters: Iterable[Filter] = (),
        *,
        sort: str | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Find runs, after the index has been brought up to date.

        Args:
            filters: all must hold.
            sort: a key, descending when it starts with `-`; the newest first by default. Runs
                without the key, and nan, come last.
            limit: at most so many.

        Returns:
            The rows, in order.
        """
        from engram.filters import select

        return self._up_to_date(*select(filters, sort=sort, limit=limit))

    def each(
        self,
        filters: Iterable[Filter] = (),
        *,
        sort: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Find runs as `rows` does, without holding them all in memory.

        Raises:
            StoreError: the index turned out to be damaged half-way; it is rebuilt next time.
        """
        import sqlite3

        from engram.filters import select

        self._guarded(self._refresh)
        question = select(filters, sort=sort, limit=limit)
        found = self._guarded(lambda: self._db.execute(*question))
        try:
            for place, name, *rest in found:
                yield Row(self.root.run(place, name), *rest)
        except sqlite3.Error as error:
            self._discard(self._inode())
            msg = f"{str(self.root.database)!r} is damaged ({error}) and was removed: list again"
            raise StoreError(msg) from error

    def count(self, filters: Iterable[Filter] = ()) -> int:
        """Count the runs for which all filters hold; the index is taken as it is."""
        from engram.filters import count

        return int(self._guarded(lambda: self._db.execute(*count(filters)).fetchone()[0]))

    def resolve(self, reference: str) -> list[Row]:
        """Find the runs that answer to a name.

        Args:
            reference: an id, the beginning of one, or its last part (`3f2a9c`, `slug-3f2a9c`).

        Returns:
            All runs of the first of these kinds that any run answers to.
        """
        escaped = reference.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return (
            self._up_to_date(f"{COLUMNS} run_id = ? OR name = ?", [reference, reference])
            or self._ask(f"{COLUMNS} run_id LIKE ? ESCAPE '\\'", [f"{escaped}%"])
            or self._ask(f"{COLUMNS} run_id LIKE ? ESCAPE '\\'", [f"%-{escaped}"])
        )

    def values(self, key: str) -> list[str]:
        """Every text that some run has under a key; the index is taken as it is."""
        text = "SELECT DISTINCT text FROM facts WHERE key = ?"
        return self._guarded(lambda: [item for (item,) in self._db.execute(text, (key,))])

    def keys(self) -> list[str]:
        """Every key that some run can be filtered by; the index is taken as it is."""
        text = "SELECT DISTINCT key FROM facts"
        return self._guarded(lambda: [item for (item,) in self._db.execute(text)])

    def refresh(self) -> None:
        """Take in what the journal and the folders tell, and end runs whose runner is dead."""
        self._guarded(self._refresh)

    def rebuild(self) -> None:
        """Throw the index away and read every folder again."""
        self._discard(None)
        self.refresh()

    def close(self) -> None:
        """Close the database; the next question opens it again."""
        if self._database is not None:
            self._database.close()
        self._database = None

    def __del__(self) -> None:
        """Close what was left open; sqlite3 warns when the garbage collector has to."""
        self.close()

    def _up_to_date(self, text: str, values: Iterable[Any]) -> list[Row]:
        """Bring the index up to date and ask."""
        self._guarded(self._refresh)
        return self._ask(text, values)

    def _ask(self, text: str, values: Iterable[Any]) -> list[Row]:
        """Ask the index as it is."""

        def ask() -> list[Row]:
            root, found = self.root, self._db.execute(text, tuple(values))
            return [Row(root.run(place, name), *rest) for place, name, *rest in found]

        return self._guarded(ask)

    # Opening, and what is done when that fails.

    @property
    def _db(self) -> sqlite3.Connection:
        """The open database, with its tables."""
        if self._database is None:
            from engram import database

            if self._private:
                self._database = database.open_copy(self.root.database)
                return self._database
            self._make_store()
            self._database = database.open_file(self.root.database)
            if database.stale(self._database):
                with locked(self._lock, create=True):
                    if database.stale(self._database):
                        database.create(self._database, self.root.store)
        return self._database

    @property
    def _lock(self) -> Path:
        """Held by whoever writes the index."""
        return self.root.database.with_suffix(".lock")

    def _make_store(self) -> None:
        """Make engram's folder in the root, hidden from git where runs are not ignored."""
        if not self.root.store.is_dir():
            self.root.store.mkdir(parents=True, exist_ok=True)
            (self.root.store / ".gitignore").write_text("*\n")

    def _guarded(self, act: Callable[[], Answer]) -> Answer:
        """Do something with the database: rebuilt when damaged, done without when out of reach."""
        import sqlite3

        from engram import database

        for _ in range(3):
            inode = self._inode()
            try:
                return act()
            except (sqlite3.Error, OSError) as error:
                self.close()
                if isinstance(error, sqlite3.Error) and database.is_corrupt(error):
                    self._say(
                        f"{str(self.root.database)!r} is damaged ({error}): rebuilt from the runs"
                    )
                    self._discard(inode)
                elif self._private:
                    raise
                else:
                    self._private = True
                    if not database.is_unwritable(error):
                        self._say(
                            f"{str(self.root.database)!r} cannot be used ({error}): read without it"
                        )
        return act()

    def _inode(self) -> int | None:
        """Which file the index is; None when there is none."""
        try:
            return self.root.database.stat().st_ino
        except OSError:
            return None

    def _discard(self, inode: int | None) -> None:
        """Remove the index, unless someone has replaced that file meanwhile."""
        self.close()
        try:
            with locked(self._lock, create=True):
                if inode is None or inode == self._inode():
                    for suffix in ("", "-wal", "-shm"):
                        index = self.root.database
                        index.with_name(index.name + suffix).unlink(missing_ok=True)
        except OSError:
            self._private = True

    # Following the folders.

    def _refresh(self) -> None:
        """Find out what is to be done; write only when there is something."""
        if not self._work():
            return
        if self._private:
            self._write(self._work())
            return
        with locked(self._lock, create=True):
            # Looked at again: who held the lock before may have done it.
            work = self._work()
            self._write(work)
            self._trim_journal(work.journal)

    def _work(self) -> Work:
        """Compare the index with the journal, the folders and the runs that have not ended."""
        journaled, length = self._journal()
        work = Work(journaled, {}, set(), length)
        known = dict(self._db.execute("SELECT place, changed FROM places"))
        present = self.places()
        work.gone.update(known.keys() - present.keys())
        now = time.time_ns()
        for place, changed in present.items():
            if known.get(place) == changed:
                continue
            listed, indexed = self._listed(place), self._indexed(place)
            work.read.update((place, name) for name in listed ^ indexed)
            if now - changed > SETTLED_NS or place not in known:
                work.places[place] = changed if now - changed > SETTLED_NS else 0
        work.read.update(self._changed())
        return work

    def places(self) -> dict[str, int]:
        """The folders between root and runs, each with the time of its last change in ns."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if _is_name(entry.name) and entry.is_dir():
                        found[entry.name] = entry.stat().st_mtime_ns
        return found

    def _listed(self, place: str) -> set[str]:
        """The run folders in a place: by their name, or by the record in a folder of any name."""
        found = set()
        with contextlib.suppress(OSError), os.scandir(self.root.folder / place) as entries:
            for entry in entries:
                if not _is_name(entry.name):
                    continue
                own = records.RUN_ID.fullmatch(entry.name)
                if own or RunPaths(self.root.folder / place / entry.name).metadata.is_file():
                    found.add(entry.name)
        return found

    def _indexed(self, place: str) -> set[str]:
        """The run folders that the index knows in a place."""
        return {
            name for (name,) in self._db.execute("SELECT name FROM runs WHERE place = ?", (place,))
        }

    def _changed(self) -> Iterator[tuple[str, str]]:
        """Runs that had not ended when they were last read, and are different now."""
        open_rows = self._db.execute(
            "SELECT place, name, stamp, brief FROM runs WHERE open"
        ).fetchall()
        if open_rows:
            from engram.brief import state

            for place, name, stamp, text in open_rows:
                paths = self.root.run(place, name)
                if _state_in(text) != state(paths) or stamp != _stamp(paths):
                    yield place, name

    def _write(self, work: Work) -> None:
        """Bring the index up to what `work` found.

        The folders are read while the lock is held, so that whoever writes last read last.
        """
        from engram import brief, database

        self._db.execute("BEGIN IMMEDIATE")
        for place in work.gone:
            self._db.execute("DELETE FROM places WHERE place = ?", (place,))
        gone = [(place, name) for place in work.gone for name in self._indexed(place)]
        for place, name in sorted(work.read) + gone:
            paths = self.root.run(place, name)
            stamp = _stamp(paths)
            found = brief.read(paths)
            if found is None:
                database.drop(self._db, place, name)
            else:
                final = found["state"] in records.ENDED and stamp != ""
                database.put(
                    self._db, place=place, name=name, stamp=stamp, brief=found, final=final
                )
        self._db.executemany("REPLACE INTO places VALUES (?, ?)", work.places.items())
        self._db.execute("COMMIT")

    def _journal(self) -> tuple[set[tuple[str, str]], int]:
        """What the journal holds, and its length in bytes; damaged lines are skipped."""
        try:
            data = self.root.pending.read_bytes()
        except OSError:
            return set(), 0
        data = data[: data.rfind(b"\n") + 1]
        found = set()
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                place, name = json.loads(line)
                found.add((place, name))
        return found, len(data)

    def _trim_journal(self, length: int) -> None:
        """Take off the lines that were worked through."""
        if length:
            with locked(self.root.pending) as file:
                descriptor = file.fileno()
                rest = os.pread(descriptor, os.fstat(descriptor).st_size, length)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, rest)


def _stamp(paths: RunPaths) -> str:
    """What changes whenever the record is written; empty when there is none."""
    try:
        found = paths.metadata.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}"


def _is_name(name: str) -> bool:
    """Whether a folder may be, or hold, a run: not hidden, and a name that SQLite can keep."""
    return not name.startswith(".") and name == name.encode(errors="replace").decode()


def _state_in(text: str) -> str:
    """The state in a brief."""
    return str(json.loads(text)["state"])
