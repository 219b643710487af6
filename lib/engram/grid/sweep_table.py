"""A W&B sweep in the [grid] table: what it may choose from, and by which method.

What the words mean to W&B is known to sweep_space.py, and how they are sent to wandb_server.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError
from engram.grid.distributions import Distribution
from engram.grid.search_table import DIRECTIONS, missing, space_of
from engram.grid.sweep_space import countable
from engram.grid.table import Block, Key, leaves, refuse_overlaps, refuse_twins, require_list
from engram.grid.values import dotted
from engram.grid_table import MOST_POINTS
from engram.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.settings import GridConfig

__all__ = ["ID_FORM", "SweepConfig", "is_id", "local_table", "read"]

METHODS = ("grid", "random", "bayes")
OPTUNAS = ("sampler", "sampler_options", "pruner", "pruner_options")
ID_FORM = "SWEEP, PROJECT/SWEEP or ENTITY/PROJECT/SWEEP"
MOST = 100_000  # points of the method grid, where the table says nothing


class SweepConfig(NamedTuple):
    """A sweep, checked; it stands where a SearchConfig may stand."""

    method: str  # one of METHODS
    metric: str | None  # key of the summary
    direction: str  # one of DIRECTIONS
    trials: int  # how many points there are, or shall be, over all workers
    seed: int  # of what stands in for random and bayes without W&B
    space: dict[Key, Distribution]
    sweep_id: str | None  # SWEEP, PROJECT/SWEEP or ENTITY/PROJECT/SWEEP
    table: dict[str, Any]  # the whole of [grid], as written

    @property
    def prunes(self) -> bool:
        """It looks at points that run: people stop them on W&B's page."""
        return True


def read(grid: GridConfig, where: str) -> SweepConfig:
    """Read and check the sweep of a [grid] table.

    Args:
        grid: a table with search = "wandb".
        where: the file, for messages.

    Raises:
        ConfigError: a key is missing, unknown or does not fit; the message says what would.
    """
    table = Table(grid.search or {}, where, "grid")
    table.take("search", None)
    for name in OPTUNAS:
        if (value := table.take(name, None)) is not None:
            table.refuse(name, value, "it with search = \"optuna\" only: a sweep has a 'method'")
    if grid.zip or grid.points or grid.random:
        msg = f"{where}: a sweep chooses every point: write zip, points and random of [grid] as"
        raise ConfigError(f"{msg} 'product', 'repeats' or [grid.space], or take 'search' out")
    method = table.choice("method", METHODS[0], METHODS)
    space = _space(grid, table, where)
    metric = table.text("metric", None)
    if metric is None and method == "bayes":
        raise missing(where, "metric", 'the key of the summary to look at, as metric = "loss"')
    found = SweepConfig(
        method=method,
        metric=metric,
        direction=table.choice("direction", DIRECTIONS[0], DIRECTIONS),
        trials=_trials(table, method, space, grid.most or MOST),
        seed=grid.seed,
        space=space,
        sweep_id=_sweep_id(table),
        table=grid.table,
    )
    table.finish()
    return found


def _sweep_id(table: Table) -> str | None:
    value = table.text("sweep_id", None)
    if value is not None and not is_id(value):
        table.refuse("sweep_id", value, ID_FORM)
    return value


def is_id(text: str) -> bool:
    """Whether a text may be the id of a sweep, see ID_FORM."""
    parts = text.split("/")
    return all(parts) and len(parts) <= 3  # noqa: PLR2004


def _space(grid: GridConfig, table: Table, where: str) -> dict[Key, Distribution]:
    """The keys of product, repeats and space, each once."""
    found: dict[Key, Distribution] = {}
    for key, values in leaves(grid.product):
        require_list(values, "product", key, where)
        found[key] = Distribution("choice", tuple(values))
    if grid.seeds:
        found[Key(("seed",), create=True)] = Distribution("choice", grid.seeds)
    blocks = []
    for key, one in found.items():
        rows = [{key.path: value} for value in one.values]
        blocks.append(Block(f"[grid] {key.text!r}", {key.path: key}, rows))
        refuse_twins(blocks[-1], where)
    if table.take("space", None) is not None or not found:
        given = space_of(table, where)
        blocks += [Block(f"[grid.space] {key.text!r}", {key.path: key}, []) for key in given]
        found.update(given)
    refuse_overlaps(blocks, where)
    return found


def _trials(table: Table, method: str, space: dict[Key, Distribution], most: int) -> int:
    """How many points there will be; the method grid has as many as there are."""
    where, trials = table.where, table.integer("trials", None, least=1, most=MOST_POINTS)
    if method != "grid":
        if trials is None:
            raise missing(where, "trials", "how many points to try, such as trials = 50")
        return trials
    if trials is not None:
        table.refuse(
            "trials", trials, "it with method = 'random' or 'bayes': a grid has all points"
        )
    counts = []
    for key, one in space.items():
        values = countable(one)
        if values is None:
            msg = f"{where}: key 'grid.space' {key.text!r} has no end of values: write method ="
            raise ConfigError(f"{msg} 'random', a 'step', or {{choice = [...]}}")
        counts.append(len(values))
    number = math.prod(counts)
    if number > most:
        said = " x ".join(map(str, counts))
        msg = f"{where}: [grid] makes {said} = {number} points, more than {most}"
        raise ConfigError(f"{msg}: if that is meant, raise the key 'grid.most'")
    return number


def local_table(found: SweepConfig) -> dict[str, Any]:
    """The [grid] table that stands in for a sweep where there is no W&B.

    The method grid keeps its points. For random they are drawn from the same space, and for bayes
    optuna's TPE chooses them there.
    """
    if found.method == "grid":
        return {"most": found.trials, "product": _written(found, lists=True)}
    if found.method == "random":
        drawn = {"samples": found.trials, "most": found.trials, "seed": found.seed}
        return {**drawn, "random": _written(found)}
    keys = {"metric": found.metric, "direction": found.direction, "trials": found.trials}
    return {"search": "optuna", "seed": found.seed, **keys, "space": _written(found)}


def _written(found: SweepConfig, *, lists: bool = False) -> dict[str, Any]:
    """The space, as [grid.random] and [grid.space] write one, or as the lists of [grid.product]."""
    return dict(_entries(found, lists=lists))


def _entries(found: SweepConfig, *, lists: bool) -> Iterator[tuple[str, Any]]:
    for key, one in found.space.items():
        step = {} if one.step is None else {"step": one.step}
        text = ("+" if key.create else "") + dotted(key.path)
        yield text, countable(one) if lists else {one.kind: list(one.values), **step}
