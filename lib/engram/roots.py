"""Which run roots there are: those a repository has used, and the one a person stands in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from engram.locks import append_whole
from engram.paths import CachePaths, RootPaths
from engram.record import store_error

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["known", "register"]

DEFAULT = "runs"


def register(cache: CachePaths, root: Path) -> None:
    """Remember that a repository keeps runs in `root`; one small read when it is known already.

    Args:
        cache: the repository's cache.
        root: the run root.

    Raises:
        StoreError: the cache cannot be written.
    """
    folder = os.path.realpath(root)
    if folder in _lines(cache.roots):
        return
    try:
        append_whole(cache.roots, os.fsencode(folder.replace("\n", "\0")) + b"\n")
    except OSError as error:
        raise store_error(cache.roots, error) from error


def known(start: Path) -> list[Path]:
    """Find the run roots to look into from `start`.

    Args:
        start: a repository, a folder in one, a run root, or a folder in one.

    Returns:
        Existing folders, each once: the run root that `start` lies in, those the repository has
        used, and its runs/.
    """
    here = Path(os.path.realpath(start))
    candidates: list[Path] = []
    for folder in (here, *here.parents):
        if RootPaths(folder).store.is_dir():
            candidates.append(folder)
        if (folder / ".git").exists():
            candidates += [Path(line) for line in _lines(_cache(folder).roots)]
            candidates.append(folder / DEFAULT)
            break
    return _existing(candidates)


def _existing(candidates: Iterable[Path]) -> list[Path]:
    """Keep the folders that exist, each once, in order."""
    real = (os.path.realpath(folder) for folder in candidates if folder.is_dir())
    return [Path(folder) for folder in dict.fromkeys(real)]


def _cache(root: Path) -> CachePaths:
    """Name the cache of a repository; git's code is loaded only for linked working trees."""
    git = root / ".git"
    if git.is_dir() and not (git / "commondir").exists():
        return CachePaths(git / "engram")
    from engram.repository import Repository

    return Repository(root).cache


def _lines(path: Path) -> list[str]:
    """Paths in a list of roots; none when it was never written."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [os.fsdecode(line).replace("\0", "\n") for line in data.split(b"\n") if line]
