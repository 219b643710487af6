"""Finding grids over all run roots that a repository knows, by whatever a person calls them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import roots
from engram.errors import RunnerError, RunNotFoundError
from engram.grid import record as records
from engram.index import Index
from engram.paths import GRID, GridPaths, RootPaths, RunPaths
from engram.record import RUN_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Known", "find_either", "find_grid", "grids_in", "holds_grid", "known_grids"]

LATEST = "latest"


class Known(NamedTuple):
    """A grid that was found in a run root.

    Attributes:
        paths: its folder.
        record: its record, given its true state.
    """

    paths: GridPaths
    record: dict[str, Any]

    @property
    def at(self) -> str:
        """When it was made."""
        return str(self.record["times"]["created"] or "")


def holds_grid(folder: Path) -> bool:
    """Whether a folder is a grid's, also of one that has no record yet or never got one."""
    paths = GridPaths(folder)
    return paths.record.is_file() or (
        RUN_ID.fullmatch(folder.name) is not None and paths.private.is_dir()
    )


def grids_in(root: RootPaths) -> list[GridPaths]:
    """The grids of a run root that have a record, the oldest first."""
    places = sorted(Index(root).places())
    return [paths for place in places if (paths := root.grid(place)).record.is_file()]


def known_grids(start: Path) -> list[Known]:
    """Every grid in the run roots that are known from a place, the newest first.

    Args:
        start: a repository, a run root, or a folder in one of them. Grids whose records cannot be
            read are left out.
    """
    found = []
    for paths in _everywhere(start):
        with contextlib.suppress(RunnerError):
            found.append(Known(paths, records.reconcile(paths)))
    return sorted(found, key=lambda known: (known.at, known.paths.grid_id), reverse=True)


def find_grid(start: Path, reference: str) -> GridPaths:
    """Find one grid; when its dispatcher is dead, its record says so from now on.

    Args:
        start: where the person stands.
        reference: an id, the beginning or the end of one, a folder anywhere, `latest`, or
            `latest:NAME` of an experiment.

    Returns:
        Its paths.

    Raises:
        RunNotFoundError: no grid answers, or several do.
    """
    paths = _folder(reference) or _latest(start, reference)
    if paths is None:
        found = _answering(_everywhere(start), reference)
        if not found:
            raise RunNotFoundError(_no_match(start, reference))
        if len(found) > 1:
            raise RunNotFoundError(_ambiguous(reference, found))
        paths = found[0]
    with contextlib.suppress(RunnerError):
        records.reconcile(paths)
    return paths


def find_either(start: Path, reference: str) -> RunPaths | GridPaths:
    """Find a run or a grid; `latest` and `latest:NAME` mean runs.

    Args:
        start: where the person stands.
        reference: see `find_grid` and Store.find.

    Raises:
        RunNotFoundError: nothing answers, or several runs and grids do.
    """
    from engram.store import Store

    paths = _folder(reference, strict=False)
    if paths is None:
        store = Store.for_root(start)
        if _is_latest(reference) or _names_folder(reference):
            return store.find(reference)
        grids = _answering(_everywhere(start), reference)
        if not grids:
            return store.find(reference)
        # An exact id is one grid's alone.
        runs = [] if grids[0].grid_id == reference else store.answering(reference)
        if len(grids) > 1 or runs:
            raise RunNotFoundError(_ambiguous(reference, [*grids, *runs]))
        paths = grids[0]
    with contextlib.suppress(RunnerError):
        records.reconcile(paths)
    return paths


def _everywhere(start: Path) -> list[GridPaths]:
    return [paths for folder in roots.known(start) for paths in grids_in(RootPaths(folder))]


def _is_latest(reference: str) -> bool:
    return reference == LATEST or reference.startswith(f"{LATEST}:")


def _names_folder(reference: str) -> bool:
    return "/" in reference or Path(reference).expanduser().is_dir()


def _folder(reference: str, *, strict: bool = True) -> GridPaths | None:
    """The grid in a folder that a person names; None when it is no folder of a grid."""
    path = Path(reference).expanduser()
    if path.name == GRID:
        path = path.parent
    paths = GridPaths(Path(os.path.realpath(path)))
    if paths.record.is_file() or not (strict and "/" in reference):
        return paths if paths.record.is_file() else None
    msg = f"{reference!r} is not a grid's folder: it holds no {GRID}"
    raise RunNotFoundError(msg if path.exists() else f"there is no folder {reference!r}")


def _latest(start: Path, reference: str) -> GridPaths | None:
    """The newest grid, of one experiment or of all; None when that is not what is asked for."""
    if not _is_latest(reference):
        return None
    name = reference.partition(":")[2]
    found = known_grids(start)
    for known in found:
        if name in ("", known.record.get("experiment")):
            return known.paths
    if not found:
        raise RunNotFoundError(_nothing(start))
    names = sorted({str(known.record.get("experiment")) for known in found})
    msg = f"no grid of an experiment {name!r}: there are grids of {', '.join(map(repr, names))}"
    raise RunNotFoundError(msg)


def _answering(found: Iterable[GridPaths], reference: str) -> list[GridPaths]:
    """All grids of the first of these kinds that any answers to; of copies, the first one."""
    grids: dict[str, GridPaths] = {}
    for paths in found:
        grids.setdefault(paths.grid_id, paths)
    kinds = (
        reference.__eq__,
        lambda grid_id: grid_id.startswith(reference),
        lambda grid_id: grid_id.endswith(f"-{reference}"),
    )
    for answers in kinds:
        if chosen := [paths for grid_id, paths in grids.items() if answers(grid_id)]:
            return chosen
    return []


def _no_match(start: Path, reference: str) -> str:
    """Say that nothing answers, and what is near."""
    grids = [known.paths.grid_id for known in known_grids(start)]
    if not grids:
        return f"no grid {reference!r}: {_nothing(start)}"
    import difflib

    near = difflib.get_close_matches(reference, grids, n=3)
    advice = (
        f"did you mean {' or '.join(near)}?" if near else "`list --grids` shows those there are"
    )
    return f"no grid {reference!r}: {advice}"


def _nothing(start: Path) -> str:
    """Say that there are no grids, and where was looked."""
    places = ", ".join(repr(str(folder)) for folder in roots.known(start))
    where = f" in {places}" if places else ": no run root is known here"
    return f"there are no grids yet{where}"


def _ambiguous(reference: str, found: Sequence[GridPaths | RunPaths]) -> str:
    """Say what answers to a reference."""
    shown = [
        f"    {paths.grid_id}  grid" if isinstance(paths, GridPaths) else f"    {paths.run_id}"
        for paths in found[:10]
    ]
    more = [f"    and {len(found) - 10} more"] if len(found) > 10 else []
    title = f"{reference!r} stands for {len(found)} of them; name one of"
    return "\n".join([title, *shown, *more])
