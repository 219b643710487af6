"""Packs: the files of one commit, without history, in one file that outlives the repository."""

from __future__ import annotations

import os
from itertools import chain
from typing import IO, TYPE_CHECKING

from engram.errors import StoreError
from engram.git import buffer
from engram.objects import read_objects, write_own_pack
from engram.sources import Source, read_tree, submodule_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_pack(source: Source, commit: str, destination: Path) -> None:
    """Write the objects of a commit and of its submodules, without history, as one git pack.

    Args:
        source: where the objects are.
        commit: full id.
        destination: the file to make; it appears whole or not at all.

    Raises:
        ConfigError: git failed.
        StoreError: `destination` cannot be written.
    """
    parts = list(_list_objects(source, commit))
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_parts(parts, temporary, commit)
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        msg = f"cannot write {str(destination)!r}: {reason}; free space or fix permissions"
        raise StoreError(msg) from error


def _write_parts(parts: list[tuple[Source, list[str]]], path: Path, commit: str) -> None:
    """Write the pack to `path`, read-only."""
    with path.open("wb") as target:
        if not _write_small_pack(parts, target, commit):
            target.seek(0)
            target.truncate()
            _write_large_pack(parts, target)
    path.chmod(0o444)


def _list_objects(source: Source, commit: str) -> Iterator[tuple[Source, list[str]]]:
    """The ids of a commit's objects, then of its submodules', each with where they lie."""
    listing = source.git.run("rev-list", "--objects", "--no-walk", "--no-object-names", commit)
    yield source, listing.decode().split()
    _, links = read_tree(source.git, commit)
    names = submodule_names(source.git, commit) if links else {}
    for link in links:
        inner = source.submodule(link.path, names.get(link.path), link.blob)
        if inner is not None:
            yield from _list_objects(inner, link.blob)


def _write_small_pack(
    parts: list[tuple[Source, list[str]]], target: IO[bytes], commit: str
) -> bool:
    """Write the pack without git, much quicker for loose objects; False when one is large."""
    seen: set[str] = set()
    unique = []
    for source, ids in parts:
        unique.append((source, [name for name in dict.fromkeys(ids) if name not in seen]))
        seen.update(ids)
    streams = (read_objects(source.git, source.store, ids) for source, ids in unique)
    return write_own_pack(chain.from_iterable(streams), len(seen), target, commit)


def _write_large_pack(parts: list[tuple[Source, list[str]]], target: IO[bytes]) -> None:
    """Let git write the pack."""
    stores = os.pathsep.join(str(source.store) for source, _ in parts[1:])
    git = parts[0][0].git.with_variables(GIT_ALTERNATE_OBJECT_DIRECTORIES=stores)
    with buffer("".join(f"{name}\n" for _, ids in parts for name in ids).encode()) as names:
        git.start(
            "pack-objects", "--stdout", "--window=0", "-q", stdin=names, stdout=target
        ).output()
