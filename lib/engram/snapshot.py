"""Snapshots: the files of one commit, laid out once, verified by stat before each use, shared by all its runs.

The bytes are those of git's blobs, whatever line ends and filters the user's checkout has. A snapshot is built in a
folder of its own under a lock and takes its place by one rename, so that nobody ever sees half of one; a manifest
with every file's and folder's stat, change time included, tells later whether anything was written, added or removed.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError, StoreError, UnrecordedCodeError
from engram.files import write_atomic
from engram.git import Git, buffer
from engram.objects import CHUNK, GitObject, read_objects
from engram.sources import (
    RepositorySource,
    Source,
    TreeEntry,
    keep,
    read_tree,
    submodule_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engram.paths import CachePaths

_FORMAT = 1
_LFS_HEADS = (
    b"version https://git-lfs.github.com/spec/v1\n",
    b"version https://hawser.github.com/spec/v1\n",
)
_LFS_LONGEST = 1024
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit.

    Attributes:
        commit: whose files these are.
        path: the folder that holds them.
        common: the git folder, or store, the snapshot belongs to.
        missing: submodules that are empty folders here because they are checked out nowhere.
    """

    commit: str
    path: Path
    common: Path
    missing: tuple[str, ...] = ()


def ensure_snapshot(source: Source, commit: str, cache: CachePaths) -> Snapshot:
    """Return the commit's snapshot: the one that is there when it is intact, a new one otherwise.

    Args:
        source: where the commit's objects are; asked only when something must be built.
        commit: full id.
        cache: where snapshots lie.

    Raises:
        UnrecordedCodeError: a Git LFS pointer cannot be replaced by its content.
        ConfigError: the commit is not there, or git failed.
        StoreError: the cache cannot be written.
    """
    place = _Place(cache, commit)
    manifest = place.intact()
    if manifest is None or any(source.gained(path) for path in manifest["missing"]):
        with writing(cache.snapshots), place.locked():
            manifest = place.intact()
            if manifest is None or any(source.gained(path) for path in manifest["missing"]):
                manifest = _build(source, place)
    source.keep(commit)
    for path, git_dir in manifest["submodules"]:
        if git_dir is not None:
            keep(Path(git_dir), manifest["commits"][path])
    return place.snapshot(manifest, cache)


def intact_snapshot(commit: str, cache: CachePaths) -> Snapshot | None:
    """The commit's snapshot when it is there and intact; builds nothing."""
    place = _Place(cache, commit)
    manifest = place.intact()
    return None if manifest is None else place.snapshot(manifest, cache)


def discard_snapshot(cache: CachePaths, commit: str) -> None:
    """Remove a commit's snapshot; the next use builds it again.

    Raises:
        StoreError: it cannot be removed.
    """
    place = _Place(cache, commit)
    with writing(cache.snapshots), place.locked():
        place.manifest.unlink(missing_ok=True)
        place.clear()
        _remove(place.folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or missing permissions below `folder` into a message."""
    try:
        yield
    except OSError as error:
        msg = f"cannot write snapshots in {str(folder)!r}: {error.strerror or error}; free space or fix permissions"
        raise StoreError(msg) from error


class _Place:
    """The files of one commit's snapshot inside the cache."""

    def __init__(self, cache: CachePaths, commit: str) -> None:
        self.commit = commit
        self.parent = cache.snapshots
        self.folder = cache.snapshots / commit
        self.manifest = cache.snapshots / f"{commit}.json"
        self.lock = cache.snapshots / f"{commit}.lock"

    @property
    def new(self) -> Path:
        """Where a snapshot grows, or an old one waits for its removal; only the lock's holder looks at it."""
        return self.parent / f"{self.commit}.new"

    def snapshot(self, manifest: dict[str, Any], cache: CachePaths) -> Snapshot:
        """What the manifest describes."""
        missing = tuple(manifest["missing"])
        return Snapshot(self.commit, self.folder, cache.folder.parent, missing)

    def clear(self) -> None:
        """Remove what a killed builder left."""
        _remove(self.new)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this snapshot's lock; the kernel frees it when its holder dies."""
        import fcntl

        self.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def intact(self) -> dict[str, Any] | None:
        """The manifest, when every file and folder is as the builder left it."""
        try:
            manifest: dict[str, Any] = json.loads(self.manifest.read_bytes())
            if manifest["format"] != _FORMAT:
                return None
            prefix = f"{self.folder}/"
            lstat = os.lstat
            for name, expected in manifest["stats"].items():
                found = lstat(prefix + name)
                if expected != [
                    found.st_mode,
                    found.st_ino,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                ]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return manifest


@dataclass
class _Layout:
    """What was laid out: every file and folder, the submodules, and the pointers nobody could follow."""

    names: list[str] = field(default_factory=list)
    submodules: list[tuple[str, str | None]] = field(default_factory=list)
    commits: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)


def _build(source: Source, place: _Place) -> dict[str, Any]:
    """Lay the commit out beside its place, then put it there; the caller holds the lock."""
    place.clear()
    place.manifest.unlink(missing_ok=True)
    place.new.mkdir()
    layout = _Layout(names=[""])
    try:
        _lay_out(source, place.commit, place.new, "", layout)
        _refuse_pointers(layout.pointers)
    except BaseException:
        place.clear()
        raise
    stats = {name: _stat(f"{place.new}/{name}") for name in layout.names}
    _put_in_place(place.new, place.folder)
    # The rename itself changes the top folder's change time; its modification time tells of added files.
    top = _stat(f"{place.folder}/")
    if top[:4] == stats[""][:4]:
        stats[""] = top
    manifest = {
        "format": _FORMAT,
        "stats": stats,
        "submodules": layout.submodules,
        "commits": layout.commits,
        "missing": layout.missing,
    }
    write_atomic(place.manifest, json.dumps(manifest, separators=(",", ":")).encode())
    place.clear()
    return manifest


def _stat(path: str) -> list[int]:
    found = os.lstat(path)
    return [found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _lay_out(source: Source, commit: str, folder: Path, prefix: str, layout: _Layout) -> None:
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
        _lay_out(inner, link.blob, folder, path + "/", layout)


def _parents(path: str) -> Iterator[str]:
    """Every folder above a path, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _write_blobs(
    source: Source, files: list[TreeEntry], target: str, layout: _Layout, prefix: str
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
    git: Git, found: GitObject, entry: TreeEntry, layout: _Layout, prefix: str
) -> GitObject:
    """Replace a Git LFS pointer by its content; note it when git-lfs or the content is not there."""
    import hashlib

    with buffer(found.data) as stream:
        code, content, _ = git.start("lfs", "smudge", "--", entry.path, stdin=stream).finish()
    expected = b"oid sha256:" + hashlib.sha256(content).hexdigest().encode()
    if code == 0 and expected in found.data.splitlines():
        return found._replace(size=len(content), data=content)
    layout.pointers.append(prefix + entry.path)
    return found


def _refuse_pointers(pointers: list[str]) -> None:
    if not pointers:
        return
    listed = ", ".join(repr(path) for path in pointers[:20])
    more = f" and {len(pointers) - 20} more" if len(pointers) > 20 else ""
    msg = (
        f"{listed}{more}: only a Git LFS pointer is recorded and its content is not at hand; "
        "install git-lfs and run `git lfs fetch`, or commit the content itself"
    )
    raise UnrecordedCodeError(msg)


def _put_in_place(new: Path, folder: Path) -> None:
    """Give a finished snapshot its name; an older one there changes places with it in one step.

    Runs that still use the older one keep finding the right files under the same name.
    """
    if not os.path.lexists(folder):
        new.rename(folder)
    elif not _exchange(new, folder):
        aside = folder.with_name(f"{folder.name}.old")
        _remove(aside)
        folder.rename(aside)
        new.rename(folder)
        _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders atomically where the system can."""
    import ctypes

    try:
        swap: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _remove(path: Path) -> None:
    """Remove a file or a whole folder, whatever permissions a script gave to what is in it."""
    import shutil

    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        if not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
            Path(folder).chmod(stat.S_IRWXU)
    shutil.rmtree(path)
