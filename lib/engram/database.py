"""The SQLite file behind the index: its tables, and what is done when it cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from pathlib import Path
from typing import Any

from engram import brief as briefs
from engram.record import plain

__all__ = [
    "create",
    "drop",
    "is_corrupt",
    "is_unwritable",
    "open_copy",
    "open_file",
    "put",
    "stale",
]

BUSY_S = 30.0
SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    place TEXT NOT NULL,
    name TEXT NOT NULL,
    run_id TEXT NOT NULL,
    at TEXT NOT NULL,
    open INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    brief TEXT NOT NULL,
    UNIQUE (place, name)
);
CREATE INDEX runs_by_id ON runs (run_id);
CREATE INDEX runs_by_time ON runs (at, run_id);
CREATE INDEX runs_open ON runs (open) WHERE open;
CREATE TABLE facts (
    key TEXT NOT NULL,
    run INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    text TEXT NOT NULL,
    number NUMERIC,
    PRIMARY KEY (key, run, turn)
) WITHOUT ROWID;
CREATE TABLE places (place TEXT PRIMARY KEY, changed INTEGER NOT NULL) WITHOUT ROWID;
"""
# Another layout, or other facts in it, is another version, without anybody having to think of it.
VERSION = zlib.crc32((SCHEMA + " ".join(briefs.COLUMNS)).encode()) & 0x7FFF_FFFF
# File systems on which a write-ahead log, which needs shared memory, is not safe.
NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "fuse", "panfs")


def open_file(path: Path) -> sqlite3.Connection:
    """Open the database; it may still lack its tables, see `stale`."""
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA user_version")
    except BaseException:
        database.close()
        raise
    return database


def open_copy(path: Path) -> sqlite3.Connection:
    """Open a private copy in memory, for a root that cannot be written."""
    for mode in ("mode=ro", "immutable=1"):
        database = sqlite3.connect(":memory:", isolation_level=None)
        address = f"{path.absolute().as_uri()}?{mode}"
        with contextlib.suppress(sqlite3.Error):
            with contextlib.closing(sqlite3.connect(address, uri=True)) as source:
                source.backup(database)
            if not stale(database):
                return database
        database.close()
    database = sqlite3.connect(":memory:", isolation_level=None)
    create(database)
    return database


def stale(database: sqlite3.Connection) -> bool:
    """Whether the tables are missing, or are those of another version of engram."""
    return bool(database.execute("PRAGMA user_version").fetchone()[0] != VERSION)


def create(database: sqlite3.Connection, folder: Path | None = None) -> None:
    """Make the tables anew.

    Args:
        database: open, and not used by anyone else now.
        folder: where it lies, None for one in memory; decides whether a write-ahead log is safe.
    """
    if folder is not None:
        wal = not _is_network(folder)
        database.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    dropping = "".join(f'DROP TABLE "{name}";\n' for (name,) in tables)
    database.executescript(f"BEGIN;\n{dropping}{SCHEMA}PRAGMA user_version = {VERSION};\nCOMMIT;")


def put(
    database: sqlite3.Connection,
    *,
    place: str,
    name: str,
    stamp: str,
    brief: dict[str, Any],
    final: bool,
) -> None:
    """Write one run, in place of what was known about it."""
    drop(database, place, name)
    text = json.dumps(
        plain(brief), ensure_ascii=False, separators=(",", ":"), default=briefs.text_of
    )
    columns = (place, name, brief["run_id"], briefs.when(brief), not final, stamp, text)
    cursor = database.execute(
        "INSERT INTO runs (place, name, run_id, at, open, stamp, brief) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        columns,
    )
    turns: dict[str, int] = {}
    rows = []
    for key, number, value in briefs.facts(brief):
        turn = turns[key] = turns.get(key, -1) + 1
        rows.append((key, cursor.lastrowid, turn, value, number))
    database.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", rows)


def drop(database: sqlite3.Connection, place: str, name: str) -> None:
    """Forget one run."""
    where = " FROM runs WHERE place = ? AND name = ?"
    found = database.execute(f"SELECT id, brief{where}", (place, name)).fetchone()
    if found is None:
        return
    run, text = found
    # The keys are in the brief; an index of facts by run would cost more than it is ever used.
    keys = {key for key, _, _ in briefs.facts(json.loads(text))}
    database.executemany(
        "DELETE FROM facts WHERE key = ? AND run = ?", [(key, run) for key in keys]
    )
    database.execute("DELETE FROM runs WHERE id = ?", (run,))


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is damaged, or no database at all."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unwritable(error: Exception) -> bool:
    """Whether the place is one where this user may only read."""
    if isinstance(error, PermissionError):
        return True
    if isinstance(error, OSError):
        import errno

        return error.errno == errno.EROFS
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def _is_network(folder: Path) -> bool:
    """Whether the folder lies on a file system that several machines share."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        real = os.path.realpath(folder) + "/"
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            point = before.split(" ")[4].replace("\\040", " ").rstrip("/") + "/"
            if real.startswith(point) and len(point) >= len(best):
                best, kind = point, after.split(" ")[0]
    return kind.startswith(NETWORK)
