"""One point of a grid in a process of its own: what engines on other machines start."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from engram import files
from engram.execute import walk
from engram.grid import record as records
from engram.grid.devices import BUS_ORDER, ORDER, VARIABLE
from engram.grid.elsewhere import heeding
from engram.grid.engine import Task
from engram.grid.points import Points
from engram.grid.prepare import Shared, point_run, prepared
from engram.launch import exit_code
from engram.paths import GridPaths
from engram.request import Devices

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.request import Run

__all__ = ["run_point"]


def run_point(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run one attempt at one point of a recorded grid, here and now.

    Args:
        options: `folder` of the grid, `index`, `attempt` and `earlier`, the run to go on from; and
            what `engram.rerun.repeat` asks for.
        argv: the arguments as given, for the record.

    Returns:
        The exit code of the run.
    """
    paths = GridPaths(Path(options.folder).absolute())
    record = records.load(paths)
    points = Points(paths.points)
    run = prepared(paths, record, options, argv)
    grows = record.get("search") is not None
    shared = Shared(run, paths, points, argv, record["seed"], None, options, grows)
    task = Task(
        options.number,
        points.names[options.number],
        options.attempt,
        earlier=options.earlier,
        original=options.original,
        alone=options.alone,
    )
    point, steps = point_run(shared, task, devices_here())

    def tell(run: Run) -> None:
        paths.attempts.mkdir(exist_ok=True)
        files.write_atomic(paths.attempt(task.number, task.attempt), run.paths.run_id.encode())

    searched = bool(record.get("search"))
    with heeding(point, paths.attempts, task) if searched else contextlib.nullcontext():
        walk(point, steps, tell)
    return exit_code(point)


def devices_here() -> Devices | None:
    """The devices that whoever started us has chosen: the script gets them, as on one machine."""
    visible = os.environ.pop(VARIABLE, None)
    if visible is None:
        return None
    names = tuple(name for name in visible.split(",") if name)
    counted = ORDER not in os.environ and any(name.isdigit() for name in names)
    environ = {VARIABLE: visible, **({ORDER: BUS_ORDER} if counted else {})}
    return Devices(visible, tuple(f"gpu {name}" for name in names), names, environ)
