"""Snapshots: the files of one commit, laid out once, verified by stat, shared by its runs.

A snapshot is built in a folder of its own under a lock and takes its place by one rename, so that
nobody ever sees half of one; a manifest with every file's and folder's stat, change time included,
tells later whether anything was written, added or removed.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError, ResumeError, StoreError
from engram.files import write_atomic
from engram.git import Git
from engram.sources import PackSource, Source, keep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engram.paths import CachePaths

_FORMAT = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class Snapshot(NamedTuple):
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
    place.touch()
    if manifest is None or any(source.gained(path) for path in manifest["missing"]):
        with _writing(cache.snapshots), place.locked():
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
    with _writing(cache.snapshots), place.locked():
        place.manifest.unlink(missing_ok=True)
        place.clear()
        _remove(place.folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or missing permissions below `folder` into a message."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        msg = f"cannot write snapshots in {str(folder)!r}: {reason}; free space or fix permissions"
        raise StoreError(msg) from error


class _Place:
    """The files of one commit's snapshot inside the cache."""

    def __init__(self, cache: CachePaths, commit: str) -> None:
        self.commit = commit
        self.parent = cache.snapshots
        self.folder = cache.snapshots / commit
        self.manifest = cache.snapshots / f"{commit}.json"
        self.lock = cache.snapshots / f"{commit}.lock"

    def touch(self) -> None:
        """Show that the snapshot is about to be used: clearing up leaves it alone for a while."""
        try:
            os.utime(self.lock)
        except OSError:
            return  # never built, or a cache that only reads: nobody clears that up

    @property
    def new(self) -> Path:
        """Where one grows, or an old one waits for removal; only the lock's holder looks here."""
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


def _build(source: Source, place: _Place) -> dict[str, Any]:
    """Lay the commit out beside its place, then put it there; the caller holds the lock."""
    # Only a cold start needs it, and what it imports is slow.
    from engram.checkout import Layout, lay_out, refuse_pointers

    place.clear()
    place.manifest.unlink(missing_ok=True)
    place.new.mkdir()
    layout = Layout(names=[""])
    try:
        lay_out(source, place.commit, place.new, "", layout)
        refuse_pointers(layout.pointers)
    except BaseException:
        place.clear()
        raise
    stats = {name: _stat(f"{place.new}/{name}") for name in layout.names}
    _put_in_place(place.new, place.folder)
    # The rename itself changes the top folder's change time; its modification time tells of
    # files that were added meanwhile.
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
    _open_up(path)
    for folder, inner, _ in os.walk(path):
        for name in inner:
            _open_up(Path(folder) / name)
    shutil.rmtree(path)


def _open_up(folder: Path) -> None:
    """Give back the rights that removing what is in a folder needs; before it is listed."""
    if not folder.is_symlink() and not os.access(folder, os.W_OK | os.X_OK | os.R_OK):
        folder.chmod(stat.S_IRWXU)


def snapshot_from_pack(pack: Path, commit: str, cache: CachePaths) -> Snapshot:
    """Lay out a commit from a pack written by `write_pack`; no repository is needed.

    git computes every object's id from its content: a commit that is found is the recorded one.

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
        _Place(cache, commit).touch()
        return there
    with tempfile.TemporaryDirectory(prefix="engram-pack-") as scratch:
        git_dir = Path(scratch) / "git"
        unpack(pack, commit, git_dir)
        return ensure_snapshot(PackSource(git_dir), commit, cache)


def unpack(pack: Path, commit: str, git_dir: Path) -> None:
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
