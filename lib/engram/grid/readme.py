"""The README.md of a grid folder: what a person reads first, with no engram at hand."""

from __future__ import annotations

import contextlib
import heapq
import math
from typing import TYPE_CHECKING, Any

from engram.files import write_atomic
from engram.grid.pace import Pace
from engram.readme import cell, command, fence, one_line, paragraphs, unpacking
from engram.table import duration, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engram.paths import GridPaths

__all__ = ["Readme", "counted", "render"]

Row = dict[str, Any]
LEAST_S = 2.0
MOST_VALUES = 8
MOST_FAILURES = 20
MOST_TEXT = 200
BEST = 3
ENDINGS = {
    "created": "No point has started yet.",
    "running": "It is running.",
    "completed": "Every point completed.",
    "failed": "Not every point completed",
    "interrupted": "It was interrupted",
    "killed": "It was killed",
}


class Readme:
    """Keeps the README of a grid current, now and then and at the end."""

    def __init__(self, paths: GridPaths) -> None:
        """Name the grid; nothing is written yet."""
        self.paths = paths
        self._pace = Pace(LEAST_S)
        self._pace.due = 0.0  # the first one at once

    def keep(self, record: dict[str, Any], rows: Iterable[Row], *, force: bool = False) -> None:
        """Write the README, unless that was done just now; one that cannot be written ends nothing.

        Args:
            record: as in grid.json.
            rows: of the table of points; looked at only when they are needed.
            force: whether to write in any case.
        """

        def work() -> None:
            write_atomic(self.paths.readme, render(record, rows).encode("utf-8", "replace"))

        if force or self._pace.may():
            with contextlib.suppress(OSError):
                self._pace.do(work)


def render(record: dict[str, Any], rows: Iterable[Row]) -> str:
    """Write the README of a grid; as short for thousands of points as for ten.

    Args:
        record: as in grid.json.
        rows: of the table of points, see engram.grid.points_table.

    Returns:
        Markdown.
    """
    over = list(rows)
    sections = (
        _title(record),
        _facts(record),
        _varying(record, over),
        _extremes(record, over),
        _failures(over),
        _again(record),
        _source(record),
        _files(),
    )
    return "\n\n".join(text for text in sections if text) + "\n"


def counted(record: dict[str, Any]) -> str:
    """How many points there are, and how they stand: "12 points: 11 completed, 1 pending"."""
    number = record["points"]
    parts = [
        f"{count} {state.replace('_', ' ')}" for state, count in record["counts"].items() if count
    ]
    points = f"{number} {'point' if number == 1 else 'points'}"
    return f"{points}: {', '.join(parts)}" if parts else points


def _title(record: dict[str, Any]) -> str:
    """What it is and how it ended."""
    ending = ENDINGS.get(record["state"], record["state"])
    if not ending.endswith("."):
        cause = record.get("cause")
        ending += f": {one_line(cause)}." if cause else "."
    return paragraphs(
        f"# Grid of {one_line(record.get('experiment') or 'runs')}",
        one_line(record.get("description") or ""),
        f"{counted(record)}. {ending}",
    )


def _facts(record: dict[str, Any]) -> str:
    """What, when, where, from which code."""
    times, code = record["times"], record.get("code") or {}
    source, overrides = record.get("source") or {}, record.get("overrides") or {}
    given = [f"--set {text}" for text in overrides.get("parameters") or []]
    given += [f"--config {text}" for text in overrides.get("experiment") or []]
    warm = record.get("warm") or {}
    started = "one interpreter, forked for each" if warm.get("used") else "an interpreter each"
    parent = (record.get("parents") or {}).get("rerun_of")
    facts = {
        "grid": record["grid_id"],
        "state": record["state"],
        "points from": f"{source.get('path')} (sha256 {source.get('sha256')})" if source else None,
        "started": times.get("started") or "never",
        "ended": times.get("ended"),
        "took": duration(times.get("run_s")),
        "sessions": len(record.get("sessions") or ()),
        "script": (record.get("script") or {}).get("path"),
        "commit": code.get("commit"),
        "branch": code.get("branch"),
        "uncommitted": "yes: see code.patch" if code.get("dirty") else None,
        "overrides": " ".join(given),
        "seed": record.get("seed"),
        "machine": record.get("host"),
        "devices": _listed(record.get("devices") or ()),
        "slots": record.get("slots"),
        "points run in": started + (f": {warm['why_not']}" if warm.get("why_not") else ""),
        "search": _search(record.get("search")),
        "best": _best(record),
        "rerun of": parent.get("grid") if isinstance(parent, dict) else parent,
    }
    lines = [
        f"| {cell(key)} | {cell(value)} |"
        for key, value in facts.items()
        if value not in (None, "")
    ]
    return "\n".join(["| | |", "|---|---|", *lines])


def _search(search: dict[str, Any] | None) -> str | None:
    """How points were chosen while others ran: "optuna: tpe, pruner median, to minimize loss"."""
    if not search:
        return None
    if search["kind"] == "generator":
        return "the grid file, by what has finished"
    if search["kind"] == "wandb":
        aim = f", to {search['direction']} {search['metric']}" if search["metric"] else ""
        sweep = search["sweep"]
        return f"W&B sweep {sweep['id']}: {search['method']}{aim}, {sweep['url']}"
    pruner = "" if search["pruner"] == "none" else f", pruner {search['pruner']}"
    what = f"to {search['direction']} {search['metric']} in {search['trials']} trials"
    return f"optuna: {search['sampler']}{pruner}, {what}"


def _best(record: dict[str, Any]) -> str | None:
    """The best point of a search."""
    best = record.get("best")
    return best and f"{short(best['value'])}: {best['name']}, run {best['run_id']}"


def _listed(texts: Sequence[str]) -> str:
    """A few texts, and how many more there are."""
    shown = ", ".join(map(str, texts[:MOST_VALUES]))
    return shown + (f" and {len(texts) - MOST_VALUES} more" if len(texts) > MOST_VALUES else "")


def _varying(record: dict[str, Any], over: Sequence[Row]) -> str:
    """What differs between points, and the values that were met so far."""
    lines = []
    for key in record["varying"]:
        met = dict.fromkeys(
            _short(row[f"param.{key}"]) for row in over if row.get(f"param.{key}") is not None
        )
        lines.append(f"| {cell(key)} | {cell(_listed(list(met)))} |")
    if not lines:
        return ""
    header = ["| parameter | values, of the points that are over |", "|---|---|"]
    return "\n".join(["## What varies", "", *header, *lines])


def _extremes(record: dict[str, Any], over: Sequence[Row]) -> str:
    """The points with the lowest and the highest first number of their summaries."""
    completed = [row for row in over if row["state"] == "completed"]
    key = _metric(completed)
    found = [row for row in completed if key and _is_number(row.get(key))]
    if key is None or not found:
        return ""
    name = key.removeprefix("summary.")
    lowest = heapq.nsmallest(BEST, found, key=lambda row: row[key])
    highest = [
        row
        for row in heapq.nlargest(BEST, found, key=lambda row: row[key])
        if all(row is not other for other in lowest)
    ]
    ordered = sorted([*lowest, *highest], key=lambda row: row[key])
    lines = [
        f"| {cell(row['name'])} | {cell(short(row[key]))} | {cell(row['run_id'])} |"
        for row in ordered
    ]
    number = "point" if len(found) == 1 else "points"
    title = f"## Lowest and highest {one_line(name)}, of {len(found)} {number}"
    header = [f"| point | {cell(name)} | run |", "|---|---|---|"]
    return "\n".join([title, "", *header, *lines])


def _metric(rows: Iterable[Row]) -> str | None:
    """The first column of the summary that holds a finite number."""
    for row in rows:
        for key, value in row.items():
            if key.startswith("summary.") and _is_number(value):
                return key
    return None


def _is_number(value: Any) -> bool:  # noqa: ANN401
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _failures(over: Sequence[Row]) -> str:
    """The points that are over and did not complete, with their causes and folders."""
    failed = [row for row in over if row["state"] != "completed"]
    if not failed:
        return ""
    lines = [
        f"| {cell(row['name'])} | {row['state']} | {cell(_short(row['cause'] or ''))} "
        f"| {cell(row['run_id'] or 'none')} |"
        for row in failed[:MOST_FAILURES]
    ]
    more = len(failed) - MOST_FAILURES
    rest = f"\n\nand {more} more: see points.csv" if more > 0 else ""
    header = ["| point | state | cause | run |", "|---|---|---|---|"]
    return "\n".join(["## Points that did not complete", "", *header, *lines]) + rest


def _short(value: Any) -> str:  # noqa: ANN401
    """A value in few characters, on one line."""
    text = one_line(short(value))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."


def _again(record: dict[str, Any]) -> str:
    """The commands that look at this grid, continue it and repeat it."""
    call, grid = command(record), record["grid_id"]
    lines = [
        f"{call} list --grid {grid}       # its points; filters and --sort as for runs",
        f"{call} report {grid}            # one page with table and plots",
        f"{call} verify {grid}            # every recorded hash of the grid and its runs",
        f"{call} --grid --resume {grid}   # run what did not complete",
        f"{call} --grid --rerun {grid}    # repeat every point, then compare",
    ]
    note = "The path of this folder works in place of the id, also after it was moved or copied."
    where = "In the repository, or anywhere with engram installed:"
    return paragraphs("## Again", where, fence("\n".join(lines)), note)


def _source(record: dict[str, Any]) -> str:
    """How to get at the code with plain git."""
    code = record.get("code") or {}
    commit = code.get("snapshot_commit")
    if not commit or not code.get("source_sha256"):
        return ""
    what = "source.pack holds the commit without its history. With plain git, from here:"
    return paragraphs("## The code", what, unpacking(commit, "source.pack"))


def _files() -> str:
    """What lies where."""
    return """## Files

| | |
|---|---|
| grid.json | the record: what was asked for, on what, how it ended |
| grid.py | the grid file as it was; absent when experiment.toml said it all |
| experiment.toml, parameters.toml | what every point starts from |
| points.jsonl | the points as drawn: name and parameters, one line each |
| points.csv | one row for each point that is over: parameters, summary, cause |
| points.parquet | the same with types; absent where pyarrow was not installed |
| report.html | the report, once it was asked for |
| source.pack, code.patch | the code: the commit, and what was uncommitted |
| 2...Z-NAME-xxxxxx/ | one folder for each run, with a README.md of its own |"""
