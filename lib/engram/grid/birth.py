"""A grid's folder and its first record; and taking one over that has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import __version__, files, folder, lease, open_runs
from engram import record as runs
from engram.config import resolved
from engram.grid import growth
from engram.grid import record as records
from engram.grid.points import Points
from engram.manifest import hash_file
from engram.paths import RootPaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engram.grid.draw import Drawn
    from engram.grid.ready import Ready
    from engram.paths import GridPaths

__all__ = ["Grid", "create", "open_again"]


class Grid(NamedTuple):
    """A grid that has its folder and its record."""

    paths: GridPaths
    points: Points
    seed: int
    lease: lease.Lease


def create(ready: Ready, drawn: Drawn, argv: Sequence[str], *, rerun_of: str | None = None) -> Grid:
    """Give a new grid its folder and its record.

    Args:
        ready: what its points share.
        drawn: its points; their file is moved into the folder.
        argv: the arguments as given.
        rerun_of: the grid whose points are repeated.

    Raises:
        StoreError: the run root cannot be written.
    """
    run = ready.run
    root = RootPaths(run.root.folder)
    with contextlib.ExitStack() as undo:
        undo.callback(ready.close)
        paths = records.new_grid_folder(root.folder, run.config.name)
        undo.callback(shutil.rmtree, paths.folder, ignore_errors=True)
        held = lease.Lease.acquire(paths.lease)
        with store_errors(paths):
            open_runs.grid_opened(root, paths)
            undo.callback(open_runs.grid_closed, root, paths)
            folder.take_reserve(paths)
            seed = run.config.seed
            seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
            keep(ready, drawn, paths)
            points = Points(paths.points)
            record = first_record(ready, drawn, points, argv, paths)
            records.create(paths, {**record, "seed": seed, "parents": {"rerun_of": rerun_of}})
        undo.pop_all()
    return Grid(paths, points, seed, held)


@contextlib.contextmanager
def store_errors(paths: GridPaths) -> Iterator[None]:
    """Say of a grid's folder what the file system says of a file in it."""
    try:
        yield
    except OSError as error:
        raise runs.store_error(paths.folder, error) from error


def keep(ready: Ready, drawn: Drawn, paths: GridPaths) -> None:
    """Put what the points are made of into the grid's folder."""
    run = ready.run
    shutil.move(drawn.points.path, paths.points)
    if drawn.source.kind == "file":
        files.write_atomic(paths.grid_file, drawn.source.data)
    files.write_atomic(paths.experiment, resolved(run.config, run.inputs).encode())
    files.write_atomic(paths.parameters, run.parameters.data)
    if run.patch is not None:
        files.write_atomic(paths.patch, run.patch)
    if run.snapshot is not None:
        files.link_or_copy(run.root.source(run.snapshot.commit), paths.source)


def first_record(
    ready: Ready, drawn: Drawn, points: Points, argv: Sequence[str], paths: GridPaths
) -> dict[str, Any]:
    """The record of a grid at its birth."""
    run, config = ready.run, ready.run.config
    identity = lease.process_identity()
    source = drawn.source
    return {
        "schema_version": runs.SCHEMA_VERSION,
        "engram": {"version": __version__},
        "grid_id": paths.folder.name,
        "experiment": config.name,
        "description": config.description,
        "state": "created",
        "cause": None,
        "argv": list(argv),
        "script": {"path": config.script, "blob": run.script_blob},
        "code": {
            **run.code,
            "source_sha256": run.source_sha256,
            "patch_sha256": hash_file(paths.patch) if paths.patch.exists() else None,
        },
        "repository": {"root": str(config.root)},
        "source": {"kind": source.kind, "path": str(source.path), "sha256": source.sha256},
        "hashes": {
            "grid_file": hash_file(paths.grid_file) if paths.grid_file.exists() else None,
            "experiment": hash_file(paths.experiment),
            "parameters": hash_file(paths.parameters),
            "points": None if drawn.grows else hash_file(paths.points),
        },
        "inputs": [item.as_json() for item in run.inputs],
        "overrides": {
            "parameters": list(run.request.set_parameters),
            "experiment": list(run.request.set_config),
        },
        "varying": list(points.varying),
        "points": len(points),
        "counts": {"pending": len(points)},
        "devices": sorted({slot.label for slot in ready.slots}),
        "slots": len(ready.slots),
        "options": ready.settings.as_json(),
        "timeout_s": config.timeout_s,
        "warm": {"used": ready.warm is not None, "why_not": ready.why_cold},
        "host": identity["host"],
        "user": identity["user"],
        "lease": identity,
        "times": {"created": runs.now_utc(), "started": None, "ended": None, "run_s": None},
        "sessions": [{"argv": list(argv), "began": runs.now_utc(), "ended": None, "cause": None}],
        "search": growth.as_json(drawn, config.grid),
        "best": None,
        "reruns": [],
        "tags": [],
        "notes": [{"when": runs.now_utc(), "text": drawn.remark}] if drawn.remark else [],
        "pinned": False,
    }


def open_again(ready: Ready, paths: GridPaths, record: dict[str, Any], argv: Sequence[str]) -> Grid:
    """Take over a grid that has ended, to run what is left of it.

    Raises:
        StoreError: somebody else has just done so, or the folder cannot be written.
    """
    session = {"argv": list(argv), "began": runs.now_utc(), "ended": None, "cause": None}
    with contextlib.ExitStack() as undo:
        undo.callback(ready.close)
        held = lease.Lease.acquire(paths.lease, patience_s=0.0)
        with store_errors(paths):
            open_runs.grid_opened(RootPaths(paths.folder.parent), paths)
            folder.take_reserve(paths)
        sessions = [*record["sessions"], session]
        records.change(paths, lease=lease.process_identity(), sessions=sessions, cause=None)
        undo.pop_all()
    return Grid(paths, Points(paths.points), record["seed"], held)
