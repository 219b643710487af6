"""Removing runs: which may go, who refers to them, and `rm`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import lease, open_runs, roots
from engram import record as records
from engram.brief import UNREADABLE
from engram.errors import ConfigError, RunnerError, RunNotFoundError, StoreError
from engram.grid import record as grid_records
from engram.grid.attempts import run_folders
from engram.grid.find import find_either
from engram.grid.removal import grid_obstacle, remove_rest
from engram.index import Index
from engram.paths import GridPaths, RootPaths, RunPaths
from engram.reconcile import reconcile, standing, whereabouts
from engram.store import Store
from engram.table import age, columns, epoch, size
from engram.trash import Weight, erase, put_aside, unlocked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engram.index import Row

__all__ = ["Doomed", "obstacle", "referrers", "remove", "rm_command", "table", "widest_store"]

EDGES = {
    "resumed_from": "continues it",
    "rerun_of": "repeats it",
    "input_runs": "takes its outputs as input",
}
MOST_REASONS = 20
DRY = "nothing was deleted: --yes does it"


class Doomed(NamedTuple):
    """A run that is to go.

    Attributes:
        paths: its folder.
        brief: what the index says of it.
        weight: the bytes in its folder.
    """

    paths: RunPaths
    brief: dict[str, Any]
    weight: Weight

    @property
    def root(self) -> RootPaths:
        """The run root it lies in."""
        return RootPaths(self.paths.folder.parent.parent)


def rm_command(start: Path, references: Sequence[str], *, yes: bool = False) -> str:
    """Remove runs; without `yes`, say what would go.

    Args:
        start: where the person stands.
        references: of the runs, see Store.find.
        yes: whether to do it.

    Returns:
        What to tell the person.

    Raises:
        ConfigError: a run is alive or pinned, lies in no run root, or another that stays refers to
            it; then none is removed.
        RunNotFoundError: no run answers to a reference, or several do.
        StoreError: a folder cannot be removed.
    """
    found = list(dict.fromkeys(find_either(start, reference) for reference in references))
    grids = [paths for paths in found if isinstance(paths, GridPaths)]
    named = [paths for paths in found if isinstance(paths, RunPaths)]
    chosen = list(dict.fromkeys([*named, *(run for paths in grids for run in run_folders(paths))]))
    rows = widest_store(start, chosen, grids).list_runs()
    _require_free(chosen, rows, grids)
    briefs = {row.paths.folder: row.brief for row in rows}
    inside = {paths.folder for paths in grids}
    alone = [paths for paths in chosen if paths.folder.parent not in inside]
    doomed = [Doomed(paths, briefs[paths.folder], Weight(paths.folder)) for paths in alone]
    doomed += [_doomed_grid(paths) for paths in grids]
    total = Weight()
    for one in doomed:
        total.merge(one.weight)
    lines = [table(doomed)]
    if not yes:
        return "\n".join([*lines, f"{size(total.freed)} would be freed; {DRY}"])
    for paths in alone:
        remove(paths, RootPaths(paths.folder.parent.parent))
    for grid in grids:
        # Each run is looked at once more; when one must stay by now, so does the grid.
        for run in run_folders(grid):
            remove(run, RootPaths(grid.folder.parent))
        remove_rest(grid, RootPaths(grid.folder.parent))
    gone = [counted(len(grids), "grid")] if grids else []
    gone += [counted(len(chosen), "run")] if chosen or not grids else []
    return "\n".join([*lines, f"{' and '.join(gone)} removed, {size(total.freed)} freed"])


def _doomed_grid(paths: GridPaths) -> Doomed:
    """A grid with all its runs, as one that is to go."""
    record = grid_records.load(paths)
    times, said = record["times"], f"grid of {counted(record['points'], 'point')}"
    brief = {
        "state": record["state"],
        "started": times["started"],
        "created": times["created"],
        "tags": [said, *record.get("tags", ())],
    }
    return Doomed(RunPaths(paths.folder), brief, Weight(paths.folder))


def widest_store(start: Path, chosen: Iterable[RunPaths], grids: Iterable[GridPaths] = ()) -> Store:
    """Every root where a run may refer to one of `chosen`.

    Those known here, those that the runs' own repositories have used, and those the runs, and the
    grids that go whole, lie in.
    """
    extra: dict[Path, None] = {}
    repositories: set[str] = set()
    going: list[RunPaths | GridPaths] = [*chosen, *grids]
    for paths in going:
        inside = paths.folder.parent
        root = RootPaths(inside if isinstance(paths, GridPaths) else inside.parent)
        if root.store.is_dir():
            extra[root.folder] = None
        with contextlib.suppress(RunnerError, KeyError, TypeError):
            repositories.add(_record(paths)["repository"]["root"])
    for repository in sorted(repositories):
        if (Path(repository) / ".git").exists():
            extra.update(dict.fromkeys(roots.known(Path(repository))))
    return Store.for_root(start, extra)


def _record(paths: RunPaths | GridPaths) -> dict[str, Any]:
    """The record of a run or of a grid."""
    return grid_records.load(paths) if isinstance(paths, GridPaths) else records.load(paths)


def _require_free(
    chosen: Sequence[RunPaths], rows: Sequence[Row], grids: Sequence[GridPaths]
) -> None:
    """Refuse when one of the chosen runs, or a grid of them, must stay.

    Raises:
        ConfigError: naming all that stand in the way.
    """
    indexed = {row.paths.folder: row.run_id for row in rows}
    going = {indexed.get(paths.folder) for paths in chosen}
    pointed = referrers(rows)
    reasons, bound = [], set()
    for grid in grids:
        if (why := grid_obstacle(grid)) is not None:
            reasons.append(f"{grid.grid_id}: it {why}")
            bound.add(grid.folder)
    for paths in chosen:
        if paths.folder.parent in bound:
            continue
        if paths.folder not in indexed:
            reasons.append(f"{str(paths.folder)!r} lies in no run root: delete the folder by hand")
            continue
        if (why := obstacle(paths)) is not None:
            reasons.append(f"{paths.run_id}: {why}")
        reasons += [
            f"{paths.run_id}: run {other} {how}: remove that too, or keep both"
            for other, how in pointed.get(indexed[paths.folder], ())
            if other not in going
        ]
    if reasons:
        more = len(reasons) - MOST_REASONS
        shown = reasons[:MOST_REASONS] + ([f"and {more} more"] if more > 0 else [])
        msg = "nothing was removed:\n" + "\n".join(f"    {reason}" for reason in shown)
        raise ConfigError(msg)


def referrers(rows: Iterable[Row]) -> dict[str, list[tuple[str, str]]]:
    """Who refers to whom.

    Returns:
        Run id -> (id of a run that refers to it, how).
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        brief = row.brief
        for key, how in EDGES.items():
            value = brief.get(key) or []
            for run in [value] if isinstance(value, str) else value:
                found.setdefault(run, []).append((row.run_id, how))
    return found


def obstacle(paths: RunPaths) -> str | None:
    """Why a run must stay whoever refers to it: it is alive or pinned, or nobody can tell.

    A run whose runner is dead is given its true state on the way.

    Returns:
        The reason, and what to do; None when the run may go.
    """
    try:
        return _reason(paths, reconcile(paths))
    except RunNotFoundError:
        return _reason(paths, None)
    except StoreError as error:
        return f"nobody can tell whether it is pinned: {error}; delete the folder by hand"


def _reason(paths: RunPaths, record: dict[str, Any] | None) -> str | None:
    """Why a run must stay, by its record, which is not changed."""
    if record is None:
        alive = lease.standing(paths.lease, None) != "dead"
        return "it is just being made: wait until it has ended" if alive else None
    if record["state"] not in records.ENDED and standing(paths, record) != "dead":
        place = whereabouts(paths, record) or f"{record['state']}, and alive"
        return f"it is {place}: wait until it has ended"
    with unlocked(paths.lease) as free:
        if not free:
            return "its runner is still at work on it: wait until it has ended"
    if record.get("pinned"):
        return "it is pinned: take the pin away first, with pin --remove"
    around = GridPaths(paths.folder.parent)
    why = grid_obstacle(around) if around.record.is_file() else None
    return None if why is None else f"it is a point of {around.grid_id}, which {why}"


def remove(paths: RunPaths, root: RootPaths) -> None:
    """Remove one run: looked at once more, put aside in one step, then deleted.

    Args:
        paths: the run's folder.
        root: the root it lies in.

    Raises:
        ConfigError: by now it must stay.
        StoreError: it cannot be removed; what was put aside is found by the next gc.
    """
    try:
        # Whoever pins or annotates the run holds this lock, and finds the run gone afterwards.
        with unlocked(paths.metadata) as free:
            # Not by `obstacle`, which may want to write the record and would wait for this lock.
            record = records.load(paths) if paths.metadata.exists() else None
            why = _reason(paths, record) if free else "its record is being written: try again"
            if why is not None:
                msg = f"{paths.run_id}: {why}"
                raise ConfigError(msg)
            aside = put_aside(paths, root)
        Index(root).note(paths.folder)
        open_runs.closed(root, paths)
        erase(aside)
    except FileNotFoundError:
        return  # someone else was faster
    except OSError as error:
        where = error.filename or str(paths.folder)
        msg = f"cannot remove {str(where)!r}: {error.strerror or error}"
        raise StoreError(msg) from error


def table(doomed: Sequence[Doomed]) -> str:
    """The runs that are to go, one a line."""
    now = time.time()
    lines = []
    for one in doomed:
        began = epoch(one.brief["started"] or one.brief["created"])
        when = "" if began is None else f"{age(now - began)} ago"
        tags = " ".join(one.brief["tags"])
        lines.append([one.paths.run_id, one.brief["state"], when, size(one.weight.size), tags])
    return columns(["RUN", "STATE", "WHEN", "SIZE", "TAGS"], lines)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def unreadable(rows: Iterable[Row]) -> list[str]:
    """The runs whose records cannot be read: nobody knows what they refer to."""
    return [row.run_id for row in rows if row.brief["state"] == UNREADABLE]
