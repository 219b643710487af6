"""A search in the [grid] table: what it may choose from, what it looks at, and when it ends.

What the words mean to optuna is known to study.py.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError, EnvironmentMissingError
from engram.grid import distributions
from engram.grid.table import Block, is_distribution, leaves, overridden, refuse_overlaps
from engram.grid.values import shown
from engram.grid_table import MOST_POINTS
from engram.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engram.grid.distributions import Distribution
    from engram.grid.sweep_table import SweepConfig
    from engram.grid.table import Key
    from engram.settings import GridConfig

__all__ = [
    "DIRECTIONS",
    "SearchConfig",
    "block_of",
    "missing",
    "read",
    "require_packages",
    "space_of",
    "tried",
]

SEARCHES = ("optuna", "wandb")
DIRECTIONS = ("minimize", "maximize")
MOST = 1_000_000  # of an option that counts
# Packages that samplers import when they first draw, beside optuna itself.
PACKAGES = {"cmaes": ("cmaes", "scipy"), "gp": ("torch", "scipy"), "qmc": ("scipy",)}


class SearchConfig(NamedTuple):
    """A search, checked."""

    sampler: str  # one of SAMPLERS
    sampler_options: dict[str, Any]
    pruner: str  # one of PRUNERS
    pruner_options: dict[str, Any]
    metric: str  # key of the summary, and of metrics.jsonl
    direction: str  # one of DIRECTIONS
    trials: int  # how many points it chooses
    seed: int  # of the sampler
    space: dict[Key, Distribution]
    table: dict[str, Any]  # the whole of [grid], as written

    @property
    def prunes(self) -> bool:
        """Whether it looks at points that run, to end some."""
        return self.pruner != "none"


def _whole(least: int) -> Callable[[Table, str], int]:
    return lambda table, name: table.integer(name, least, least=least, most=MOST)


def _flag(table: Table, name: str) -> bool:
    return table.boolean(name, False)


def _positive(table: Table, name: str) -> float:
    value = table.number(name, 1.0)
    return value if value > 0 else table.refuse(name, value, "a number above 0")


def _word(*allowed: str) -> Callable[[Table, str], str]:
    return lambda table, name: table.choice(name, allowed[0], allowed)


def _resource(table: Table, name: str) -> int | str:
    value = table.take(name, "auto")
    if value != "auto" and not (type(value) is int and 1 <= value <= MOST):
        table.refuse(name, value, f"'auto' or a whole number from 1 to {MOST}")
    return value  # type: ignore[no-any-return]


SAMPLERS: dict[str, dict[str, Callable[[Table, str], Any]]] = {
    "tpe": {
        "n_startup_trials": _whole(0),
        "n_ei_candidates": _whole(1),
        "multivariate": _flag,
        "group": _flag,
        "constant_liar": _flag,
    },
    "cmaes": {
        "sigma0": _positive,
        "n_startup_trials": _whole(1),
        "popsize": _whole(3),
        "use_separable_cma": _flag,
        "with_margin": _flag,
        "lr_adapt": _flag,
    },
    "gp": {"n_startup_trials": _whole(0), "deterministic_objective": _flag},
    "qmc": {"qmc_type": _word("sobol", "halton"), "scramble": _flag},
    "random": {},
}
PRUNERS: dict[str, dict[str, Callable[[Table, str], Any]]] = {
    "none": {},
    "median": {
        "n_startup_trials": _whole(0),
        "n_warmup_steps": _whole(0),
        "interval_steps": _whole(1),
        "n_min_trials": _whole(1),
    },
    "asha": {
        "min_resource": _resource,
        "reduction_factor": _whole(2),
        "min_early_stopping_rate": _whole(0),
        "bootstrap_count": _whole(0),
    },
}
ALIASES = {
    "cma-es": "cmaes",
    "cma": "cmaes",
    "sobol": "qmc",
    "successivehalving": "asha",
    "successive_halving": "asha",
    "sha": "asha",
}


def read(grid: GridConfig, where: str) -> SearchConfig | SweepConfig:
    """Read and check the search of a [grid] table.

    Args:
        grid: a table whose `search` is given.
        where: the file, for messages.

    Raises:
        ConfigError: a key is missing, unknown or does not fit; the message says what would.
    """
    table = Table(grid.search or {}, where, "grid")
    if table.choice("search", "", SEARCHES) == "wandb":
        from engram.grid import sweep_table

        return sweep_table.read(grid, where)
    return _read_study(grid, table, where)


def _read_study(grid: GridConfig, table: Table, where: str) -> SearchConfig:
    """Read a search by optuna."""
    if grid.has_points:
        msg = f"{where}: the search chooses every point: take product, zip, points, random, repeats"
        raise ConfigError(f"{msg} and seeds out of [grid], or take 'search' out")
    sampler, sampler_options = _kind(table, "sampler", "tpe", SAMPLERS)
    pruner, pruner_options = _kind(table, "pruner", "none", PRUNERS)
    late = pruner_options.get("bootstrap_count")
    if late and pruner_options.get("min_resource", "auto") == "auto":
        inside = table.table("pruner_options")
        inside.refuse("bootstrap_count", late, "'min_resource' as a number beside it")
    metric = table.text("metric", None)
    trials = table.integer("trials", None, least=1, most=MOST_POINTS)
    if metric is None:
        raise missing(where, "metric", 'the key of the summary to look at, such as metric = "loss"')
    if trials is None:
        raise missing(where, "trials", "how many points to try, such as trials = 50")
    found = SearchConfig(
        sampler=sampler,
        sampler_options=sampler_options,
        pruner=pruner,
        pruner_options=pruner_options,
        metric=metric,
        direction=table.choice("direction", DIRECTIONS[0], DIRECTIONS),
        trials=trials,
        seed=grid.seed,
        space=space_of(table, where),
        table=grid.table,
    )
    table.finish()
    _check_sampler(found, where)
    return found


def missing(where: str, key: str, what: str) -> ConfigError:
    """The error for a key that a search cannot do without."""
    return ConfigError(f"{where}: a search needs the key 'grid.{key}': {what}")


def _kind(
    table: Table, name: str, default: str, kinds: dict[str, dict[str, Callable[[Table, str], Any]]]
) -> tuple[str, dict[str, Any]]:
    """The word for a sampler or a pruner, and the options beside it."""
    word = table.take(name, default)
    meant = ALIASES.get(word.lower()) if isinstance(word, str) else None
    if meant in kinds:
        table.refuse(name, word, f"{' or '.join(map(repr, kinds))}; did you mean {meant!r}?")
    kind = table.choice(name, default, tuple(kinds))
    inside = table.table(f"{name}_options")
    known = kinds[kind]
    given = table.take(f"{name}_options", {})
    options = {option: check(inside, option) for option, check in known.items()}
    inside.finish()
    return kind, {option: value for option, value in options.items() if option in given}


def space_of(table: Table, where: str) -> dict[Key, Distribution]:
    """The keys of the search, and what they may be."""
    space = table.take("space", {})
    if not isinstance(space, dict):
        table.refuse("space", space, "a table: write [grid.space]")
    found = {}
    for key, written in leaves(space, stop=is_distribution):
        label = f"{where}: key 'grid.space' {key.text!r}"
        one = found[key] = distributions.distribution(written, label)
        if one.kind in ("normal", "lognormal"):
            raise _unbounded(label, one)
    if not found:
        raise missing(where, "space", "what to choose from, see [grid.space]")
    refuse_overlaps([Block("[grid.space]", {key.path: key}, []) for key in found], where)
    return found


def _unbounded(label: str, one: Distribution) -> ConfigError:
    """Say what to write in place of a distribution without bounds."""
    mean, deviation = one.values
    low, high = mean - 3 * deviation, mean + 3 * deviation
    kind = "uniform"
    if one.kind == "lognormal":
        import math

        kind, low, high = "loguniform", math.exp(low), math.exp(high)
    msg = f"{label} is {shown({one.kind: list(one.values)})}: a search needs bounds:"
    return ConfigError(f"{msg} write for example {{{kind} = [{low:.4g}, {high:.4g}]}}")


def _check_sampler(found: SearchConfig, where: str) -> None:
    """Refuse a sampler that could do nothing, and options that exclude each other."""
    options = found.sampler_options
    if options.get("group") and not options.get("multivariate"):
        msg = f"{where}: key 'grid.sampler_options.group' is true, which needs multivariate = true"
        raise ConfigError(msg)
    kinds = [name for name in ("use_separable_cma", "with_margin", "lr_adapt") if options.get(name)]
    if len(kinds) > 1:
        msg = f"{where}: [grid.sampler_options] has {' and '.join(map(repr, kinds))}: choose one"
        raise ConfigError(msg)
    numbers = [key for key, one in found.space.items() if one.kind != "choice"]
    if found.sampler == "cmaes" and len(numbers) < 2:  # noqa: PLR2004
        msg = f"{where}: key 'grid.sampler' is 'cmaes', which needs two keys of [grid.space] that"
        raise ConfigError(f"{msg} hold numbers, and there are {len(numbers)}: write 'tpe'")


def tried(
    grid: GridConfig, base: dict[str, Any], *, where: str, parameters: str
) -> SearchConfig | SweepConfig:
    """Read a search, and see that it can begin: a point of its space is made, and thrown away.

    Args:
        grid: a table whose `search` is given.
        base: the parameters that points start from.
        where: the file of the table, for messages.
        parameters: the file of the parameters, for messages.

    Raises:
        ConfigError: as `read`; or the parameters lack a key of the space.
        EnvironmentMissingError: a package is missing.
    """
    found = read(grid, where)
    row = {key.path: one.draw(distributions.stream(0, "")) for key, one in found.space.items()}
    overridden(base, block_of(found), row, where, parameters)
    if isinstance(found, SearchConfig):
        require_packages(found)
    return found


def block_of(found: SearchConfig | SweepConfig) -> Block:
    """The keys of a search as [grid] has them in other tables."""
    return Block("[grid.space]", {key.path: key for key in found.space}, [])


def require_packages(found: SearchConfig) -> None:
    """See that what the search imports is installed; nothing is imported.

    Raises:
        EnvironmentMissingError: a package is missing.
    """
    needed: Sequence[str] = ("optuna", *PACKAGES.get(found.sampler, ()))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the sampler {found.sampler!r}" if "optuna" not in missing else "a search"
        msg = f"{what} needs {' and '.join(map(repr, missing))}, which is not installed here"
        raise EnvironmentMissingError(f"{msg}: `pip install {' '.join(missing)}`")
