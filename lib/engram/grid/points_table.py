"""points.csv and points.parquet: one row for each point that is over, kept current as points end.

A row costs one appended line. The CSV file is written anew only when a column appears or a point
is run again, the Parquet file now and then; both take a small share of the time that passes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from engram.files import write_atomic
from engram.grid import parquet
from engram.grid.attempts import attempts, last
from engram.grid.pace import Pace
from engram.record import NON_FINITE, plain, store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from engram.errors import StoreError
    from engram.grid.points import Points
    from engram.paths import GridPaths

__all__ = ["FIXED", "PointsTable", "rebuild", "row_of"]

# The columns of every table, in order, each with its kind in the Parquet file.
FIXED = {
    "index": parquet.INTEGER,
    "name": parquet.TEXT,
    "state": parquet.TEXT,
    "run_id": parquet.TEXT,
    "attempts": parquet.INTEGER,
    "device": parquet.TEXT,
    "seed": parquet.INTEGER,
    "started": parquet.TEXT,
    "run_s": parquet.DOUBLE,
    "cause": parquet.TEXT,
}
PARAMETER, SUMMARY = "param.", "summary."
LEAST_S = 2.0  # between two times that the Parquet file is written


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
        self.problem: StoreError | None = None  # why the files are not current, if they are not
        # Columns in the order in which they appeared, which is that of the values in memory.
        self._columns = {
            key: place
            for place, key in enumerate([*FIXED, *(f"{PARAMETER}{key}" for key in varying)])
        }
        self._rows: dict[int, tuple[Any, ...]] = {}
        self._points: Points | None = None
        self._csv_stale = self._parquet_stale = True
        self._csv_pace, self._parquet_pace = Pace(0.0), Pace(LEAST_S)

    @classmethod
    def open(cls, paths: GridPaths, points: Points) -> PointsTable:
        """Begin the table of a grid, with the rows of points whose runs have ended already.

        Raises:
            StoreError: the files cannot be written.
        """
        table = cls(paths, points.varying)
        table._points = points
        for row in rebuild(paths, points):
            table._keep(row)
        table.flush(force=True)
        table._require_current()
        return table

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
        self._parquet_stale = True
        if again or len(self._columns) != header:
            self._csv_stale = True
        if self._csv_stale:
            self.flush()
            return
        names = self.columns
        try:
            _append(self.paths.table, _line(self._values(self._rows[row["index"]], names)))
        except OSError as error:
            self._csv_stale, self.problem = True, store_error(self.paths.table, error)

    def flush(self, *, force: bool = False) -> None:
        """Bring the files up to date, each unless it was written anew just now.

        Args:
            force: whether to do so in any case.
        """
        if self._csv_stale and (force or self._csv_pace.may()):
            self._try(self._csv_pace, self._write_csv)
        if self._parquet_stale and (force or self._parquet_pace.may()):
            self._try(self._parquet_pace, self._write_parquet)

    def finish(self) -> None:
        """Write both files for good, by index.

        Raises:
            StoreError: they cannot be written.
        """
        self._csv_stale = self._parquet_stale = True
        self.flush(force=True)
        self._require_current()

    def _require_current(self) -> None:
        if self.problem is not None and (self._csv_stale or self._parquet_stale):
            raise self.problem

    def _try(self, pace: Pace, work: Callable[[], None]) -> None:
        try:
            pace.do(work)
        except OSError as error:
            self.problem = store_error(self.paths.table, error)

    def _keep(self, row: dict[str, Any]) -> None:
        new = [key for key in row if key not in self._columns]
        for key in new:
            self._columns[key] = len(self._columns)
        if self._points is not None and any(key.startswith(PARAMETER) for key in new):
            self._fill(self._points)
        # States, devices and causes are the same few texts over and over.
        self._rows[row["index"]] = tuple(
            sys.intern(value) if type(value) is str else value
            for value in (row.get(key) for key in self._columns)
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
        lines = [_line(names)]
        lines += (_line(self._values(self._rows[index], names)) for index in sorted(self._rows))
        write_atomic(self.paths.table, b"".join(lines))
        self._csv_stale = False

    def _write_parquet(self) -> None:
        columns = []
        for name in self.columns:
            place = self._columns[name]
            values = [
                row[place] if place < len(row) else None
                for row in (self._rows[index] for index in sorted(self._rows))
            ]
            columns.append(_column(name, values))
        write_atomic(self.paths.parquet, parquet.write(columns))
        self._parquet_stale = False


def _rank(column: str) -> int:
    """Where a column stands: the fixed ones, parameters, summary."""
    return 0 if column in FIXED else 1 if column.startswith(PARAMETER) else 2


def _finite_or_not(value: Any) -> Any:  # noqa: ANN401
    """The float behind the name that a record gives to one that JSON cannot write."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _column(name: str, values: list[Any]) -> parquet.Column:
    """A column of the Parquet file; one of several types holds the texts of the CSV file."""
    default = FIXED.get(name, parquet.DOUBLE if name.startswith(SUMMARY) else parquet.TEXT)
    kind = parquet.kind_of(values, default=default)
    if name == "run_s" and kind == parquet.INTEGER:
        kind = parquet.DOUBLE
    numbers = [value for value in values if type(value) is int]
    if kind == parquet.INTEGER and any(not -(2**63) <= value < 2**63 for value in numbers):
        kind = parquet.TEXT
    if kind == parquet.DOUBLE and any(abs(value) > 2**53 for value in numbers):
        kind = parquet.TEXT  # a float would not be the same number
    if kind == parquet.TEXT:
        values = [None if value is None else _cell(value) for value in values]
    return parquet.Column(name, kind, values)


def _cell(value: Any) -> str:  # noqa: ANN401
    """A value as text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.replace("\0", "\\x00")  # most readers of CSV end a text there
    if isinstance(value, dict | list | tuple):
        return json.dumps(plain(value), ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def _line(values: Iterator[Any] | Sequence[Any]) -> bytes:
    """One record of the CSV file."""
    text = io.StringIO()
    # What a record ends with is quoted inside of values: a lone carriage return too.
    csv.writer(text, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return text.getvalue()[:-2].encode("utf-8", "backslashreplace") + b"\n"


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
