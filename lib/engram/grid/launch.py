"""From parsed options to a finished grid: a new one, one that goes on, or one that is repeated."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engram import errors, toml
from engram import record as runs
from engram.execute import one_interrupt, walk
from engram.grid import growth, values
from engram.grid import record as records
from engram.grid.attempts import attempts, last
from engram.grid.birth import create, open_again
from engram.grid.draw import Drawn, Source, draw
from engram.grid.engine import Task
from engram.grid.find import find_grid
from engram.grid.interrupts import Interrupts
from engram.grid.life import live
from engram.grid.points import Points
from engram.grid.prepare import keep_source, nothing, prepared
from engram.grid.readme import counted
from engram.grid.ready import get_ready
from engram.grid.settings import Settings
from engram.launch import default_experiment, say
from engram.locks import cut_torn_line
from engram.overrides import suggestion
from engram.repository import find_root
from engram.request import Run, asked
from engram.spawn import claim_standard_descriptors
from engram.workflow import check_inputs, look_at_code, read_request, take_code

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import Any

    from engram.paths import GridPaths

__all__ = ["launch"]

GRID_FILE = "run_grid_search.py"


def launch(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run, continue or repeat a grid and report it.

    Args:
        options: as `engram.cli.grid_parser` makes them.
        argv: the arguments as given, for the record.

    Returns:
        The exit code: COMPLETED only when every point completed.
    """
    claim_standard_descriptors()
    with one_interrupt(), Interrupts() as interrupts:
        if options.resume:
            return resume(options, argv, interrupts)
        if options.rerun:
            return rerun(options, argv, interrupts)
        return fresh(options, argv, interrupts)


def fresh(options: argparse.Namespace, argv: Sequence[str], interrupts: Interrupts) -> int:
    """Draw the points of a new grid and run them."""
    named, experiment = sort_files(options.files)
    request = asked(options, argv, experiment=experiment, root=find_root(experiment.parent))
    run = Run(request)
    with tempfile.TemporaryDirectory(prefix="engram-grid-") as scratch:
        drawn: list[Drawn] = []

        def draw_points(run: Run) -> None:
            drawn.append(points_of(named, run, Path(scratch) / "points.jsonl"))

        walk(run, (read_request, look_at_code, draw_points, check_inputs), nothing)
        settings = Settings.of(run.config, drawn[0], options)
        for remark in new_keys(drawn[0], run.parameters.values):
            say(f"warning: {remark}")
        if options.dry_run:
            print("\n".join(plan(run, drawn[0])))
            return errors.COMPLETED
        walk(run, (take_code, keep_source), nothing)
        chosen = settled(run, drawn[0], options.sweep)
        ready = get_ready(run, settings)
        interrupts.hold()
        grid = create(ready, chosen, argv)
    tasks = [Task(*item) for item in enumerate(grid.points.names)]
    return live(grid, ready, tasks, options, argv, interrupts)


def settled(run: Run, drawn: Drawn, asked: str | None) -> Drawn:
    """Have the W&B sweep ready that the points come from, where they come from one."""
    if asked is None and (drawn.search is None or drawn.search.table.get("search") != "wandb"):
        return drawn  # nothing of sweeps is imported
    from engram.grid.sweep import settle

    return settle(run, drawn, asked)


def sort_files(names: Sequence[str]) -> tuple[Path | None, Path]:
    """Tell the grid file from the experiment file among the names given.

    Returns:
        The grid file, None where none is named, and the experiment file.

    Raises:
        ConfigError: two of a kind, something else, or a file that is not there.
    """
    found: dict[str, Path] = {}
    for name in names:
        path = Path(os.path.abspath(name))  # noqa: PTH100 - resolve() would follow links
        if path.suffix not in (".py", ".toml") or path.suffix in found:
            msg = (
                f"--grid takes a grid file (.py) and an experiment file (.toml): what is {name!r}?"
            )
            raise errors.ConfigError(msg)
        if not path.is_file():
            msg = f"there is no file {str(path)!r}: name an existing one"
            raise errors.ConfigError(msg)
        found[path.suffix] = path
    return found.get(".py"), found.get(".toml") or default_experiment()


def points_of(named: Path | None, run: Run, into: Path) -> Drawn:
    """Draw from the file that was named, else from the [grid] table, else from the default file."""
    grid_file = named
    table = run.config.grid
    if named is None and (table is None or not (table.has_points or table.search)):
        root = run.config.root
        places = [root / "workspace" / GRID_FILE, root / GRID_FILE]
        grid_file = next((path for path in places if path.is_file()), None)
        if grid_file is None:
            msg = (
                f"what grid? name a grid file, write a [grid] table in {str(run.config.source)!r}, "
                f"or make {str(places[0])!r}"
            )
            raise errors.ConfigError(msg)
    return draw(grid_file, run.config, run.parameters.values, into)


def new_keys(drawn: Drawn, base: dict[str, Any]) -> Iterator[str]:
    """Keys that a grid file varies and the experiment lacks: new ones, or slips of the pen.

    In a [grid] table such a key is refused, unless a plus sign says that it is new.
    """
    if drawn.source.kind == "file":
        known = [key for key, _ in values.cells(base)]
        for key in drawn.points.varying:
            if key not in known:
                meant = suggestion(key, known)
                yield f"the parameters have no {key!r}, which this grid varies{meant}"


def plan(run: Run, drawn: Drawn) -> Iterator[str]:
    """What would run, for --dry-run."""
    points = drawn.points
    if drawn.grows:
        most = f"up to {drawn.search.trials} points" if drawn.search else "points"
        yield f"# {most} of {drawn.source.path}, chosen while others run"
        yield f"# code: {run.code['snapshot_commit']}"
        return
    yield f"# {len(points)} points of {drawn.source.path}, varying {', '.join(points.varying)}"
    yield f"# code: {run.code['snapshot_commit']}"
    yield from points.names


def resume(options: argparse.Namespace, argv: Sequence[str], interrupts: Interrupts) -> int:
    """Run what did not complete, in the same grid folder."""
    paths = find_grid(Path.cwd(), options.resume)
    record = ended(paths, "continued")
    if record.get("search") is not None:
        growth.check(record)
        cut_torn_line(paths.points)
    run = prepared(paths, record, options, argv)
    ready = get_ready(run, Settings.recorded(record, options))
    tasks = open_tasks(paths, Points(paths.points))
    if not tasks and record["state"] == "completed" and record.get("search") is None:
        ready.close()
        say(f"nothing is left to run: {counted(record)}")
        return errors.COMPLETED
    interrupts.hold()
    grid = open_again(ready, paths, record, argv)
    return live(grid, ready, tasks, options, argv, interrupts)


def ended(paths: GridPaths, what: str) -> dict[str, Any]:
    """The record of a grid that nobody works on, but for Slurm jobs that its dispatcher left.

    Raises:
        ResumeError: its dispatcher is alive.
    """
    record = records.reconcile(paths)
    if record["state"] not in runs.ENDED:
        submitted = record["options"]["engine"]["kind"] == "slurm" and what == "continued"
        if submitted and records.standing(paths, record) == "dead":
            cause = "the dispatcher ended without a word; what it had submitted went on"
            return records.change(paths, state="killed", cause=cause)
        msg = f"grid {record['grid_id']!r} is {record['state']} and cannot be {what}: end it first"
        raise errors.ResumeError(msg)
    return record


def open_tasks(paths: GridPaths, points: Points) -> list[Task]:
    """What is left to do: points that never completed go on where their last attempt left off."""
    from engram.resume import newest_checkpoint

    made = attempts(paths)
    tasks = []
    for index, name in enumerate(points.names):
        tried = made.get(index, [])
        if any(item.completed for item in tried):
            continue
        earlier = None
        for item in reversed(tried):
            with contextlib.suppress(errors.RunnerError):
                newest_checkpoint(item.paths)
                earlier = item.paths.run_id
                break
        number = max((item.attempt for item in tried), default=0) + 1
        tasks.append(Task(index, name, number, earlier))
    return tasks


def rerun(options: argparse.Namespace, argv: Sequence[str], interrupts: Interrupts) -> int:
    """Repeat every completed point of a grid in a new grid, and compare."""
    original = find_grid(Path.cwd(), options.rerun)
    record = ended(original, "repeated")
    run = prepared(original, record, options, argv)
    made = attempts(original)
    completed = {
        index: item for index, tried in sorted(made.items()) if (item := last(tried)).completed
    }
    done = {
        index: item.paths.run_id
        for index, item in completed.items()
        if not item.record.get("pruned")
    }
    if done and len(done) < len(completed):
        say(f"{len(completed) - len(done)} points were pruned by the search: they are not repeated")
    if not done:
        msg = f"grid {record['grid_id']!r} has no completed point to repeat: see --resume"
        raise errors.ResumeError(msg)
    ready = get_ready(run, Settings.recorded(record, options))
    with tempfile.TemporaryDirectory(prefix="engram-grid-") as scratch:
        points = subset(Points(original.points), list(done), Path(scratch) / "points.jsonl")
        kept = original.grid_file.read_bytes() if original.grid_file.exists() else b""
        source = Source(
            **{**record["source"], "path": Path(record["source"]["path"]), "data": kept}
        )
        interrupts.hold()
        grid = create(ready, Drawn(source, points), argv, rerun_of=record["grid_id"])
    originals = list(done.values())
    tasks = [Task(*item, original=originals[item[0]]) for item in enumerate(grid.points.names)]
    return live(grid, ready, tasks, options, argv, interrupts)


def subset(points: Points, chosen: Sequence[int], into: Path) -> Points:
    """The chosen points of a grid as the points of another."""
    found = Points.create(into)
    for index in chosen:
        found.append(toml.loads(points.parameters(index), where="points"), points.names[index])
    return found
