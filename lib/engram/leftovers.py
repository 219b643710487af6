"""What lies in caches and run roots that no run needs: snapshots, packs, refs, environments, trash.

All of it can be made again from what the runs themselves hold, so a mistake costs time, not data.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engram.git import Git
from engram.grid.attempts import run_folders
from engram.grid.find import holds_grid
from engram.grid.record import standing
from engram.paths import GridPaths
from engram.recreate import STAMP
from engram.snapshot import discard_snapshot
from engram.trash import Weight, erase, left_aside, unlocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engram.paths import CachePaths, RootPaths

__all__ = ["FRESH_S", "UNUSED_S", "Leftover", "Needs", "in_cache", "in_repository", "in_root"]

# A run takes its snapshot a moment before anybody can read in its record that it does.
FRESH_S = 60.0
# A file that a runner makes under a passing name is a dead one's when it rests so long.
ABANDONED_S = 3600.0
# What only saves time is kept this long after its last use.
UNUSED_S = 30 * 86400.0
REFS = "refs/engram/"


class Needs(NamedTuple):
    """What the runs that stay need.

    Attributes:
        commits: snapshot commit -> when a run last used it, in epoch seconds; now for a live one.
        submodules: the commits of submodules.
        interpreters: path of a recorded interpreter -> when a run last used it.
    """

    commits: Mapping[str, float]
    submodules: frozenset[str]
    interpreters: Mapping[str, float]


class Leftover(NamedTuple):
    """One thing that no run needs.

    Attributes:
        kind: what it is, as a noun.
        name: which one.
        weight: its bytes.
        remove: removes it.
    """

    kind: str
    name: str
    weight: Weight
    remove: Callable[[], None]


def in_root(root: RootPaths, needs: Needs | None) -> Iterator[Leftover]:
    """What a run root holds for nobody.

    Args:
        root: the run root.
        needs: of the runs that stay; None when that is not known, and what they may need stays.
    """
    for path in _files(root.sources):
        if path.suffix == ".tmp" and _rests(path, ABANDONED_S):
            yield _of("unfinished file", path)
    if needs is not None:
        for path in _files(root.sources):
            wanted = path.suffix != ".pack" or path.stem in needs.commits
            if not wanted and _rests(path, FRESH_S):
                yield _of("source pack", path)
    for path in left_aside(root):
        yield _of("half-removed run", path)
    for paths in _stillborn_grids(root):
        yield _of("half-made grid", paths.folder)
    for folder in _folders(root.submissions):
        if _rests(folder, UNUSED_S):
            yield _of("submitted run", folder)


def _stillborn_grids(root: RootPaths) -> Iterator[GridPaths]:
    """The folders of grids that were killed before they had a record, and so before any run."""
    for folder in _folders(root.folder):
        paths = GridPaths(folder)
        if paths.record.exists() or not holds_grid(folder) or run_folders(paths):
            continue
        if standing(paths, None) == "dead":
            yield paths


def in_cache(cache: CachePaths, needs: Needs) -> Iterator[Leftover]:
    """What a cache holds for nobody."""
    going = list(_snapshots(cache, needs))
    yield from going
    gone = {item.name for item in going}
    kept = {path.name for path in _folders(cache.snapshots)} - gone
    yield from _bytecode(cache, kept)
    for path in _folders(cache.scratch("live").parent):
        if path.name not in kept | {"live"} and _rests(path, FRESH_S):
            yield _of("scratch folder", path)
    for path in _files(cache.packs):
        if _rests(path, ABANDONED_S):
            yield _of("unfinished file", path)
    for path in sorted(cache.compiled.rglob("*")):
        if path.is_file() and _rests(path, UNUSED_S):
            yield _of("compiled file", path)
    yield from _environments(cache, needs)


def _of(kind: str, path: Path) -> Leftover:
    """A file or folder that is simply deleted."""
    return Leftover(kind, path.name, Weight(path), partial(erase, path))


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder; none when it is missing."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _files(parent: Path) -> list[Path]:
    """The files in a folder; none when it is missing."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_file())


def _rests(path: Path, seconds: float) -> bool:
    """Whether nobody has touched a path for so long."""
    return time.time() - _changed(path) >= seconds


def _changed(path: Path) -> float:
    """When a path was last changed, in epoch seconds; 0 when it is missing."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _snapshots(cache: CachePaths, needs: Needs) -> Iterator[Leftover]:
    """The snapshots of commits without runs, and of those whose runs are long over."""
    if not cache.snapshots.is_dir():
        return
    parts: dict[str, list[Path]] = {}
    for path in sorted(cache.snapshots.iterdir()):
        if path.suffix != ".lock" and not path.name.startswith("."):
            parts.setdefault(path.name.partition(".")[0], []).append(path)
    for commit, paths in parts.items():
        lock = cache.snapshots / f"{commit}.lock"
        used = needs.commits.get(commit)
        idle = used is None or time.time() - used > UNUSED_S
        with unlocked(lock) as free:
            if free and idle and _rests(lock, FRESH_S):
                remove = partial(_discard, cache, commit, paths)
                yield Leftover("snapshot", commit, Weight(*paths), remove)


def _discard(cache: CachePaths, commit: str, paths: Iterable[Path]) -> None:
    """Remove a snapshot under its lock, then what killed builders left beside it."""
    discard_snapshot(cache, commit)
    for path in paths:
        erase(path)


def _bytecode(cache: CachePaths, kept: set[str]) -> Iterator[Leftover]:
    """The compiled modules of snapshots that are gone, or that lay elsewhere.

    They lie below the path that their snapshot has.
    """
    folder = cache.bytecode
    for part in cache.snapshots.absolute().parts[1:]:
        yield from (_of("bytecode folder", path) for path in _folders(folder) if path.name != part)
        folder = folder / part
    for path in _folders(folder):
        if path.name not in kept:
            yield _of("bytecode folder", path)


def _environments(cache: CachePaths, needs: Needs) -> Iterator[Leftover]:
    """Recreated environments that no run has used for long, and those half made."""
    for path in _folders(cache.environments):
        lock = path.with_name(f"{path.name}.lock")
        inside = f"{path}{os.sep}"
        runs = [when for python, when in needs.interpreters.items() if python.startswith(inside)]
        used = max([_changed(path / STAMP), *runs])
        with unlocked(lock) as free:
            if free and time.time() - used > UNUSED_S:
                remove = partial(_drop_environment, path, lock)
                yield Leftover("recreated environment", path.name, Weight(path), remove)


def _drop_environment(folder: Path, lock: Path) -> None:
    """Remove an environment, unless somebody is at work on it; the stamp goes first."""
    with unlocked(lock) as free:
        if free:
            (folder / STAMP).unlink(missing_ok=True)
            erase(folder)


def in_repository(common_dir: Path, needs: Needs) -> Iterator[Leftover]:
    """Hidden refs of commits that no run was started from; the submodules' too.

    Args:
        common_dir: the repository's common git folder.
        needs: of the runs that stay.
    """
    yield from _refs(common_dir, needs.commits.keys())
    for git_dir in _submodules(common_dir):
        yield from _refs(git_dir, needs.submodules | needs.commits.keys())


def _submodules(git_dir: Path) -> Iterator[Path]:
    """The git folders of submodules, which may lie in folders of their own and in each other."""
    for folder, inner, _ in os.walk(git_dir / "modules"):
        if {"objects", "refs"} <= set(inner):
            inner[:] = [name for name in inner if name == "modules"]
            yield Path(folder)


def _refs(git_dir: Path, commits: Iterable[str]) -> Iterator[Leftover]:
    """The hidden refs in one git folder that stand for none of `commits`."""
    git = Git.of_objects(git_dir)
    listed = git.run("for-each-ref", "--format=%(refname)", REFS).decode().split()
    for ref in sorted(set(listed) - {REFS + commit for commit in commits}):
        if _rests(git_dir / ref, FRESH_S):
            remove = partial(git.run, "update-ref", "-d", ref, ref.removeprefix(REFS))
            yield Leftover("hidden ref", ref, Weight(), partial(_call, remove))


def _call(function: Callable[[], object]) -> None:
    """Call a function whose answer nobody needs."""
    function()
