"""grid.json, the record of a grid: its atomic writes, its states, and its true end."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import lease
from engram import record as runs
from engram.errors import RunnerError, RunNotFoundError, StoreError
from engram.files import write_json
from engram.folder import release_reserve
from engram.locks import locked
from engram.paths import GridPaths
from engram.reconcile import REBOOTED, SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO

    from engram.grid.attempts import Attempt

__all__ = [
    "ENDED",
    "STATES",
    "annotate",
    "change",
    "create",
    "load",
    "new_grid_folder",
    "reconcile",
    "record_sha256",
    "standing",
    "whereabouts",
]

STATES = tuple(state for state in runs.STATES if state != "timed_out")
ENDED = frozenset(STATES[2:])
# One that has ended runs again when it is resumed.
NEXT = {"created": ENDED | {"running"}, "running": ENDED, **dict.fromkeys(ENDED, {"running"})}
FIXED = ("schema_version", "grid_id", "record_sha256", *runs.MUTABLE)
TIMES = ("created", "started", "ended", "run_s")
NEEDED = ("schema_version", "grid_id", "state", "times", "points", "counts", "varying")

record_sha256 = runs.record_sha256


def new_grid_folder(root: Path, name: str) -> GridPaths:
    """Make the folder of a new grid; mkdir is the lock that makes it this grid's alone.

    Args:
        root: the run root; made when it is missing.
        name: of the experiment.

    Returns:
        The paths of ROOT/20261121T070000.123Z-slug-grid-3f2a9c, with nothing but .grid/ in it.

    Raises:
        StoreError: the root cannot be written.
    """
    title = runs.slug(name)[:35].rstrip("-") + "-grid"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for _ in range(1000):
            with contextlib.suppress(FileExistsError):
                paths = GridPaths(root / runs.new_run_id(title))
                paths.folder.mkdir()
                paths.private.mkdir()
                return paths
    except OSError as error:
        raise runs.store_error(root, error) from error
    msg = f"no unused grid id found in {str(root)!r}: is its file system in order?"
    raise StoreError(msg)


def create(paths: GridPaths, record: dict[str, Any]) -> dict[str, Any]:
    """Write the first record of a grid, in the state `created`.

    Args:
        paths: the grid's folder, without a record yet.
        record: all keys but record_sha256.

    Returns:
        The record as written.

    Raises:
        StoreError: the folder cannot be written, or already has a record.
    """
    if record["state"] != "created":
        msg = f"a record is born in the state 'created', not {record['state']!r}"
        raise ValueError(msg)
    if paths.record.exists():
        msg = f"{str(paths.record)!r} exists already: resume that grid, or make another"
        raise StoreError(msg)
    return _write(paths, dict(record), sync=False)


def change(
    paths: GridPaths,
    *,
    state: str | None = None,
    **fields: Any,  # noqa: ANN401 - whatever JSON can hold
) -> dict[str, Any]:
    """Change the record; the one function through which the state of a grid changes.

    Args:
        paths: the grid's folder.
        state: the next state, or None to keep it. `running` fills in times.started, where it is
            missing, and takes times.ended back; an ended state sets times.ended.
        **fields: keys of the record with their new values; started, ended and run_s go to `times`.

    Returns:
        The record as written.

    Raises:
        ValueError: the step from state to state is not legal, or a key is unknown or fixed. A bug
            of the caller.
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read or written.
    """
    with _record_locked(paths):
        record = load(paths)
        _check_change(record, state, fields)
        times = {**record["times"], **fields.pop("times", {})}
        if state == "running":
            times.update(started=times["started"] or runs.now_utc(), ended=None)
        elif state in ENDED:
            times["ended"] = runs.now_utc()
        times.update({key: fields.pop(key) for key in TIMES if key in fields})
        record.update(fields, state=state or record["state"], times=times)
        return _write(paths, record, sync=state in ENDED)


def _check_change(record: dict[str, Any], state: str | None, fields: dict[str, Any]) -> None:
    """Refuse steps a grid cannot take and keys a record does not have."""
    now = record["state"]
    if state is not None and state not in NEXT.get(now, ()):
        msg = f"a grid cannot go from {now!r} to {state!r}"
        raise ValueError(msg)
    unknown = [key for key in fields if key not in record and key not in TIMES]
    fixed = [key for key in fields if key in FIXED]
    if unknown or fixed:
        msg = f"grid {record['grid_id']} ({now}): unknown keys {unknown}, fixed keys {fixed}"
        raise ValueError(msg)


def annotate(
    paths: GridPaths,
    *,
    rerun: dict[str, Any] | None = None,
    tags: Sequence[str] = (),
    untag: Sequence[str] = (),
    note: str | None = None,
    pinned: bool | None = None,
) -> dict[str, Any]:
    """Add to what may change at any time, as `engram.record.annotate` does for a run.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read or written.
    """
    with _record_locked(paths):
        record = load(paths)
        record |= runs.annotated(
            record, rerun=rerun, tags=tags, untag=untag, note=note, pinned=pinned
        )
        return _write(paths, record, sync=True)


def load(paths: GridPaths) -> dict[str, Any]:
    """Read the record of a grid.

    Raises:
        RunNotFoundError: there is no folder, or it holds no record.
        StoreError: the record cannot be read, is not a record, or was written by a newer engram.
    """
    where = str(paths.record)
    try:
        record = json.loads(paths.record.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunNotFoundError(_missing(paths)) from error
    except (OSError, ValueError) as error:
        msg = f"the record {where!r} cannot be read: {error}"
        raise StoreError(msg) from error
    if not isinstance(record, dict) or any(key not in record for key in NEEDED):
        msg = f"{where!r} is not a grid's record: it lacks one of {', '.join(NEEDED)}"
        raise StoreError(msg)
    version = record["schema_version"]
    if not isinstance(version, int) or version > runs.SCHEMA_VERSION:
        msg = (
            f"{where!r} has schema_version {version!r}; this engram reads up to "
            f"{runs.SCHEMA_VERSION}: use a newer engram"
        )
        raise StoreError(msg)
    return record


def _missing(paths: GridPaths) -> str:
    """Say why there is no record at this place."""
    if paths.folder.is_dir():
        return (
            f"{str(paths.folder)!r} holds no {paths.record.name}: it is not a grid, or one that "
            "was killed before its record was born"
        )
    return f"there is no grid folder {str(paths.folder)!r}"


def standing(paths: GridPaths, record: dict[str, Any] | None) -> lease.Standing:
    """Say whether the dispatcher of a grid is `alive`, `dead` or `elsewhere`.

    Args:
        paths: the grid's folder.
        record: its record; None where it has none.
    """
    return lease.standing(paths.lease, record.get("lease") if record else None)


def whereabouts(paths: GridPaths, record: dict[str, Any]) -> str | None:
    """Say where a grid that has not ended is believed to run; None where that is plain."""
    if record["state"] in ENDED or standing(paths, record) != "elsewhere":
        return None
    from engram.table import age

    host = (record.get("lease") or {}).get("host") or record.get("host") or "another host"
    return f"running on {host}, last sign of life {age(time.time() - _last_sign(paths))} ago"


def reconcile(paths: GridPaths) -> dict[str, Any]:
    """Read a record, and end it as `killed` when the dispatcher and all its runs are over.

    Its runs are given their true states first. One of them may still be ending, or go on on another
    machine: then the grid is left as it is. When the folder cannot be written, the state is right
    in what is returned, and stays as it was on the disk.

    Returns:
        The record.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read.
    """
    record = load(paths)
    if record["state"] in ENDED or standing(paths, record) != "dead":
        return record
    from engram.grid.attempts import attempts, last

    tried = attempts(paths)
    if not all(item.ended for items in tried.values() for item in items):
        return record
    release_reserve(paths)
    final = _epitaph(paths, record, [last(items) for items in tried.values()])
    try:
        record = change(paths, state="killed", **final)
    except ValueError:
        return load(paths)  # another process was faster
    except StoreError:
        times = {**record["times"], "ended": final.pop("ended"), "run_s": final.pop("run_s")}
        return {**record, **final, "state": "killed", "times": times}
    _bring_up_to_date(paths, record)
    return record


def _epitaph(paths: GridPaths, record: dict[str, Any], tried: list[Attempt]) -> dict[str, Any]:
    """What the record of a dead dispatcher says about the end."""
    from collections import Counter

    from engram.table import epoch

    then, now = (record.get("lease") or {}).get("boot_id"), lease.process_identity()["boot_id"]
    cause = REBOOTED if then and now and then != now else SILENT
    ends = [epoch(item.record["times"]["ended"]) or 0.0 for item in tried]
    ended = max(_last_sign(paths), *ends, 0.0)
    sessions = list(record.get("sessions") or ())
    began = epoch(record["times"]["started"] or record["times"]["created"]) or ended
    if sessions:
        began = epoch(sessions[-1]["began"]) or began
        sessions[-1] = {**sessions[-1], "ended": runs.iso_utc(ended), "cause": cause}
    counts = dict(Counter(item.record["state"] for item in tried))
    pending = max(0, record["points"] - sum(counts.values()))
    return {
        "cause": cause,
        "sessions": sessions,
        "counts": {**counts, "pending": pending},
        "ended": runs.iso_utc(ended),
        "run_s": (record["times"]["run_s"] or 0.0) + max(0.0, ended - began),
    }


def _last_sign(paths: GridPaths) -> float:
    """When the dispatcher last wrote anything, in epoch seconds."""
    stamps = [0.0]
    for path in (paths.record, paths.table, paths.private):
        with contextlib.suppress(OSError):
            stamps.append(path.stat().st_mtime)
    return max(stamps)


def _bring_up_to_date(paths: GridPaths, record: dict[str, Any]) -> None:
    """Tell people too; what cannot be written does not take the record with it."""
    from engram.grid.points import Points
    from engram.grid.points_table import PointsTable
    from engram.grid.readme import Readme

    with contextlib.suppress(RunnerError):
        table = PointsTable.open(paths, Points(paths.points))
        table.flush(force=True)
        Readme(paths).keep(record, table.rows)


def _write(paths: GridPaths, record: dict[str, Any], *, sync: bool) -> dict[str, Any]:
    """Write the record atomically, its own hash brought up to date."""
    record["record_sha256"] = record_sha256(record)
    try:
        write_json(paths.record, runs.plain(record), sync=sync)
    except OSError as error:
        raise runs.store_error(paths.record, error) from error
    return record


def _record_locked(paths: GridPaths) -> FileIO:
    """Take the lock under which a record is read, changed and replaced; see `locked`."""
    try:
        return locked(paths.record)
    except FileNotFoundError as error:
        raise RunNotFoundError(_missing(paths)) from error
    except OSError as error:
        raise runs.store_error(paths.record, error) from error
