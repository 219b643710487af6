"""The points of a grid as a report shows them: drawn from its folder alone, and only read."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.attempts import attempts, last, run_folders
from engram.grid.points import Points
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engram.grid.values import Scalar
    from engram.paths import GridPaths, RunPaths

__all__ = ["Point", "last_lines", "read_points"]

SUMMARY = "summary."
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
TAIL = 1 << 14  # bytes


class Point(NamedTuple):
    """One point: what it was, and how its newest run ended."""

    name: str
    columns: dict[str, Scalar | None]  # the varying keys
    state: str = "pending"
    cause: str = ""
    run: RunPaths | None = None  # None: not started, or its folder was removed
    run_id: str | None = None
    processes: int = 1
    attempts: int = 0
    device: str = ""
    seed: int | None = None
    run_s: float | None = None
    verdict: str | None = None  # of the comparison with an earlier grid
    summary: dict[str, Any] = {}  # noqa: RUF012 - never changed


def read_points(paths: GridPaths) -> tuple[list[Point], list[str]]:
    """Read all points of a grid, whatever state it is in.

    Args:
        paths: the grid's folder.

    Returns:
        The points in order, and what could not be read.

    Raises:
        StoreError: the file of points is missing or damaged.
    """
    points = Points(paths.points)
    found = [Point(name, points.columns(index)) for index, name in enumerate(points.names)]
    problems: list[str] = []
    for index, changes in _rows(paths.table, problems):
        if index < len(found):
            found[index] = found[index]._replace(**changes)
    tried = attempts(paths)
    for index, items in tried.items():
        if index < len(found):
            run = last(items)
            changes = _of_record(run.paths, run.record)
            found[index] = found[index]._replace(attempts=len(items), **changes)
    unread = len(run_folders(paths)) - sum(map(len, tried.values()))
    if unread:
        problems.append(f"{unread} runs are left out: their records are missing or damaged")
    return found, problems


def _of_record(run: RunPaths, record: dict[str, Any]) -> dict[str, Any]:
    """What a run's record says of its point."""
    labels = (record.get("devices") or {}).get("labels") or []
    completed = record["state"] == "completed"  # which has nothing to explain
    return {
        "state": str(record["state"]),
        "cause": "" if completed else str((record.get("exit") or {}).get("cause") or ""),
        "run": run,
        "run_id": run.run_id,
        "processes": record.get("processes") or 1,
        "device": "+".join(map(str, labels)),
        "seed": record.get("seed"),
        "run_s": (record.get("times") or {}).get("run_s"),
        "verdict": (record.get("comparison") or {}).get("verdict"),
        "summary": record.get("summary") or {},
    }


def _rows(table: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the table of points says: all that is left of runs whose folders were removed."""
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                yield int(row["index"]), _of_row(row)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        problems.append(f"{table.name} cannot be read to its end: {error!r}")


def _of_row(row: dict[str, str]) -> dict[str, Any]:
    """What a line of points.csv says of its point."""
    seed, run_s = _number(row.get("seed")), _number(row.get("run_s"))
    return {
        "state": row["state"],
        "cause": row.get("cause") or "",
        "run_id": row.get("run_id") or None,
        "attempts": int(row.get("attempts") or 1),
        "device": row.get("device") or "",
        "seed": seed if isinstance(seed, int) else None,
        "run_s": None if isinstance(run_s, str) else run_s,
        "summary": {
            key.removeprefix(SUMMARY): _number(text)
            for key, text in row.items()
            if key and key.startswith(SUMMARY) and text
        },
    }


def _number(text: str | None) -> float | int | str | None:
    """A cell of points.csv: a number where it looks like one."""
    for kind in (int, float):
        try:
            return kind(text or "")
        except ValueError:
            continue
    return text or None


def last_lines(point: Point, most: int) -> tuple[str, str]:
    """Read the end of a run's log: what it printed to standard error, else to standard output.

    Args:
        point: a point with a run.
        most: number of lines.

    Returns:
        The log's name and its last lines without colors; both empty when nothing was printed.
    """
    logs = point.run.logs(point.processes) if point.run else []
    for log in sorted(logs, key=lambda log: log.suffix):
        try:
            with log.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - TAIL))
                data = stream.read()
        except OSError:
            continue
        text = ESCAPES.sub("", data.decode("utf-8", "replace"))
        # A bar is drawn over itself: what was drawn last is what was seen.
        lines = [line.rstrip("\r").rpartition("\r")[2].expandtabs() for line in text.split("\n")]
        kept = [printable(line.rstrip())[:400] for line in lines if line.strip()][-most:]
        if kept:
            return log.name, "\n".join(kept)
    return "", ""
