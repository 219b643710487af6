"""What is left of a W&B sweep that gives out no more points: those that others took and lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from engram.errors import RunnerError
from engram.files import read_json
from engram.grid import record as records
from engram.grid.attempts import attempts
from engram.paths import GRID, GridPaths
from engram.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["rest"]

LOST = ("crashed", "killed", "failed")  # W&B's words; it gives none of these out again
MOST_SHOWN = 3


def rest(paths: GridPaths, sweep: str, states: Mapping[str, str], own: set[str]) -> list[str]:
    """What people should know of the points that other workers took.

    Args:
        paths: the folder of a grid of the sweep; the others are looked for beside it.
        sweep: its id, whole.
        states: of all runs of the sweep, by W&B's ids.
        own: the runs of this grid.
    """
    notes, known = [], set(own)
    for other in _others(paths, sweep):
        taken = _taken(other)
        known.update(taken.values())
        done = {number for number, tried in attempts(other).items() if tried[-1].completed}
        left = len(set(taken) - done)
        if left and _over(other):
            said = f"{left} of the sweep's points did not complete in {other.grid_id}, which has"
            how = f"`{program()} --grid --resume {other.grid_id}` takes them again"
            notes.append(f"{said} ended: {how}")
    lost = [run for run, state in states.items() if state in LOST and run not in known]
    if lost:
        shown = ", ".join(lost[:MOST_SHOWN]) + (", ..." if len(lost) > MOST_SHOWN else "")
        said = f"{len(lost)} of the sweep's runs did not finish on other machines: {shown};"
        notes.append(f"{said} resume the grids there")
    return notes


def _others(paths: GridPaths, sweep: str) -> Iterator[GridPaths]:
    """The other grids of the sweep in this run root."""
    for file in sorted(paths.folder.parent.glob(f"*/{GRID}")):
        other = GridPaths(file.parent)
        with contextlib.suppress(RunnerError):
            search = records.load(other).get("search") or {}
            if other.grid_id != paths.grid_id and (search.get("sweep") or {}).get("id") == sweep:
                yield other


def _taken(paths: GridPaths) -> dict[int, str]:
    """The W&B runs of a grid's points, by their numbers."""
    found = {}
    for file in paths.sweep.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found[int(file.stem)] = str(read_json(file)["run"])
    return found


def _over(paths: GridPaths) -> bool:
    """Whether nobody works on a grid any longer."""
    record = records.load(paths)
    return record["state"] in records.ENDED or records.standing(paths, record) == "dead"
