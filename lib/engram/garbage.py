"""`gc`: runs that are not wanted anymore, and everything that no run needs."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engram import errors
from engram import record as records
from engram.grid import record as grids
from engram.grid.find import grids_in, holds_grid
from engram.index import Index
from engram.leftovers import Leftover, Needs, in_cache, in_repository, in_root
from engram.paths import CachePaths, GridPaths, RunPaths
from engram.removal import (
    DRY,
    Doomed,
    counted,
    obstacle,
    referrers,
    remove,
    table,
    unreadable,
    widest_store,
)
from engram.repository import Repository, find_root
from engram.store import Store
from engram.table import epoch, size
from engram.trash import Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engram.index import Row
    from engram.paths import RootPaths

__all__ = ["Plan", "Wanted", "gc_command"]

STATES = tuple(state for state in records.STATES if state in records.ENDED)
AGAIN = "nothing to do: every run is wanted, and nothing lies about that no run needs"


class Wanted(NamedTuple):
    """Which runs may go; with no condition at all, none.

    Attributes:
        older_than_s: those that ended at least so many seconds ago.
        states: those that ended in one of these states; all of them when empty.
        keep_last: but not the newest so many of each experiment, among those states; the points
            of a grid count as one.
    """

    older_than_s: float | None = None
    states: tuple[str, ...] = ()
    keep_last: int | None = None

    def __bool__(self) -> bool:
        """Whether any run is meant."""
        return self.older_than_s is not None or bool(self.states) or self.keep_last is not None


class Plan(NamedTuple):
    """What would go, and what stays for which reason.

    Attributes:
        runs: the runs.
        leftovers: what no run needs.
        reasons: lines on what is kept although it was asked for.
    """

    runs: list[Doomed]
    leftovers: list[Leftover]
    reasons: list[str]


def gc_command(start: Path, wanted: Wanted, *, yes: bool = False) -> tuple[str, int]:
    """Collect garbage; without `yes`, say what would go.

    Args:
        start: where the person stands.
        wanted: which runs may go.
        yes: whether to do it.

    Returns:
        What to tell the person, and the exit code: INCOMPLETE when something could not be removed.

    Raises:
        ConfigError: neither a repository nor a run root is here, or a number is negative.
        StoreError: the index cannot be read.
    """
    if wanted.keep_last is not None and wanted.keep_last < 0:
        msg = f"--keep-last {wanted.keep_last!r} is negative: write 0 to keep none"
        raise errors.ConfigError(msg)
    plan = make_plan(start, wanted)
    if not (plan.runs or plan.leftovers):
        return "\n".join([*plan.reasons, AGAIN]), errors.COMPLETED
    lines = [table(plan.runs)] if plan.runs else []
    if not yes:
        freed = weigh([*(one.weight for one in plan.runs), *(i.weight for i in plan.leftovers)])
        told = f"{size(freed)} would be freed; {DRY}"
        lines += [*summary(plan.leftovers), *plan.reasons, told]
        return "\n".join(lines), errors.COMPLETED
    gone, failures = carry_out(
        (one.weight, partial(remove, one.paths, one.root)) for one in plan.runs
    )
    # Looked at again: deleting takes time, and a run may have stayed or been started meanwhile.
    rest = make_plan(start, Wanted()).leftovers
    more, failed = carry_out((item.weight, item.remove) for item in rest)
    lines += [*summary(rest), *plan.reasons, *failures, *failed]
    lines.append(f"{size(weigh([*gone, *more]))} freed")
    return "\n".join(lines), errors.INCOMPLETE if failures or failed else errors.COMPLETED


def make_plan(start: Path, wanted: Wanted) -> Plan:
    """Find what may go."""
    repository = here(start)
    store = Store.for_root(start)
    if repository is None and not store.indices:
        msg = f"{str(start)!r} lies neither in a git repository nor in a run root"
        raise errors.ConfigError(msg)
    own = [index.root for index in store.indices]
    rows = store.list_runs()
    chosen = choose(rows, wanted)
    widest = widest_store(start, [row.paths for row in chosen])
    everywhere = widest.list_runs()
    doubt = doubts(repository, everywhere) or grid_doubts(index.root for index in widest.indices)
    doomed, reasons = spare(chosen, everywhere, doubt)
    going = {one.paths.folder for one in doomed}
    needs = None
    if doubt:
        reasons.append(f"snapshots, packs and refs are kept: {doubt}")
    else:
        stay = (row.paths for row in everywhere if row.paths.folder not in going)
        needs = needed([*stay, *(one for index in widest.indices for one in grids_in(index.root))])
    leftovers: list[Leftover] = []
    if needs is not None:
        caches = [CachePaths(root.store / "cache") for root in own]
        if repository is not None:
            caches.append(repository.cache)
            leftovers += in_repository(repository.common_dir, needs)
        leftovers += [item for cache in caches for item in in_cache(cache, needs)]
    leftovers += [item for root in own for item in in_root(root, needs)]
    return Plan(doomed, leftovers, reasons)


def here(start: Path) -> Repository | None:
    """The repository a person stands in."""
    try:
        return Repository(find_root(start))
    except errors.ConfigError:
        return None


def choose(rows: Sequence[Row], wanted: Wanted) -> list[Row]:
    """The runs that meet the conditions; `rows` are the newest first."""
    if not wanted:
        return []
    states = wanted.states or tuple(records.ENDED)
    # The points of a grid count as one: keeping the newest few must not take a grid apart.
    seen: dict[str, dict[str, int]] = {}
    found = []
    for row in rows:
        brief = row.brief
        if brief["state"] not in states or brief["state"] not in records.ENDED:
            continue
        units = seen.setdefault(brief["experiment"], {})
        rank = units.setdefault(brief["grid"] or row.run_id, len(units))
        old = ended_before(brief["ended"] or brief["created"], wanted.older_than_s)
        if old and rank >= (wanted.keep_last or 0):
            found.append(row)
    return found


def ended_before(ended: str | None, seconds: float | None) -> bool:
    """Whether a run is old enough; one that bears no time is not."""
    if seconds is None:
        return True
    when = epoch(ended)
    return when is not None and time.time() - when >= seconds


def doubts(repository: Repository | None, rows: Iterable[Row]) -> str | None:
    """Why it cannot be told what all runs need and refer to; None when it can."""
    if bad := unreadable(rows):
        return f"the record of {bad[0]} cannot be read, so what it needs is not known"
    for row in rows:
        if row.brief["state"] == "created" and not row.paths.metadata.exists():
            return f"run {row.run_id} is just being made: try again when it has begun"
    if repository is None or not (lost := out_of_reach(repository.cache.roots)):
        return None
    return (
        f"the run root {lost[0]!r} is out of reach: mount it, or if it is gone for good "
        f"take its line out of {str(repository.cache.roots)!r}"
    )


def out_of_reach(listed: Path) -> list[str]:
    """The run roots of a list that may lie on a disk that is not mounted now.

    One that was deleted left the folder around it; a mount point without its disk is empty.
    """
    data = listed.read_bytes() if listed.exists() else b""
    folders = [os.fsdecode(line).replace("\0", "\n") for line in data.split(b"\n") if line]
    return [
        folder
        for folder in folders
        if not Path(folder).is_dir()
        and not (Path(folder).parent.is_dir() and any(Path(folder).parent.iterdir()))
    ]


def spare(
    chosen: Sequence[Row], everywhere: Sequence[Row], doubt: str | None
) -> tuple[list[Doomed], list[str]]:
    """Take out the runs that must stay.

    Returns:
        The runs that may go, and lines on those that stay.
    """
    if doubt and chosen:
        return [], [f"{counted(len(chosen), 'run')} kept: {doubt}"]
    pointed = referrers(everywhere)
    reasons, free = [], {}
    for row in chosen:
        if (why := obstacle(row.paths)) is None:
            free[row.run_id] = row
        else:
            reasons.append(f"kept {row.run_id}: {why}")
    # Sparing one run may bind those that it refers to, and so on.
    while bound := [
        run for run in free if any(other not in free for other, _ in pointed.get(run, ()))
    ]:
        for run in bound:
            other, how = next(item for item in pointed[run] if item[0] not in free)
            reasons.append(f"kept {run}: run {other} {how}")
        free = {run: row for run, row in free.items() if run not in bound}
    doomed = [Doomed(row.paths, row.brief, Weight(row.paths.folder)) for row in free.values()]
    return doomed, reasons


def grid_doubts(folders: Iterable[RootPaths]) -> str | None:
    """Why it cannot be told what all grids need; None when it can."""
    for root in folders:
        for place in Index(root).places():
            paths = root.grid(place)
            try:
                if holds_grid(paths.folder):
                    grids.load(paths)
            except errors.RunNotFoundError:
                if grids.standing(paths, None) != "dead":
                    return f"grid {place} is just being made: try again when it has begun"
            except errors.StoreError:
                return f"the record of grid {place} cannot be read, so what it needs is not known"
    return None


def needed(users: Iterable[RunPaths | GridPaths]) -> Needs:
    """What runs, and grids that may be resumed, need, by their records."""
    commits: dict[str, float] = {}
    interpreters: dict[str, float] = {}
    submodules: set[str] = set()
    now = time.time()
    for paths in users:
        try:
            record = grids.load(paths) if isinstance(paths, GridPaths) else records.load(paths)
        except errors.RunNotFoundError:
            continue  # killed before its record was born: it needs nothing
        ended = record["state"] in records.ENDED
        times = record["times"]
        used = (epoch(times["ended"] or times["created"]) or now) if ended else now
        code = record["code"]
        if commit := code["snapshot_commit"]:
            commits[commit] = max(used, commits.get(commit, 0.0))
        submodules.update(item["commit"] for item in code.get("submodules") or ())
        if isinstance(paths, RunPaths):
            python = str(record["environment"].get("executable"))
            interpreters[python] = max(used, interpreters.get(python, 0.0))
    return Needs(commits, frozenset(submodules), interpreters)


def summary(leftovers: Sequence[Leftover]) -> list[str]:
    """One line for each kind of leftover."""
    kinds: dict[str, list[Leftover]] = {}
    for item in leftovers:
        kinds.setdefault(item.kind, []).append(item)
    lines = []
    for kind, items in kinds.items():
        weight = weigh([item.weight for item in items], whole=True)
        names = ", ".join(item.name.rpartition("/")[2][:12] for item in items[:3])
        more = ", ..." if len(items) > 3 else ""
        lines.append(f"{counted(len(items), kind)}, {size(weight)}: {names}{more}")
    return lines


def weigh(weights: Iterable[Weight], *, whole: bool = False) -> int:
    """The bytes that are free once all of these are gone; with `whole`, all their bytes."""
    total = Weight()
    for weight in weights:
        total.merge(weight)
    return total.size if whole else total.freed


def carry_out(
    acts: Iterable[tuple[Weight, Callable[[], None]]],
) -> tuple[list[Weight], list[str]]:
    """Remove things; what cannot be removed does not stop the rest.

    Args:
        acts: the weight of each thing, and what removes it.

    Returns:
        The weights of what is gone, and a line for each failure.
    """
    gone: list[Weight] = []
    failures: list[str] = []
    for weight, act in acts:
        try:
            act()
        except (errors.RunnerError, OSError) as error:
            failures.append(f"not removed: {error}")
        else:
            gone.append(weight)
    return gone, failures
