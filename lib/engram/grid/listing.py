"""What `list --grid` and `list --grids` print: the points of one grid, and all grids."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError, RunnerError
from engram.filters import Filter, parse, sort_key
from engram.grid import record as records
from engram.grid.find import find_grid, known_grids
from engram.grid.points import Points
from engram.grid.readme import counted
from engram.index import Index
from engram.paths import RootPaths
from engram.record import plain
from engram.store import as_json_line, dig, run_whereabouts, terminal_width
from engram.table import age, columns, duration, epoch, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engram.index import Row
    from engram.paths import GridPaths

__all__ = ["grid_lines", "grids_lines"]

# As many as a screen shows; --limit 0 shows all.
SHOWN = 50


class LooseIndex(Index):
    """The runs of one grid that lies in no run root, such as a copy; kept in memory only."""

    def __init__(self, paths: GridPaths) -> None:
        """Name the grid."""
        super().__init__(RootPaths(paths.folder.parent))
        self._private = True
        self._place = paths.grid_id

    def places(self) -> dict[str, int]:
        """The grid's folder alone, whatever lies beside it."""
        found = self.root.folder / self._place
        return {self._place: found.stat().st_mtime_ns}


def grid_lines(
    start: Path,
    reference: str,
    filters: Sequence[str] = (),
    *,
    sort: str | None = None,
    limit: int | None = None,
    as_json: bool = False,
) -> Iterator[str]:
    """The lines that `list --grid` prints: one for each point that has a run, its last attempt.

    Args:
        start: where the person stands.
        reference: of the grid, see find_grid.
        filters: as typed, see engram.filters.parse.
        sort: a key, descending when it starts with `-`; by default the order of the grid.
        limit: how many at most; 0 for all; by default 50 for people, all as JSON.
        as_json: whether to write a JSON array.

    Raises:
        ConfigError: a filter, the sort key or the limit is wrong.
        RunNotFoundError: no grid answers, or several do.
        StoreError: the grid's record cannot be read.
    """
    most = _most(limit, as_json=as_json)
    asked = [parse(text) for text in filters]
    if sort is not None:
        sort_key(sort)
    paths = find_grid(start, reference)
    record = records.reconcile(paths)
    rows, total = _rows(paths, record, asked, sort or "index")
    if as_json:
        return _array([as_json_line(row) for row in rows[:most]])
    return _table(paths, record, rows[:most], (len(rows), total))


def grids_lines(start: Path, *, limit: int | None = None, as_json: bool = False) -> Iterator[str]:
    """The lines that `list --grids` prints: every grid, the newest first.

    Args:
        start: where the person stands.
        limit: how many at most; 0 for all; by default 50 for people, all as JSON.
        as_json: whether to write a JSON array.

    Raises:
        ConfigError: the limit is wrong.
    """
    most = _most(limit, as_json=as_json)
    found = known_grids(start)
    if as_json:
        texts = [
            json.dumps(plain({"folder": str(known.paths.folder), **known.record}))
            for known in found[:most]
        ]
        yield from _array(texts)
        return
    now, lines = time.time(), []
    for known in found[:most]:
        record = known.record
        began = epoch(record["times"]["started"] or record["times"]["created"])
        lines.append(
            [
                known.paths.grid_id,
                records.whereabouts(known.paths, record) or record["state"],
                "" if began is None else f"{age(now - began)} ago",
                duration(record["times"]["run_s"]),
                record.get("experiment") or "",
                " ".join(record.get("tags") or ()) + (" pinned" if record.get("pinned") else ""),
                counted(record),
            ]
        )
    if not lines:
        yield "there are no grids yet"
        return
    header = ["GRID", "STATE", "WHEN", "TOOK", "EXPERIMENT", "TAGS", "POINTS"]
    yield columns(header, lines, width=terminal_width())
    if len(found) > len(lines):
        yield f"{len(lines)} of {len(found)} grids; --limit 0 shows all"


def _most(limit: int | None, *, as_json: bool) -> int | None:
    """How many rows to show at most; None for all."""
    if limit is not None and limit < 0:
        msg = f"--limit {limit!r} is negative: write 0 for all of them"
        raise ConfigError(msg)
    return (None if as_json else SHOWN) if limit is None else limit or None


def _array(texts: Sequence[str]) -> Iterator[str]:
    """A JSON array, one object a line."""
    if not texts:
        yield "[]"
    for place, text in enumerate(texts):
        before = "[" if place == 0 else " "
        yield f"{before}{text}{']' if place == len(texts) - 1 else ','}"


def _rows(
    paths: GridPaths, record: dict[str, Any], asked: Sequence[Filter], sort: str
) -> tuple[list[Row], int]:
    """The runs that stand for the points of a grid, and for which all filters hold, in order.

    Returns:
        The rows, and how many points have a run, whatever the filters say.
    """
    root = RootPaths(paths.folder.parent)
    index = Index(root) if root.store.is_dir() else LooseIndex(paths)
    own = Filter("grid", "=", record["grid_id"])
    every = [row for row in index.rows([own]) if row.paths.folder.parent == paths.folder]
    standing: dict[Any, tuple[tuple[bool, int, str], str]] = {}
    for row in every:
        brief = row.brief
        rank = (brief["state"] == "completed", brief["attempt"] or 0, row.run_id)
        # A run that was never born is no point's yet.
        key = row.run_id if brief["index"] is None else brief["index"]
        if key not in standing or rank > standing[key][0]:
            standing[key] = (rank, str(row.paths.folder))
    chosen = {folder for _, folder in standing.values()}
    rows = index.rows([own, *asked], sort=sort)
    return [row for row in rows if str(row.paths.folder) in chosen], len(chosen)


def _table(
    paths: GridPaths, record: dict[str, Any], rows: Sequence[Row], found: tuple[int, int]
) -> Iterator[str]:
    """A table of points, and how the grid stands; `found`: how many match, how many have a run."""
    try:
        points: Points | None = Points(paths.points)
    except RunnerError:
        points = None  # damaged: the runs know their parameters too
    varying = list(points.varying if points is not None else record["varying"])
    briefs = [row.brief for row in rows]
    keys = list(dict.fromkeys(key for brief in briefs for key in brief["summary"]))
    lines = []
    for row, brief in zip(rows, briefs, strict=True):
        given = _parameters(points, varying, brief)
        lines.append(
            [
                brief["point"] or row.run_id,
                _state(row, brief),
                *(_text(given.get(key)) for key in varying),
                *(_text(brief["summary"].get(key)) for key in keys),
                duration(brief["run_s"]),
                "+".join(brief["devices"]) or "cpu",
            ]
        )
    if lines:
        header = ["POINT", "STATE", *varying, *keys, "TOOK", "DEVICE"]
        yield columns(header, lines, width=terminal_width())
    matching, every = found
    if matching < every:
        yield f"{matching} of {every} points that have a run match" if matching else "none matches"
    if len(rows) < matching:
        yield f"{len(rows)} of {matching} are shown; --limit 0 shows all"
    yield f"{records.whereabouts(paths, record) or record['state']}; {counted(record)}"


def _parameters(
    points: Points | None, varying: Sequence[str], brief: dict[str, Any]
) -> dict[str, Any]:
    """The varying parameters of a point."""
    index = brief["index"]
    if points is not None and index is not None and index < len(points):
        return dict(points.columns(index))
    return {key: dig(brief["parameters"], key) for key in varying}


def _state(row: Row, brief: dict[str, Any]) -> str:
    """How a point stands, and what is special about that."""
    state = (run_whereabouts(row.paths) if row.open else None) or brief["state"]
    notes = [f"attempt {brief['attempt']}"] if (brief["attempt"] or 1) > 1 else []
    notes += ["pruned"] if brief["pruned"] else []
    return f"{state} ({', '.join(notes)})" if notes else str(state)


def _text(value: Any) -> str:  # noqa: ANN401
    """A value within a cell; nothing for None."""
    return "" if value is None else short(value)
