"""The runs of a grid, by the point that each of them is an attempt at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import record as runs
from engram.errors import RunnerError
from engram.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.paths import GridPaths, RunPaths

__all__ = ["Attempt", "attempts", "last", "run_folders"]


class Attempt(NamedTuple):
    """One run of a point.

    Attributes:
        number: of the point, from 0.
        attempt: which one it was, from 1.
        point: the point's name.
        paths: the run's folder.
        record: the run's record.
    """

    number: int
    attempt: int
    point: str
    paths: RunPaths
    record: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.record["state"] in runs.ENDED

    @property
    def completed(self) -> bool:
        """Whether the run is over, and well."""
        return bool(self.record["state"] == "completed")


def run_folders(paths: GridPaths) -> list[RunPaths]:
    """The folders of a grid's runs, the oldest first; also of runs that have no record."""
    try:
        names = sorted(os.listdir(paths.folder))  # noqa: PTH208
    except OSError:
        return []
    found = [paths.run(name) for name in names if not name.startswith(".")]
    return [
        run
        for run in found
        if run.metadata.is_file() or (runs.RUN_ID.fullmatch(run.run_id) and run.folder.is_dir())
    ]


def attempts(paths: GridPaths) -> dict[int, list[Attempt]]:
    """The runs of a grid by the number of their point; a run whose runner is dead is ended first.

    Returns:
        For each point that has a run, its attempts in order. Runs whose records cannot be read,
        and runs that are no point's, are left out.
    """
    found: dict[int, list[Attempt]] = {}
    for run in run_folders(paths):
        try:
            record = reconcile(run)
        except RunnerError:
            continue
        place = record.get("grid")
        if place:
            item = Attempt(place["index"], place["attempt"], place["point"], run, record)
            found.setdefault(item.number, []).append(item)
    return {number: sorted(items, key=_order) for number, items in found.items()}


def last(tried: Sequence[Attempt]) -> Attempt:
    """The attempt that stands for its point: the last one, or the last that completed.

    Args:
        tried: the attempts at one point, at least one, in order.
    """
    return next((item for item in reversed(tried) if item.completed), tried[-1])


def _order(item: Attempt) -> tuple[int, str]:
    return item.attempt, item.paths.run_id
