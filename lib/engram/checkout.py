"""Writing the files of a commit, its submodules' too, with the bytes of git's blobs."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engram.errors import ConfigError, UnrecordedCodeError
from engram.git import Git, buffer
from engram.objects import CHUNK, GitObject, read_objects
from engram.sources import RepositorySource, Source, TreeEntry, read_tree, submodule_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LFS_HEADS = (
    b"version https://git-lfs.github.com/spec/v1\n",
    b"version https://hawser.github.com/spec/v1\n",
)
_LFS_LONGEST = 1024


@dataclass
class Layout:
    """What was laid out: files and folders, submodules, and the pointers nobody could follow."""

    names: list[str] = field(default_factory=list)
    submodules: list[tuple[str, str | None]] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)


def lay_out(source: Source, commit: str, folder: Path, prefix: str, layout: Layout) -> None:
    """Write the files of one commit, then those of its submodules, below `folder`."""
    files, links = read_tree(source.git, commit)
    for name in sorted({parent for entry in (*files, *links) for parent in _parents(entry.path)}):
        os.mkdir(f"{folder}/{prefix}{name}")  # noqa: PTH102 (Path costs more than the call itself)
        layout.names.append(prefix + name)
    _write_blobs(source, files, f"{folder}/{prefix}", layout, prefix)
    layout.names.extend(prefix + entry.path for entry in files)
    names = submodule_names(source.git, commit) if links else {}
    for link in links:
        path = prefix + link.path
        (folder / path).mkdir()
        layout.names.append(path)
        inner = source.submodule(link.path, names.get(link.path), link.blob)
        if inner is None:
            layout.missing.append(path)
            continue
        layout.submodules.append(
            (path, str(inner.git.where) if isinstance(inner, RepositorySource) else None)
        )
        layout.commits[path] = link.blob
        lay_out(inner, link.blob, folder, path + "/", layout)


def _parents(path: str) -> Iterator[str]:
    """Every folder above a path, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _write_blobs(
    source: Source, files: list[TreeEntry], target: str, layout: Layout, prefix: str
) -> None:
    """Write every file's blob as it is."""
    objects = read_objects(source.git, source.store, [entry.blob for entry in files])
    with closing(objects):
        for found in objects:
            entry = files[found.position]
            path = target + entry.path
            if entry.mode == "120000":
                os.symlink(found.data, os.fsencode(path))  # noqa: PTH211
                continue
            if found.size < _LFS_LONGEST and found.data.startswith(_LFS_HEADS):
                found = _follow_pointer(source.git, found, entry, layout, prefix)  # noqa: PLW2901
            _write_file(path, 0o555 if entry.mode == "100755" else 0o444, found)


def _write_file(path: str, mode: int, found: GitObject) -> None:
    """Write a read-only file; large ones piece by piece."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_all(descriptor, found.data)
        left = found.size - len(found.data)
        while left > 0 and found.stream is not None:
            piece = found.stream.read(min(left, CHUNK))
            if not piece:
                msg = f"git ended before the content of {path!r} was complete"
                raise ConfigError(msg)
            left -= len(piece)
            _write_all(descriptor, piece)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _follow_pointer(
    git: Git, found: GitObject, entry: TreeEntry, layout: Layout, prefix: str
) -> GitObject:
    """Replace a Git LFS pointer by its content; note it when that is not to be had."""
    import hashlib

    with buffer(found.data) as stream:
        code, content, _ = git.start("lfs", "smudge", "--", entry.path, stdin=stream).finish()
    expected = b"oid sha256:" + hashlib.sha256(content).hexdigest().encode()
    if code == 0 and expected in found.data.splitlines():
        return found._replace(size=len(content), data=content)
    layout.pointers.append(prefix + entry.path)
    return found


def refuse_pointers(pointers: list[str]) -> None:
    """Refuse a commit whose files are not all at hand.

    Args:
        pointers: the Git LFS pointers that nobody could follow.

    Raises:
        UnrecordedCodeError: there is one, naming it.
    """
    if not pointers:
        return
    listed = ", ".join(repr(path) for path in pointers[:20])
    more = f" and {len(pointers) - 20} more" if len(pointers) > 20 else ""
    msg = (
        f"{listed}{more}: only a Git LFS pointer is recorded and its content is not at hand; "
        "install git-lfs and run `git lfs fetch`, or commit the content itself"
    )
    raise UnrecordedCodeError(msg)
