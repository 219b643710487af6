"""The life of a grid: its folder, its slots, its dispatcher, and its end, whatever ends it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import __version__, errors, files, lease, open_runs
from engram import record as runs
from engram.config import resolved
from engram.grid import readme
from engram.grid import record as records
from engram.grid.dispatch import Dispatcher, Rules
from engram.grid.local import LocalEngine
from engram.grid.points import Points
from engram.grid.points_table import PointsTable
from engram.grid.prepare import Shared
from engram.grid.view import make_view
from engram.launch import say
from engram.manifest import hash_file
from engram.paths import RootPaths
from engram.program import program

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.grid.device_slots import Slot
    from engram.grid.draw import Drawn
    from engram.grid.engine import Task
    from engram.grid.settings import Settings
    from engram.grid.view import View
    from engram.paths import GridPaths
    from engram.request import Run
    from engram.warm import Warm

__all__ = ["Grid", "Ready", "create", "get_ready", "live", "open_again"]


class Ready(NamedTuple):
    """What a grid needs before it may begin to exist."""

    run: Run  # what all points share: code, inputs, configuration
    settings: Settings
    slots: list[Slot]
    remarks: list[str]  # what people should know about them
    warm: Warm | None
    why_cold: str | None


class Grid(NamedTuple):
    """A grid that has its folder and its record."""

    paths: GridPaths
    points: Points
    seed: int
    lease: lease.Lease


def get_ready(run: Run, settings: Settings) -> Ready:
    """Find the slots, and start the warm interpreter.

    Raises:
        DeviceError: the devices that were configured cannot be had.
        ConfigError: a module of PRELOAD cannot be imported.
    """
    asked = asked_threads(run)
    slots, remarks = settings.slots(asked or 1)
    environment = run.config.environment
    share = asked or max(1, environment.threads // len(slots))
    run.config = run.config._replace(
        environment=environment._replace(threads=share), engine=settings.engine
    )
    if settings.cold or True:
        return Ready(run, settings, slots, remarks, None, "--cold")
    from engram.warm import Warm

    warm = Warm.for_run(run, settings.preload)
    if warm.why_not is not None:
        warm.close()
        return Ready(run, settings, slots, remarks, None, warm.why_not)
    return Ready(run, settings, slots, remarks, warm, None)


def asked_threads(run: Run) -> int | None:
    """Threads of each point as somebody has configured them; else points share the processors."""
    from engram import toml

    source = run.config.source
    table = toml.read(source)[1].get("environment", {}) if source else {}
    asked = "threads" in table or any("environment.threads" in o for o in run.request.set_config)
    if asked or os.environ.get("OMP_NUM_THREADS"):
        return run.config.environment.threads
    return None


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
    paths = records.new_grid_folder(root.folder, run.config.name)
    held = lease.Lease.acquire(paths.lease)
    open_runs.grid_opened(root, paths)
    seed = run.config.seed
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    keep(ready, drawn, paths)
    points = Points(paths.points)
    record = first_record(ready, drawn, points, argv, paths)
    records.create(paths, {**record, "seed": seed, "parents": {"rerun_of": rerun_of}})
    return Grid(paths, points, seed, held)


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
        "code": {**run.code, "source_sha256": run.source_sha256},
        "repository": {"root": str(config.root)},
        "source": {"kind": source.kind, "path": str(source.path), "sha256": source.sha256},
        "hashes": {
            "grid_file": hash_file(paths.grid_file) if paths.grid_file.exists() else None,
            "experiment": hash_file(paths.experiment),
            "parameters": hash_file(paths.parameters),
            "points": hash_file(paths.points),
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
        "best": None,
        "reruns": [],
        "tags": [],
        "notes": [],
        "pinned": False,
    }


def open_again(paths: GridPaths, record: dict[str, Any], argv: Sequence[str]) -> Grid:
    """Take over a grid that has ended, to run what is left of it.

    Raises:
        StoreError: somebody else has just done so.
    """
    held = lease.Lease.acquire(paths.lease, patience_s=0.0)
    open_runs.grid_opened(RootPaths(paths.folder.parent), paths)
    session = {"argv": list(argv), "began": runs.now_utc(), "ended": None, "cause": None}
    records.change(
        paths, lease=lease.process_identity(), sessions=[*record["sessions"], session], cause=None
    )
    return Grid(paths, Points(paths.points), record["seed"], held)


def live(
    grid: Grid,
    ready: Ready,
    tasks: Sequence[Task],
    options: argparse.Namespace,
    argv: Sequence[str],
) -> int:
    """Run tasks to their end and bring the grid's folder up to date.

    Returns:
        The exit code.
    """
    paths, began = grid.paths, time.monotonic()
    record = records.change(paths, state="running")
    view = make_view()
    shared = Shared(ready.run, paths, grid.points, argv, grid.seed, ready.warm, options)
    table = PointsTable.open(paths, grid.points)
    dispatcher = None
    ending = ("failed", "the runner failed")
    try:
        packs = ready.settings.packs([slot.devices for slot in ready.slots if slot.devices])
        engine = LocalEngine(shared, ready.slots, most=len(tasks), packs=packs)
        dispatcher = Dispatcher(
            engine,
            tasks,
            points=grid.points,
            table=table,
            view=view,
            save=lambda counts: keep_counts(paths, counts),
            rules=Rules(ready.settings.retries, packs, ready.settings.fail_fast),
            counts=counts_but(table, {task.number for task in tasks}),
        )
        begin(view, ready, grid, len(tasks))
        dispatcher.run()
        ending = verdict(dispatcher, len(grid.points))
    except BaseException as error:
        ending = ("failed", f"the runner failed: {error!r}")
        raise
    finally:
        close(grid, ready, table, record, ending, began)
    view.finish(dict(dispatcher.counts), time.monotonic() - began, paths.folder)
    return last_words(dispatcher, paths, ending)


def begin(view: View, ready: Ready, grid: Grid, number: int) -> None:
    """Say what begins."""
    labels = [slot.label for slot in ready.slots[:number]]
    view.begin(len(grid.points), len(grid.points) - number, labels, grid.paths.folder)
    for remark in ready.remarks:
        view.note(remark)
    if ready.why_cold and not ready.settings.cold:
        view.note(f"cold, an interpreter for every point: {ready.why_cold}")


def counts_but(table: PointsTable, numbers: set[int]) -> dict[str, int]:
    """How the points of a table ended, but for those that run now."""
    return Counter(row["state"] for row in table.rows if row["index"] not in numbers)


def keep_counts(paths: GridPaths, counts: dict[str, int]) -> None:
    """Bring the counts in grid.json up to date."""
    records.change(paths, counts=counts)


def verdict(dispatcher: Dispatcher, number: int) -> tuple[str, str]:
    """The grid's state and its cause."""
    completed = dispatcher.counts["completed"]
    if dispatcher.interrupted_by is not None:
        name = signal.Signals(dispatcher.interrupted_by).name
        return "interrupted", f"the runner received {name}"
    if completed == number:
        return "completed", "every point completed"
    return "failed", f"{number - completed} of {number} points did not complete"


def close(
    grid: Grid,
    ready: Ready,
    table: PointsTable,
    record: dict[str, Any],
    ending: tuple[str, str],
    began: float,
) -> None:
    """Give back what the grid held and write its last record."""
    state, cause = ending
    if ready.warm is not None:
        ready.warm.close()
    table.finish()
    sessions = record["sessions"]
    sessions[-1] = {**sessions[-1], "ended": runs.now_utc(), "cause": cause}
    spent = (record["times"]["run_s"] or 0.0) + time.monotonic() - began
    final = records.change(grid.paths, state=state, cause=cause, sessions=sessions, run_s=spent)
    files.write_atomic(grid.paths.readme, readme.render(final, table.rows).encode())
    open_runs.grid_closed(RootPaths(grid.paths.folder.parent), grid.paths)
    grid.lease.release()


def last_words(dispatcher: Dispatcher, paths: GridPaths, ending: tuple[str, str]) -> int:
    """Say how to go on, and choose the exit code."""
    state, cause = ending
    name, verdicts = paths.folder.name, dispatcher.verdicts
    if state != "completed":
        say(f"{state}: {cause}")
        say(f"run what is left: {program()} --grid --resume {name}")
    if verdicts:
        said = ", ".join(f"{number} {text}" for text, number in sorted(verdicts.items()))
        say(f"compared with the original runs: {said}")
    say(f"look at it: {program()} list --grid {name}; {program()} report {name}")
    if state == "interrupted":
        pressed = dispatcher.interrupted_by == signal.SIGINT
        return errors.INTERRUPTED if pressed else errors.TERMINATED
    if state == "completed" and verdicts["different"]:
        return errors.DIFFERENT
    return errors.COMPLETED if state == "completed" else errors.INCOMPLETE
