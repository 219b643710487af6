"""`report GRID`: one page with the table, the plots and the failures of a grid."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError
from engram.files import write_atomic
from engram.grid import record as records
from engram.grid.find import find_grid
from engram.grid.report_curves import read_curves
from engram.grid.report_data import link, page_data
from engram.grid.report_page import Failure, Page, render
from engram.grid.report_points import last_lines, read_points
from engram.grid.view import device_of
from engram.program import program
from engram.record import now_utc, store_error
from engram.table import duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.grid.report_points import Point
    from engram.paths import GridPaths

__all__ = ["report_command", "write_report"]

MOST_LOGS = 50
MOST_FAILURES = 500
MOST_LINES = 20
STILL = ("completed", "running", "created", "pending")


def report_command(start: Path, reference: str, output: Path | None, metric: str | None) -> str:
    """Write the report of a grid.

    Args:
        start: the folder that the user stands in.
        reference: what names the grid.
        output: the file to write or replace; default: report.html in the grid's folder.
        metric: the summary key to begin with; default: the first number.

    Returns:
        The line to print.

    Raises:
        RunNotFoundError: no grid, or several, answer to the reference.
        ConfigError: no point has a number under that key, or the output is a folder.
        StoreError: the grid cannot be read, or the page cannot be written.
    """
    paths = find_grid(start, reference)
    target = paths.report if output is None else start / output
    number = write_report(paths, target, metric)
    return f"{target}  ({number} points, {size(target.stat().st_size)})"


def write_report(paths: GridPaths, target: Path, metric: str | None = None) -> int:
    """Write the page of a grid; see `report_command`.

    Returns:
        The number of points.
    """
    if target.is_dir():
        msg = f"the output {str(target)!r} is a folder: name a file, such as report.html in it"
        raise ConfigError(msg)
    record = records.load(paths)
    points, problems = read_points(paths)
    base = target.absolute().parent.resolve()
    data = page_data(points, read_curves(points), metric=metric, base=base)
    failed = [point for point in points if point.state not in STILL]
    page = Page(
        title=record.get("experiment") or "grid",
        grid_id=record["grid_id"],
        description=record.get("description") or "",
        state=record["state"],
        cause=record.get("cause") or "",
        facts=list(_facts(record, points)),
        links=list(_links(paths, base)),
        states=[point.state for point in points],
        problems=problems,
        failures=[
            _failure(point, base, with_log=number < MOST_LOGS)
            for number, point in enumerate(failed[:MOST_FAILURES])
        ],
        unlisted=max(0, len(failed) - MOST_FAILURES),
        written=now_utc()[:19].replace("T", " ") + " UTC",
        data=data,
    )
    try:
        write_atomic(target, render(page).encode("ascii"))
    except OSError as error:
        raise store_error(target, error) from error
    return len(points)


def _failure(point: Point, base: Path, *, with_log: bool) -> Failure:
    """A point that did not complete, with the end of its log for the first of them."""
    folder = link(point.run.folder, base) if point.run else None
    name, lines = last_lines(point, MOST_LINES) if with_log else ("", "")
    return Failure(point.name, point.state, point.cause[:1000], folder, name, lines)


def _facts(record: dict[str, Any], points: Sequence[Point]) -> list[tuple[str, str]]:
    """What the head of the page says, the empty left out."""
    code, times = record.get("code") or {}, record.get("times") or {}
    dirty = " with uncommitted work" if code.get("dirty") else ""
    live = "the working tree as it was, recorded in no commit" if code.get("live") else None
    commit = f"{code.get('commit') or ''}{dirty}"
    branch = f" ({code['branch']})" if code.get("branch") else ""
    spent = sum(point.run_s or 0.0 for point in points)
    facts = {
        "command": shlex.join([program(), *record.get("argv", [])]),
        "commit": live or (f"{commit}{branch}" if commit else ""),
        "script": (record.get("script") or {}).get("path"),
        "varying": ", ".join(map(str, record.get("varying") or [])),
        "seed": record.get("seed"),
        "devices": ", ".join(dict.fromkeys(map(device_of, record.get("devices") or []))),
        "slots": record.get("slots"),
        "machine": record.get("host"),
        "started": _clock(times.get("started")),
        "ended": _clock(times.get("ended")),
        "took": duration(times.get("run_s")),
        "all runs took": duration(spent) if spent else "",
        "rerun of": (record.get("parents") or {}).get("rerun_of"),
        "tags": ", ".join(map(str, record.get("tags") or [])),
    }
    return [(label, str(text)) for label, text in facts.items() if text not in (None, "")]


def _clock(when: str | None) -> str:
    """A recorded time as people read it."""
    return f"{when[:19].replace('T', ' ')} UTC" if when else ""


def _links(paths: GridPaths, base: Path) -> list[tuple[str, str]]:
    """The files of the grid that are there."""
    files = (
        paths.record,
        paths.readme,
        paths.grid_file,
        paths.experiment,
        paths.parameters,
        paths.table,
        paths.parquet,
    )
    folder = [("grid folder", f"{link(paths.folder, base)}/")]
    return folder + [(path.name, link(path, base)) for path in files if path.exists()]
