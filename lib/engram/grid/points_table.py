"""points.csv and points.parquet: one row for each point that is over, kept current as points end.

A row costs one appended line. The CSV file is written anew only when a column appears or a point
is run again, the Parquet file now and then; both take a small share of the time that passes.
Without pyarrow there is no Parquet file.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from engram.files import write_atomic
from engram.grid.attempts import attempts, last
from engram.grid.pace import Pace
from engram.grid.parquet_file import DOUBLE, INTEGER, TEXT, Column, ParquetFile
from engram.grid.table_text import line
from engram.record import NON_FINITE, store_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from engram.errors import StoreError
    from engram.grid.points import Points
    from engram.paths import GridPaths

__all__ = ["FIXED", "PointsTable", "rebuild", "row_of"]

# The columns of every table, in order, each with its kind in the Parquet file.
FIXED = {
    "index": INTEGER,
    "name": TEXT,
    "state": TEXT,
    "run_id": TEXT,
    "attempts": INTEGER,
    "device": TEXT,
    "seed": INTEGER,
    "started": TEXT,
    "run_s": DOUBLE,
    "cause": TEXT,
}
PARAMETER, SUMMARY = "param.", "summary."
REPEATED = {"state", "device", "cause"}


def row_of(
    index: int,
    name: str,
    columns: Mapping[str, Any],
    record: Mapping[str, Any],
    attempts: int,
    device: str,
) -> dict[str, Any]:
    """The row of a point.

    Args:
        index: of the point, from 0.
        name: of the point.
        columns: the values of the varying keys, see Points.columns.
        record: of its last run; what `engram.grid.engine.essence` keeps is enough.
        attempts: how many there were.
        device: as people call it; the number of a slot on it is left out.

    Returns:
        The columns of FIXED, param.KEY of each varying key and summary.KEY of each result; of a
        point that a search has ended early `pruned` too.
    """
    times, ended = record["times"], record.get("exit") or {}
    completed = record["state"] == "completed"
    row = {
        "index": index,
        "name": name,
        "state": record["state"],
        "run_id": record["run_id"],
        "attempts": attempts,
        "device": device.partition(" slot ")[0],
        "seed": record["seed"],
        "started": times.get("started"),
        "run_s": times.get("run_s"),
        "cause": None if completed and not record.get("pruned") else ended.get("cause"),
    }
    if record.get("pruned"):
        row["pruned"] = True
    row.update((f"{PARAMETER}{key}", value) for key, value in columns.items())
    summary = record.get("summary") or {}
    row.update((f"{SUMMARY}{key}", _finite_or_not(value)) for key, value in summary.items())
    return row


def rebuild(paths: GridPaths, points: Points) -> list[dict[str, Any]]:
    """The rows of a grid, drawn from the records of its runs; a run whose runner is dead is ended.

    Returns:
        One row for each point of which a run has ended, in the order in which they did.
    """
    over = [run for tried in attempts(paths).values() if (run := last(tried)).ended]
    rows = []
    for run in sorted(over, key=lambda run: str(run.record["times"]["ended"])):
        if run.number < len(points):
            device = "+".join((run.record.get("devices") or {}).get("labels") or ()) or "cpu"
            columns = points.columns(run.number)
            rows.append(row_of(run.number, run.point, columns, run.record, run.attempt, device))
    return rows


class PointsTable:
    """The table of one grid, in memory and in two files."""

    def __init__(self, paths: GridPaths, varying: Sequence[str] = ()) -> None:
        """Begin an empty table; no file is touched yet.

        Args:
            paths: the grid's folder.
            varying: the dotted keys that differ between points.
        """
        self.paths = paths
        # Columns in the order in which they appeared, which is that of the values in memory.
        self._columns = {
            key: place
            for place, key in enumerate([*FIXED, *(f"{PARAMETER}{key}" for key in varying)])
        }
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._points: Points | None = None
        self._parquet = ParquetFile(paths.parquet, self._typed_columns)
        self._csv_stale, self._csv_pace = True, Pace(0.0)
        self._csv_problem: StoreError | None = None

    @classmethod
    def open(cls, paths: GridPaths, points: Points) -> PointsTable:
        """Begin the table of a grid, with the rows of points whose runs have ended already.

        Only points.csv is written now.

        Raises:
            StoreError: it cannot be written.
        """
        table = cls(paths, points.varying)
        table._points = points
        for row in rebuild(paths, points):
            table._keep(row)
        table._try_csv()
        table._require_current()
        return table

    @property
    def problem(self) -> StoreError | None:
        """Why the files are not current, if they are not."""
        return self._csv_problem or self._parquet.problem

    @property
    def columns(self) -> list[str]:
        """The header: the fixed columns, parameters, summary."""
        return sorted(self._columns, key=_rank)

    @property
    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows by index; each has the keys of `columns`."""
        names = self.columns
        for index in sorted(self._rows):
            yield dict(zip(names, self._values(self._rows[index], names), strict=True))

    def counts(self) -> dict[str, int]:
        """How many points ended in which state."""
        place = self._columns["state"]
        return dict(Counter(row[place] for row in self._rows.values()))

    def put(self, row: dict[str, Any]) -> None:
        """Add the row of a point that is over, in place of an earlier one.

        A disk that is full ends no grid: what could not be written is tried again by `flush`.

        Args:
            row: as `row_of` makes it.
        """
        header = len(self._columns)
        again = row["index"] in self._rows
        self._keep(row)
        self._parquet.touch()
        if again or len(self._columns) != header:
            self._csv_stale = True
        if self._csv_stale:
            self.flush()
            return
        names = self.columns
        try:
            _append(self.paths.table, line(self._values(self._rows[row["index"]], names)))
        except OSError as error:
            self._csv_stale, self._csv_problem = True, store_error(self.paths.table, error)

    def flush(self, *, force: bool = False) -> None:
        """Bring the files up to date, each unless it was written anew just now.

        Args:
            force: whether to do so in any case, and to wait until the Parquet file is there too.
        """
        self._parquet.keep(force=force)  # a process of its own, which works meanwhile
        if self._csv_stale and (force or self._csv_pace.may()):
            self._try_csv()
        if force:
            self._parquet.wait()

    def finish(self) -> None:
        """Write both files for good, by index.

        Raises:
            StoreError: they cannot be written.
        """
        self._csv_stale = True
        self._parquet.touch()
        self.flush(force=True)
        self._require_current()

    def _require_current(self) -> None:
        if self.problem is not None:
            raise self.problem

    def _try_csv(self) -> None:
        try:
            self._csv_pace.do(self._write_csv)
        except OSError as error:
            self._csv_problem = store_error(self.paths.table, error)

    def _keep(self, row: dict[str, Any]) -> None:
        new = [key for key in row if key not in self._columns]
        for key in new:
            self._columns[key] = len(self._columns)
        if self._points is not None and any(key.startswith(PARAMETER) for key in new):
            self._fill(self._points)
        # States, devices and causes are the same few texts over and over.
        self._rows[row["index"]] = tuple(
            sys.intern(value) if key in REPEATED and type(value) is str else value
            for key, value in ((key, row.get(key)) for key in self._columns)
        )

    def _fill(self, points: Points) -> None:
        """Give rows the parameters that vary only since later points: a search draws as it goes."""
        for index, row in self._rows.items():
            known = {f"{PARAMETER}{key}": value for key, value in points.columns(index).items()}
            missing = [known.get(key) for key in list(self._columns)[len(row) :]]
            self._rows[index] = (*row, *missing)

    def _values(self, row: tuple[Any, ...], names: Sequence[str]) -> Iterator[Any]:
        """The values of a row under these columns; of a column that appeared later, None."""
        for name in names:
            place = self._columns[name]
            yield row[place] if place < len(row) else None

    def _write_csv(self) -> None:
        names = self.columns
        lines = [line(names)]
        lines += (line(self._values(self._rows[index], names)) for index in sorted(self._rows))
        write_atomic(self.paths.table, b"".join(lines))
        self._csv_stale, self._csv_problem = False, None

    def _typed_columns(self) -> Iterator[Column]:
        """The columns of the Parquet file, one at a time."""
        rows = [self._rows[index] for index in sorted(self._rows)]
        for name in self.columns:
            place = self._columns[name]
            values = [row[place] if place < len(row) else None for row in rows]
            yield Column(name, FIXED.get(name), values)


def _rank(column: str) -> int:
    """Where a column stands: the fixed ones, parameters, summary."""
    return 0 if column in FIXED else 1 if column.startswith(PARAMETER) else 2


def _finite_or_not(value: Any) -> Any:  # noqa: ANN401
    """The float behind the name that a record gives to one that JSON cannot write."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _append(path: Path, data: bytes) -> None:
    """Append in one write.

    Raises:
        OSError: the file is gone, or not all of it could be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        written = os.write(descriptor, data)
    finally:
        os.close(descriptor)
    if written != len(data):
        import errno

        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
