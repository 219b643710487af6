"""Removing runs: which may go, who refers to them, and `rm`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import lease, open_runs, roots
from engram import record as records
from engram.brief import UNREADABLE
from engram.errors import ConfigError, RunnerError, RunNotFoundError, StoreError
from engram.index import Index
from engram.paths import RootPaths
from engram.reconcile import reconcile, standing, whereabouts
from engram.store import Store
from engram.table import age, columns, epoch, size
from engram.trash import Weight, erase, put_aside, unlocked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engram.index import Row
    from engram.paths import RunPaths

__all__ = ["Doomed", "obstacle", "referrers", "remove", "rm_command", "table", "widest_store"]

EDGES = {
    "resumed_from": "continues it",
    "rerun_of": "repeats it",
    "input_runs": "takes its outputs as input",
}
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
    found = [Store.for_root(start).find(reference) for reference in references]
    chosen = list(dict.fromkeys(found))
    rows = widest_store(start, chosen).list_runs()
    _require_free(chosen, rows)
    briefs = {row.paths.folder: row.brief for row in rows}
    doomed = [Doomed(paths, briefs[paths.folder], Weight(paths.folder)) for paths in chosen]
    total = Weight()
    for one in doomed:
        total.merge(one.weight)
    lines = [table(doomed)]
    if not yes:
        return "\n".join([*lines, f"{size(total.freed)} would be freed; {DRY}"])
    for one in doomed:
        remove(one.paths, one.root)
    return "\n".join([*lines, f"{counted(len(doomed), 'run')} removed, {size(total.freed)} freed"])


def widest_store(start: Path, chosen: Iterable[RunPaths]) -> Store:
    """Every root where a run may refer to one of `chosen`.

    Those known here, those that the runs' own repositories have used, and those the runs lie in.
    """
    extra: dict[Path, None] = {}
    repositories: set[str] = set()
    for paths in chosen:
        root = RootPaths(paths.folder.parent.parent)
        if root.store.is_dir():
            extra[root.folder] = None
        try:
            repositories.add(records.load(paths)["repository"]["root"])
        except (RunnerError, KeyError, TypeError):
            continue
    for repository in sorted(repositories):
        if (Path(repository) / ".git").exists():
            extra.update(dict.fromkeys(roots.known(Path(repository))))
    return Store.for_root(start, extra)


def _require_free(chosen: Sequence[RunPaths], rows: Sequence[Row]) -> None:
    """Refuse when one of the chosen runs must stay.

    Raises:
        ConfigError: naming all that stand in the way.
    """
    indexed = {row.paths.folder: row.run_id for row in rows}
    going = {indexed.get(paths.folder) for paths in chosen}
    pointed = referrers(rows)
    reasons = []
    for paths in chosen:
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
        msg = "nothing was removed:\n" + "\n".join(f"    {reason}" for reason in reasons)
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
    return None


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
