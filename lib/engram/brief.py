"""A run in brief: what a list shows and filters, drawn from its folder."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from engram import record as records
from engram.errors import RunnerError, RunNotFoundError, StoreError
from engram.reconcile import reconcile, unborn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.paths import RunPaths

__all__ = ["UNREADABLE", "facts", "of_record", "read", "state"]

# Shown as the state of a folder whose record cannot be read; no run is ever in it.
UNREADABLE = "unreadable"
Fact = tuple[str, int | float | None, str]


def read(paths: RunPaths) -> dict[str, Any] | None:
    """Draw the brief of one run from its folder; a run whose runner is dead is ended on the way.

    Args:
        paths: the run's folder.

    Returns:
        The brief, or None when the folder is gone or is not a run's.
    """
    try:
        record = reconcile(paths)
    except RunNotFoundError:
        if not paths.folder.is_dir() or not records.RUN_ID.fullmatch(paths.run_id):
            return None
        return _without_record(paths)
    except StoreError as error:
        return {**_empty(paths), "state": UNREADABLE, "cause": str(error)}
    return of_record(record, parameters(paths))


def state(paths: RunPaths) -> str | None:
    """The state of a run now, told from its folder; None when it is gone."""
    try:
        return str(reconcile(paths)["state"])
    except RunNotFoundError:
        return unborn(paths)[0] if paths.folder.is_dir() else None
    except StoreError:
        return UNREADABLE


def of_record(record: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The brief of a record and its parameters."""
    code, times, usage = record.get("code") or {}, record["times"], record.get("usage") or {}
    parents = record.get("parents") or {}
    found = record.get("findings") or []
    place, devices = record.get("grid") or {}, record.get("devices") or {}
    return {
        "run_id": record["run_id"],
        "experiment": record.get("experiment") or "",
        "state": record["state"],
        "cause": (record.get("exit") or {}).get("cause"),
        "created": times.get("created"),
        "started": times.get("started"),
        "ended": times.get("ended"),
        "run_s": times.get("run_s"),
        "total_s": times.get("total_s"),
        "max_rss_bytes": usage.get("max_rss_bytes"),
        "seed": record.get("seed"),
        "commit": code.get("commit"),
        "branch": code.get("branch"),
        "dirty": code.get("dirty"),
        "live": code.get("live"),
        "host": record.get("host"),
        "user": record.get("user"),
        "grid": place.get("id"),
        "point": place.get("point"),
        "index": place.get("index"),
        "attempt": place.get("attempt"),
        "pruned": bool(record.get("pruned")),
        "devices": list(devices.get("labels") or []),
        "parameters": values,
        "summary": record.get("summary") or {},
        "tags": list(record.get("tags") or []),
        "pinned": bool(record.get("pinned")),
        "findings": [[item.get("severity"), item.get("code")] for item in found],
        "verdict": (record.get("comparison") or {}).get("verdict"),
        "resumed_from": (parents.get("resumed_from") or {}).get("run"),
        "rerun_of": (parents.get("rerun_of") or {}).get("run"),
        "input_runs": [item["run"] for item in record.get("inputs") or [] if item.get("run")],
    }


def parameters(paths: RunPaths) -> dict[str, Any]:
    """The parameters in a run folder; none when the file is missing or was damaged since."""
    from engram import toml

    try:
        return toml.read(paths.parameters)[1]
    except (OSError, RunnerError):
        return {}


def when(brief: dict[str, Any]) -> str:
    """The time that orders runs: when it started, or was made when it never did."""
    return str(brief["started"] or brief["created"] or "")


def facts(brief: dict[str, Any]) -> Iterator[Fact]:
    """Everything one can filter and sort by.

    Yields:
        (key, number or None, text): nested parameters as param.a.b; each item of a list by itself.
    """
    for key, name in COLUMNS.items():
        yield from _fact(key, brief.get(name))
    for severity, code in brief.get("findings", ()):
        yield from _fact("finding", code)
        yield from _fact("severity", severity)
    yield from _nested("param", brief.get("parameters") or {})
    yield from _nested("summary", brief.get("summary") or {})


# What a person types -> the key of the brief.
COLUMNS = {
    "id": "run_id",
    "state": "state",
    "experiment": "experiment",
    "name": "experiment",
    "cause": "cause",
    "created": "created",
    "started": "started",
    "ended": "ended",
    "run_s": "run_s",
    "total_s": "total_s",
    "max_rss_bytes": "max_rss_bytes",
    "seed": "seed",
    "commit": "commit",
    "branch": "branch",
    "dirty": "dirty",
    "live": "live",
    "host": "host",
    "user": "user",
    "grid": "grid",
    "point": "point",
    "index": "index",
    "attempt": "attempt",
    "pruned": "pruned",
    "device": "devices",
    "tag": "tags",
    "pinned": "pinned",
    "verdict": "verdict",
    "resumed_from": "resumed_from",
    "rerun_of": "rerun_of",
    "input_run": "input_runs",
}


def _nested(prefix: str, values: dict[str, Any]) -> Iterator[Fact]:
    """Facts of a table and of the tables in it."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _nested(f"{prefix}.{key}", value)
        else:
            yield from _fact(f"{prefix}.{key}", value)


def _fact(key: str, value: Any) -> Iterator[Fact]:  # noqa: ANN401
    """One fact; nothing for None, one for each item of a list of plain values."""
    if value is None:
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _fact(key, item)
    elif isinstance(value, dict):
        yield from _nested(key, value)
    else:
        yield key, number_of(value), text_of(value)


def number_of(value: Any) -> int | float | None:  # noqa: ANN401
    """A value as SQLite compares numbers; None for what is none, and for nan."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else _huge(value)
    return None if math.isnan(value) else value


def _huge(value: int) -> float:
    """An integer beyond 64 bits, as near as a float comes."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def text_of(value: Any) -> str:  # noqa: ANN401
    """A value as a person would write it in a filter."""
    if isinstance(value, bool):
        return "true" if value else "false"
    isoformat = getattr(value, "isoformat", None)
    return str(isoformat() if isoformat else value)


def _empty(paths: RunPaths) -> dict[str, Any]:
    """The brief of a folder of which only the name can be read."""
    run_id, grid = paths.run_id, _grid_around(paths)
    created = None
    if records.RUN_ID.fullmatch(run_id):
        day, clock = run_id[:8], run_id[9:19]
        created = f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}000+00:00"
    return {
        **dict.fromkeys(COLUMNS.values()),
        "run_id": run_id,
        "experiment": grid.get("experiment") or paths.folder.parent.name,
        "grid": grid.get("grid_id"),
        "created": created,
        "pruned": False,
        "devices": [],
        "parameters": {},
        "summary": {},
        "tags": [],
        "pinned": False,
        "findings": [],
        "input_runs": [],
    }


def _grid_around(paths: RunPaths) -> dict[str, Any]:
    """The record of the grid that a run lies in; empty when it is in none, or in a damaged one."""
    from engram.grid import record as grids
    from engram.paths import GridPaths

    with contextlib.suppress(RunnerError):
        return grids.load(GridPaths(paths.folder.parent))
    return {}


def _without_record(paths: RunPaths) -> dict[str, Any]:
    """The brief of a folder whose record was never born, or is about to be."""
    found, cause = unborn(paths)
    return {**_empty(paths), "state": found, "cause": cause}
