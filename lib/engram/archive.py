"""Packs: the files of one commit, without history, in one file that outlives the repository."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from engram.errors import ConfigError, ResumeError
from engram.git import Git, buffer
from engram.objects import read_objects, write_own_pack
from engram.snapshot import Snapshot, ensure_snapshot, intact_snapshot, writing
from engram.sources import PackSource, Source, read_tree, submodule_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.paths import CachePaths


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
    with writing(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as target:
                if not _write_small_pack(parts, target, commit):
                    target.seek(0)
                    target.truncate()
                    _write_large_pack(parts, target)
            temporary.chmod(0o444)
            temporary.replace(destination)
        finally:
            temporary.unlink(missing_ok=True)


def _list_objects(source: Source, commit: str) -> Iterator[tuple[Source, list[str]]]:
    """The ids of all objects of a commit, then those of its submodules, each with where they lie."""
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
    """Write the pack here, which is much quicker than git when objects are loose; False when one is large."""
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


def snapshot_from_pack(pack: Path, commit: str, cache: CachePaths) -> Snapshot:
    """Lay out a commit from a pack written by `write_pack`; no repository is needed.

    git recomputes every object's id from its content, so a commit that is found is the recorded one.

    Args:
        pack: the file.
        commit: full id.
        cache: where snapshots lie.

    Raises:
        ResumeError: the pack is missing, damaged, or of another commit.
        UnrecordedCodeError: a Git LFS pointer cannot be replaced by its content.
        StoreError: the cache cannot be written.
    """
    import tempfile

    if (there := intact_snapshot(commit, cache)) is not None:
        return there
    with tempfile.TemporaryDirectory(prefix="engram-pack-") as scratch:
        git_dir = Path(scratch) / "git"
        _unpack(pack, commit, git_dir)
        return ensure_snapshot(PackSource(git_dir), commit, cache)


def _unpack(pack: Path, commit: str, git_dir: Path) -> None:
    """Make a bare git folder that holds the pack; its commits count as having no parents."""
    for folder in ("objects/pack", "refs"):
        (git_dir / folder).mkdir(parents=True)
    (git_dir / "HEAD").write_text("ref: refs/heads/none\n")
    (git_dir / "shallow").write_text(f"{commit}\n")
    (git_dir / "config").write_text(_scratch_config(commit))
    git = Git.of_objects(git_dir)
    try:
        with pack.open("rb") as stream:
            git.start("index-pack", "--stdin", stdin=stream).output()
        git.run("cat-file", "-e", f"{commit}^{{tree}}")
    except (OSError, ConfigError) as error:
        msg = f"the source archive {str(pack)!r} does not give back commit {commit}: {error}"
        raise ResumeError(msg) from error


def _scratch_config(commit: str) -> str:
    """The configuration of a scratch git folder; long ids are SHA-256."""
    if len(commit) == 40:
        return "[core]\nrepositoryformatversion = 0\nbare = true\n"
    return "[core]\nrepositoryformatversion = 1\nbare = true\n[extensions]\nobjectFormat = sha256\n"
