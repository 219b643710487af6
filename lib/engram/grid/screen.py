"""One grid on one screen."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from engram.grid import record as records
from engram.grid.attempts import attempts, last
from engram.grid.readme import counted
from engram.readme import command
from engram.record import plain
from engram.show import Lines, block, lay_out, listed
from engram.table import age, duration, epoch

if TYPE_CHECKING:
    from engram.paths import GridPaths

__all__ = ["as_json", "screen"]


def screen(paths: GridPaths) -> str:
    """One grid as text, from what it is to what to do next.

    Args:
        paths: the grid's folder.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read.
    """
    record = records.reconcile(paths)
    lines: Lines = [("grid", record["grid_id"]), ("", str(paths.folder))]
    lines += _what(record, paths)
    lines += _when(record)
    lines += _code(record)
    lines += block("varies", [str(key) for key in record["varying"]], "points.jsonl")
    lines += _failures(record, paths)
    lines += _people(record)
    lines += _next(record)
    return lay_out(lines)


def as_json(paths: GridPaths) -> str:
    """The record as it stands, with the grid's folder."""
    shown = {"folder": str(paths.folder), **records.reconcile(paths)}
    return json.dumps(plain(shown), indent=2, ensure_ascii=False, default=str)


def _what(record: dict[str, Any], paths: GridPaths) -> Lines:
    """Experiment, state, points."""
    state = records.whereabouts(paths, record) or record["state"]
    cause = record.get("cause") if record["state"] not in ("completed", "running") else None
    source, said = record.get("source") or {}, record.get("description")
    return [
        ("experiment", (record.get("experiment") or "") + (f": {said}" if said else "")),
        ("state", state + (f": {cause}" if cause else "")),
        ("points", f"{counted(record)}; from {source.get('path')}"),
    ]


def _when(record: dict[str, Any]) -> Lines:
    """When, how long, where."""
    times, warm = record["times"], record.get("warm") or {}
    started = times.get("started") or times.get("created") or ""
    began, took = epoch(started), times.get("run_s")
    spent = f"took {duration(took)}" if took is not None else ""
    if record["state"] == "running" and began is not None:
        spent = f"{age(time.time() - began)} so far"
    sessions = len(record.get("sessions") or ())
    resumed = f"{sessions} sessions" if sessions > 1 else None
    devices = listed(record.get("devices") or ())
    slots = record.get("slots")
    return [
        ("when", listed((started.replace("T", " ")[:19] + " UTC", spent, resumed))),
        ("where", listed((f"{record.get('user')}@{record.get('host')}", devices))),
        ("slots", f"{slots}, {'warm' if warm.get('used') else 'an interpreter for every point'}"),
    ]


def _code(record: dict[str, Any]) -> Lines:
    """Script, commit, seed."""
    code = record.get("code") or {}
    kind = listed((code.get("branch") or "detached", "dirty" if code.get("dirty") else None))
    return [
        ("script", (record.get("script") or {}).get("path") or ""),
        ("commit", f"{code.get('commit')} ({kind})"),
        ("seed", str(record.get("seed"))),
    ]


def _failures(record: dict[str, Any], paths: GridPaths) -> Lines:
    """The points that ended otherwise than they should."""
    counts = record["counts"]
    if not sum(counts.values()) - counts.get("completed", 0) - counts.get("pending", 0):
        return []
    texts = []
    for _, tried in sorted(attempts(paths).items()):
        run = last(tried)
        if run.ended and not run.completed:
            cause = (run.record.get("exit") or {}).get("cause") or ""
            texts.append(f"{run.point}: {run.record['state']}: {cause} ({run.paths.run_id})")
    return block("failures", texts, "points.csv")


def _people(record: dict[str, Any]) -> Lines:
    """Edges, tags and notes."""
    parent = (record.get("parents") or {}).get("rerun_of")
    lines = [("rerun of", parent)] if isinstance(parent, str) else []
    if record.get("tags") or record.get("pinned"):
        lines.append(("tags", listed([*record["tags"], "pinned" if record["pinned"] else None])))
    return lines + block("notes", [item["text"] for item in record.get("notes") or ()], "grid.json")


def _next(record: dict[str, Any]) -> Lines:
    """What to type next."""
    call, grid = command(record), record["grid_id"]
    steps = [f"{call} list --grid {grid}", f"{call} report {grid}"]
    if record["state"] in records.ENDED:
        way = "--rerun" if record["state"] == "completed" else "--resume"
        steps.insert(0, f"{call} --grid {way} {grid}")
    return block("next", steps, "")
