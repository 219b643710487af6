"""A grid that grows: how its search begins, goes on, and stands in the record."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engram.locks import cut_torn_line
from engram.manifest import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engram.grid.draw import Drawn
    from engram.grid.engine import Task
    from engram.grid.points import Points
    from engram.grid.proposer import Proposer
    from engram.grid.search import Search
    from engram.grid.search_table import SearchConfig
    from engram.grid.sweep_table import SweepConfig
    from engram.paths import GridPaths
    from engram.request import Run
    from engram.settings import GridConfig

__all__ = ["as_json", "begin", "check", "end", "facts", "most", "total"]


def total(points: Points, search: Search | None) -> int:
    """How many points there will be, as far as is known."""
    return len(points) if search is None else search.total


def most(points: Points, search: Search | None, tasks: Sequence[Task]) -> int:
    """How many points may run in this session, and so have use for a slot."""
    if search is None:
        return len(tasks)
    if search.config is None:
        from engram.grid.draw import MOST_POINTS

        return MOST_POINTS
    return max(1, search.total - len(points) + len(tasks))


def facts(points: Points, search: Search | None) -> dict[str, Any]:
    """What a search changes in the record as it goes."""
    if search is None:
        return {}
    return {"points": len(points), "varying": list(points.varying), "best": search.best}


def end(
    record: dict[str, Any], paths: GridPaths, points: Points, search: Search | None
) -> dict[str, Any]:
    """Close the search; what the record says of it at the end."""
    if search is None:
        return {}
    search.close()
    cut_torn_line(paths.points)
    points.refresh()
    hashes = {**record["hashes"], "points": hash_file(paths.points)}
    return {**facts(points, search), "hashes": hashes}


def as_json(drawn: Drawn, grid: GridConfig | None) -> dict[str, Any] | None:
    """What grid.json says of the way in which points are chosen; None where all were drawn."""
    if drawn.adaptive:
        return {"kind": "generator", "most": grid and grid.most}
    if drawn.search is None:
        return None
    from engram import toml

    config = drawn.search
    keys = ["metric", "direction", "trials", "seed"]
    kind: dict[str, Any] = {"kind": "optuna"}
    if drawn.sweep is not None:
        kind, keys = {"kind": "wandb", "sweep": drawn.sweep.as_json()}, [*keys, "method"]
    else:
        keys += ["sampler", "pruner"]
    table = toml.dumps({"grid": config.table})
    return {**kind, **{key: getattr(config, key) for key in keys}, "table": table}


def check(record: dict[str, Any]) -> SearchConfig | SweepConfig | None:
    """The search of a grid's record; None where it has no [grid] table that says it.

    Raises:
        ConfigError: this engram does not know a key of it.
        EnvironmentMissingError: a package is missing.
    """
    from engram import grid_table, toml
    from engram.config import MAX_SEED
    from engram.grid import search_table
    from engram.tables import Table

    if record["search"]["kind"] == "generator":
        return None
    where = f"the search of {record['grid_id']}"
    values = toml.loads(record["search"]["table"].encode(), where=where)
    grid = grid_table.read(Table(values, where), MAX_SEED)
    if grid is None:
        msg = f"{where} has no [grid] table"
        raise ValueError(msg)
    config = search_table.read(grid, where)
    if isinstance(config, search_table.SearchConfig):
        search_table.require_packages(config)
    return config


def begin(
    record: dict[str, Any], run: Run, paths: GridPaths, points: Points, tasks: Sequence[Task]
) -> Search | None:
    """Have the process ready that chooses points; None where all were drawn.

    Args:
        record: of the grid.
        run: what its points share.
        paths: its folder.
        points: those there are.
        tasks: what is left of them to do.
    """
    if record.get("search") is None:
        return None
    from engram.grid import record as records
    from engram.grid.attempts import attempts, last
    from engram.grid.proposer import Door
    from engram.grid.search import Search, told
    from engram.grid.search_table import SearchConfig

    records.change(paths, hashes={**record["hashes"], "points": None})
    left = {task.number for task in tasks}
    over = [last(tried) for number, tried in attempts(paths).items() if number not in left]
    ordered = sorted(over, key=lambda item: str(item.record["times"]["ended"]))
    ends = [told(item.number, item.record) for item in ordered if item.ended]
    config, path = check(record), str(record["source"]["path"])
    make: Callable[[], Proposer]
    if config is None:
        make = partial(_adaptive, path, run, paths, points, record["search"]["most"])
    elif isinstance(config, SearchConfig):
        make = partial(_study, config, path, run.parameters.values, points, paths)
    else:
        make = partial(_sweep, record, config, run, points, paths)
    return Search(Door(make), points, over=ends, config=config, where=path)


def _adaptive(path: str, run: Run, paths: GridPaths, points: Points, most: int | None) -> Proposer:
    from pathlib import Path

    from engram.config import IMPORT_ROOTS
    from engram.grid.adaptive import Adaptive
    from engram.grid.draw import MOST_POINTS

    names = run.config.project_paths or IMPORT_ROOTS
    return Adaptive(
        Path(path),
        paths.grid_file.read_bytes(),
        roots=[folder for folder in (run.code_folder / name for name in names) if folder.is_dir()],
        base=run.parameters.values,
        points=points,
        most=most or MOST_POINTS,
    )


def _study(
    config: SearchConfig, path: str, base: dict[str, Any], points: Points, paths: GridPaths
) -> Proposer:
    from engram.grid.study import Study

    return Study(
        config, base=base, points=points, paths=paths, where=path, parameters=str(paths.parameters)
    )


def _sweep(
    record: dict[str, Any], config: SweepConfig, run: Run, points: Points, paths: GridPaths
) -> Proposer:
    from engram.grid.sweep_points import SweepPoints
    from engram.grid.wandb_server import Server, SweepPath

    sweep = record["search"]["sweep"]
    return SweepPoints(
        config,
        Server.configured(),
        SweepPath(sweep["entity"], sweep["project"], sweep["sweep"]),
        base=run.parameters.values,
        points=points,
        paths=paths,
        where=str(record["source"]["path"]),
        parameters=str(paths.parameters),
    )
