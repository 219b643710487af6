"""What all points of a grid share: one commit, one snapshot, inputs hashed once; and its points."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import folder, toml
from engram.config import MAX_SEED
from engram.errors import ConfigError, RunnerError
from engram.execute import walk
from engram.files import read_json
from engram.findings import Finding
from engram.manifest import hash_file
from engram.recorded import RecordedCode, RecordedInputs, recorded_root
from engram.request import GridPlace, Request, Run, SweepRun
from engram.settings import Parameters
from engram.workflow import (
    LIFE,
    STEPS,
    check_inputs,
    look_at_code,
    read_request,
    start_child,
    take_code,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.grid.engine import Task
    from engram.grid.points import Points
    from engram.paths import GridPaths
    from engram.request import Devices
    from engram.warm import Warm
    from engram.workflow import Step

__all__ = ["Shared", "keep_source", "left_checkpoint", "nothing", "point_run", "prepared"]


ALONE = Finding(
    "alone_on_device",
    "an earlier attempt ran out of device memory beside other points; this one had it alone",
)


class Shared(NamedTuple):
    """What every point of a grid is made of."""

    run: Run  # prepared up to its snapshot; never given a folder
    paths: GridPaths
    points: Points
    argv: Sequence[str]
    seed: int  # where neither the experiment nor the parameters name one
    warm: Warm | None
    options: argparse.Namespace
    grows: bool = False  # a search adds points while others run


def prepared(
    paths: GridPaths, record: dict[str, Any], options: argparse.Namespace, argv: Sequence[str]
) -> Run:
    """Code, inputs and configuration of a recorded grid, ready for its points."""
    given = [f"--{name}" for name in ("set", "config", "seed") if getattr(options, name)]
    if given or options.allow_dirty or options.files:
        said = ", ".join([*given, *(["--allow-dirty"] if options.allow_dirty else [])])
        msg = f"a recorded grid keeps what it was made of: not with {said or options.files[0]}"
        msg += "; for anything else change the grid file, or the experiment, and start a new grid"
        raise ConfigError(msg)
    inputs = {item["name"]: item["sha256"] for item in record["inputs"]}
    request = Request(
        experiment=paths.experiment,
        root=recorded_root(record),
        argv=tuple(argv),
        timeout=options.timeout,
        run_root=paths.folder.parent,
        recorded_code=RecordedCode(record["code"], record["script"]["blob"], paths),
        recorded_inputs=RecordedInputs({}, inputs, options.allow_changed_inputs),
    )
    run = Run(request)
    walk(run, (read_request, look_at_code, check_inputs, take_code, keep_source), nothing)
    return run


def nothing(run: Run) -> None:
    """Announce nothing: what is prepared here never becomes a run itself."""


def keep_source(run: Run) -> None:
    """Write the commit's pack beside the runs, so that each point only links it."""
    folder.hide_from_git(run.root.folder)
    if run.snapshot is None:
        return
    source = run.root.source(run.snapshot.commit)
    if not source.exists():
        folder.make_source(run, source)
    run.source_sha256 = hash_file(source)


def point_run(shared: Shared, task: Task, devices: Devices | None) -> tuple[Run, tuple[Step, ...]]:
    """One attempt at a point as a run, and the steps that are left for it.

    Raises:
        RunnerError: the checkpoint or the run that it starts from is gone.
    """
    grid = shared.paths
    place = GridPlace(grid.grid_id, grid.folder, task.name, task.number, task.attempt)
    place = place._replace(sweep=sweep_run(grid, task.number))
    if task.original is not None:
        return repeated(shared, task, place, devices), STEPS
    request = shared.run.request._replace(
        argv=tuple(shared.argv),
        run_root=shared.paths.folder.parent,
        place=place,
        devices=devices,
    )
    if task.alone:
        request = request._replace(notes=[ALONE])
    if task.earlier is not None:
        request = continued(request, shared, task.earlier)
    run = Run(request, warm=shared.warm)
    common = shared.run
    run.parameters = parameters(shared.points, task.number)
    run.config = common.config._replace(seed=seed_of(shared, run.parameters.values, task.name))
    run.code, run.script_blob = dict(common.code), common.script_blob
    run.findings = [*request.notes, *common.findings]
    run.repository, run.snapshot, run.patch = common.repository, common.snapshot, common.patch
    run.source_sha256 = common.source_sha256
    run.inputs = [copy.copy(item) for item in common.inputs]
    return run, (start_child, *LIFE)


def sweep_run(paths: GridPaths, index: int) -> SweepRun | None:
    """Which W&B run a point is, where a sweep has chosen it."""
    if not paths.sweep_run(index).exists():
        return None
    kept = read_json(paths.sweep_run(index))
    named = {key: str(kept[key]) for key in ("entity", "project", "sweep", "run", "url")}
    return SweepRun(**named, values=paths.sweep_values(index))


def parameters(points: Points, index: int) -> Parameters:
    """The parameters of a point, as its run folder will hold them."""
    if index >= len(points):
        points.refresh()
    data = points.parameters(index)
    values = toml.loads(data, where=f"the parameters of point {points.names[index]!r}")
    return Parameters(data, values, hashlib.sha256(data).hexdigest(), tuple(points.varying))


def seed_of(shared: Shared, values: dict[str, Any], name: str) -> int | None:
    """The seed that a point's configuration names.

    A parameter `seed` that the grid varies wins over the experiment's own key; where there is
    neither, the point's name and the grid's seed give one, whatever order the points run in.
    What varies is not known before the last point of a search: there, what differs from the
    experiment's parameters counts.
    """
    configured = shared.run.config.seed
    own = values.get("seed")
    varies = "seed" in shared.points.varying
    if shared.grows:
        varies = own != shared.run.parameters.values.get("seed")
    if type(own) is int and 0 <= own <= MAX_SEED and varies:
        return own
    if configured is not None or type(own) is int:
        return configured
    digest = hashlib.sha256(f"{shared.seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def continued(request: Request, shared: Shared, earlier: str) -> Request:
    """Go on from the newest checkpoint of an earlier attempt."""
    from engram.paths import RunPaths
    from engram.resume import newest_checkpoint

    checkpoint, edge, holder, position = newest_checkpoint(RunPaths(shared.paths.folder / earlier))
    return request._replace(
        resumed_from={"run": holder.run_id, **edge, "overrides": []},
        resume_from=checkpoint,
        metrics_from=(holder, position),
    )


def repeated(shared: Shared, task: Task, place: GridPlace, devices: Devices | None) -> Run:
    """Repeat a run of an earlier grid from its own record."""
    from pathlib import Path

    from engram.reconcile import reconcile
    from engram.rerun import repeat
    from engram.store import Store

    if task.original is None:
        msg = "a task that repeats nothing"
        raise ValueError(msg)
    original = Store.for_root(Path.cwd(), [shared.paths.folder.parent]).find(task.original)
    request = repeat(original, reconcile(original), shared.options, shared.argv)
    return Run(
        request._replace(run_root=shared.paths.folder.parent, place=place, devices=devices),
        warm=shared.warm,
    )


def left_checkpoint(run: Run) -> bool:
    """Whether a run that did not complete can be continued."""
    if not run.paths.checkpoints.is_dir():
        return False
    from engram.resume import newest_checkpoint

    try:
        newest_checkpoint(run.paths)
    except RunnerError:
        return False
    return True
