"""Removing grids: whether one may go, and what is left of its folder when its runs are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engram import open_runs
from engram.errors import ConfigError, RunNotFoundError, StoreError
from engram.grid import record as records
from engram.paths import RunPaths
from engram.trash import erase, put_aside, unlocked

if TYPE_CHECKING:
    from engram.paths import GridPaths, RootPaths

__all__ = ["grid_obstacle", "remove_rest"]


def grid_obstacle(paths: GridPaths) -> str | None:
    """Why a grid, and so each of its runs, must stay: it is alive or pinned, or nobody can tell.

    Returns:
        The end of a sentence that begins with the grid, and what to do; None when it may go.
    """
    try:
        record = records.load(paths)
    except RunNotFoundError:
        return None
    except StoreError as error:
        return f"may be pinned, which nobody can tell: {error}; delete the folder by hand"
    if record["state"] not in records.ENDED and records.standing(paths, record) != "dead":
        place = records.whereabouts(paths, record) or record["state"]
        return f"is {place}: wait until it has ended"
    if record.get("pinned"):
        return "is pinned: take the pin away first, with pin --remove"
    return None


def remove_rest(paths: GridPaths, root: RootPaths) -> None:
    """Remove the folder of a grid whose runs are gone.

    Args:
        paths: the grid's folder.
        root: the root it lies in.

    Raises:
        ConfigError: by now it must stay.
        StoreError: it cannot be removed; what was put aside is found by the next gc.
    """
    try:
        # Whoever resumes or pins the grid holds this lock, and finds the grid gone afterwards.
        with unlocked(paths.record) as free:
            why = grid_obstacle(paths) if free else "is being written to: try again"
            if why is not None:
                msg = f"{paths.grid_id}: it {why}"
                raise ConfigError(msg)
            if paths.folder.is_symlink():  # moved to another disk by hand
                aside = paths.folder.resolve()
                paths.folder.unlink()
            else:
                aside = put_aside(RunPaths(paths.folder), root)
        open_runs.grid_closed(root, paths)
        erase(aside)
    except FileNotFoundError:
        return  # someone else was faster
    except OSError as error:
        where = error.filename or str(paths.folder)
        msg = f"cannot remove {str(where)!r}: {error.strerror or error}"
        raise StoreError(msg) from error
