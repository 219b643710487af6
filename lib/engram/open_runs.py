"""Which runs and grids of a root have not ended: the next command of any kind finds the dead.

One empty file stands for each of them: EXPERIMENT:RUN, or GRID: for a grid itself.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engram.paths import GridPaths, RootPaths, RunPaths

__all__ = [
    "closed",
    "grid_closed",
    "grid_opened",
    "opened",
    "reconcile_known",
    "reconcile_others",
]


def opened(root: RootPaths, paths: RunPaths) -> None:
    """Mark a run that begins; called before its record is born."""
    root.open_runs.mkdir(parents=True, exist_ok=True)
    (root.open_runs / f"{paths.folder.parent.name}:{paths.run_id}").touch()


def closed(root: RootPaths, paths: RunPaths) -> None:
    """Take the mark away: the record says how the run ended."""
    (root.open_runs / f"{paths.folder.parent.name}:{paths.run_id}").unlink(missing_ok=True)


def grid_opened(root: RootPaths, paths: GridPaths) -> None:
    """Mark a grid that begins, or goes on; called before its record is born."""
    root.open_runs.mkdir(parents=True, exist_ok=True)
    (root.open_runs / f"{paths.grid_id}:").touch()


def grid_closed(root: RootPaths, paths: GridPaths) -> None:
    """Take the mark away: the record says how the grid ended."""
    (root.open_runs / f"{paths.grid_id}:").unlink(missing_ok=True)


def reconcile_known(start: Path) -> None:
    """Give the runs of every run root that is known from here their true states."""
    from engram.paths import RootPaths
    from engram.roots import known

    for folder in known(start):
        reconcile_others(RootPaths(folder))


def reconcile_others(root: RootPaths, own: RunPaths | None = None) -> None:
    """Give every marked run, and every marked grid, its true state; free when none else is open.

    Args:
        root: the run root.
        own: the run that asks, which is alive.
    """
    try:
        marks = os.listdir(root.open_runs)  # noqa: PTH208
    except OSError:
        return
    others = [name for name in marks if own is None or not name.endswith(f":{own.run_id}")]
    # A grid has ended when its runs have.
    for name in sorted(others, key=lambda name: name.endswith(":")):
        place, _, run_id = name.rpartition(":")
        if run_id:
            _run(root, root.run(place, run_id))
        elif place:
            _grid(root, root.grid(place))


def _run(root: RootPaths, paths: RunPaths) -> None:
    """Give a marked run its true state."""
    from engram.errors import RunnerError
    from engram.index import Index
    from engram.reconcile import reconcile, unborn
    from engram.record import ENDED

    try:
        ended = reconcile(paths)["state"] in ENDED
    except RunnerError:
        # No record: it was deleted, is just being made, or was never born.
        ended = not paths.folder.exists() or unborn(paths)[0] in ENDED
    if ended:
        # A root that cannot be written keeps its marks.
        with contextlib.suppress(OSError, RunnerError):
            closed(root, paths)
            if paths.folder.exists():
                Index(root).note(paths.folder)


def _grid(root: RootPaths, paths: GridPaths) -> None:
    """Give a marked grid its true state."""
    from engram.errors import RunnerError
    from engram.grid import record as grids

    try:
        ended = grids.reconcile(paths)["state"] in grids.ENDED
    except RunnerError:
        ended = not paths.folder.exists() or grids.standing(paths, None) == "dead"
    if ended:
        with contextlib.suppress(OSError):
            grid_closed(root, paths)
