"""The table [grid] of experiment.toml.

What its lists, distributions and searches mean is known to engram.grid, which single runs never
import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engram.settings import GridConfig

if TYPE_CHECKING:
    from engram.tables import Table

__all__ = ["MOST_POINTS", "MOST_RETRIES", "read"]

MOST_RETRIES = 1000
MOST_POINTS = 10_000_000  # that anybody may allow
MEMORY = ("none", "auto")
SEARCH = (
    "search",
    "space",
    "sampler",
    "sampler_options",
    "pruner",
    "pruner_options",
    "metric",
    "direction",
    "trials",
    "method",
    "sweep_id",
)


def read(file: Table, most_seed: int) -> GridConfig | None:
    """Read and check the table.

    Args:
        file: the whole file.
        most_seed: the largest seed.

    Returns:
        None where there is no such table.

    Raises:
        ConfigError: a key is unknown or has a value that does not fit.
    """
    written = file.take("grid", None)
    inside = file.table("grid")
    config = GridConfig(
        table=written or {},
        product=_mapping(inside, "product"),
        zip=_mapping(inside, "zip"),
        points=_overrides(inside),
        random=_mapping(inside, "random"),
        samples=inside.integer("samples", None, least=1, most=MOST_POINTS),
        seed=inside.integer("seed", 0, least=0, most=most_seed),
        seeds=_seeds(inside, most_seed),
        preload=_modules(inside),
        retries=inside.integer("retries", 0, least=0, most=MOST_RETRIES),
        fail_fast=inside.boolean("fail_fast", False),
        memory=None if inside.choice("memory", "none", MEMORY) == "none" else "auto",
        most=inside.integer("most", None, least=1, most=MOST_POINTS),
        search=_search(inside),
    )
    inside.finish()
    return None if written is None else config


def _mapping(table: Table, name: str) -> dict[str, Any]:
    """A table whose keys are those of the parameters."""
    value = table.take(name, {})
    if not isinstance(value, dict):
        table.refuse(name, value, f"a table: write [{table.key(name)}]")
    return value


def _overrides(table: Table) -> tuple[dict[str, Any], ...]:
    value = table.take("points", [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        table.refuse("points", value, "tables: write [[grid.points]] before each")
    return tuple(value)


def _seeds(table: Table, most_seed: int) -> tuple[int, ...]:
    """The seeds to repeat each point with."""
    repeats = table.integer("repeats", None, least=1, most=MOST_POINTS)
    seeds = table.take("seeds", [])
    if not isinstance(seeds, list) or not all(
        type(seed) is int and 0 <= seed <= most_seed for seed in seeds
    ):
        table.refuse("seeds", seeds, f"a list of whole numbers from 0 to {most_seed}")
    if repeats and seeds:
        table.refuse("seeds", seeds, "either 'seeds' or 'repeats', which counts them from 0")
    return tuple(seeds or range(repeats or 0))


def _modules(table: Table) -> tuple[str, ...]:
    names = table.texts("preload")
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            table.refuse("preload", name, "the name of a module, such as 'torch'")
    return names


def _search(table: Table) -> dict[str, Any] | None:
    """What is left to the search: its keys as they are."""
    found = {name: table.take(name, None) for name in SEARCH}
    given = {name: value for name, value in found.items() if value is not None}
    if given and "search" not in given:
        name = next(iter(given))
        table.refuse(name, given[name], "'search' beside it, such as search = \"optuna\"")
    return given or None
