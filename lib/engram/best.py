"""`best:NAME:KEY`: the run of an experiment whose recorded summary is best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from engram.errors import RunNotFoundError
from engram.filters import Filter

if TYPE_CHECKING:
    from engram.index import Row
    from engram.paths import RunPaths
    from engram.store import Store

__all__ = ["BEST", "Best", "find", "parse"]

BEST = "best"
DIRECTIONS = ("max", "min")
FORM = f"{BEST}:NAME[:KEY][:{'|'.join(DIRECTIONS)}][:K]"


class Best(NamedTuple):
    """What is asked for.

    Attributes:
        name: of the experiment.
        key: of the summary; None where there is only one.
        smallest: whether the smallest value is best, not the greatest.
        rank: 1 for the best, 2 for the one after it.
    """

    name: str
    key: str | None
    smallest: bool
    rank: int


def parse(reference: str) -> Best:
    """Read `best:NAME[:KEY][:max|min][:K]`.

    Raises:
        RunNotFoundError: it is not of that form.
    """
    _, *parts = reference.split(":")
    rank, smallest = 1, False
    if len(parts) > 1 and parts[-1].lstrip("-").isdecimal():
        rank = int(parts.pop())
    if len(parts) > 1 and parts[-1] in DIRECTIONS:
        smallest = parts.pop() == "min"
    if not 1 <= len(parts) <= 2 or not all(parts) or rank < 1:
        msg = (
            f"{reference!r} is not {FORM}: an experiment, a key of its summary, which way is best, "
            "and 1 for the best run, 2 for the next; such as best:teacher:validation_accuracy"
        )
        raise RunNotFoundError(msg)
    return Best(parts[0], parts[1] if len(parts) > 1 else None, smallest, rank)


def find(store: Store, reference: str) -> RunPaths:
    """Find the run that a reference means; of equal ones the newest comes first.

    Args:
        store: where to look.
        reference: see `parse`. Only runs that completed count, not those that a search ended early,
            and of these only those that have a finite number under the key.

    Raises:
        RunNotFoundError: it is malformed, or there are not as many runs; says what is there.
    """
    asked = parse(reference)
    of_experiment = [Filter("experiment", "=", asked.name)]
    completed = [*of_experiment, Filter("state", "=", "completed")]
    newest = store.list_runs(completed, limit=1)
    if not newest:
        other = store.list_runs(of_experiment, limit=1)
        near = "" if other else store.near(asked.name, "experiment")
        which = "has completed" if other else "is there"
        msg = f"{reference!r}: no run of an experiment {asked.name!r} {which}{near}"
        raise RunNotFoundError(msg)
    key = asked.key or _only_key(reference, newest[0].brief["summary"])
    sort = f"{'' if asked.smallest else '-'}summary.{key}"
    rows = store.list_runs(completed, sort=sort)
    known = [row for row in rows if _is_finite(row) and not row.brief["pruned"]]
    if asked.rank > len(known):
        msg = (
            f"{reference!r}: {len(known)} of the {len(rows)} completed runs of {asked.name!r} have "
            f"a number summary.{key}"
        )
        raise RunNotFoundError(msg if known else msg + _advice(key, newest[0].brief["summary"]))
    return known[asked.rank - 1].paths


def _is_finite(row: Row) -> bool:
    """Whether it has a number under the key; infinite ones are what breaks down, not what wins."""
    return row.rank == 0 and row.number is not None and math.isfinite(row.number)


def _only_key(reference: str, summary: dict[str, object]) -> str:
    """The one key of a summary that holds a number."""
    keys = _numbers(summary)
    if len(keys) != 1:
        msg = f"{reference!r} does not say by what{_advice('', summary)}: write {FORM}"
        raise RunNotFoundError(msg)
    return keys[0]


def _advice(key: str, summary: dict[str, object]) -> str:
    """What the newest run has a number under."""
    import difflib

    keys = _numbers(summary)
    near = difflib.get_close_matches(key, keys, n=1) or keys[:10]
    if not near:
        return "; the newest run has no number in its summary"
    return f"; the newest run has {', '.join(near)}"


def _numbers(summary: dict[str, object]) -> list[str]:
    return [
        key
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
