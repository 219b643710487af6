"""Snapshots: the files of one commit, laid out once, verified by stat before each use, shared by all its runs.

The bytes are those of git's blobs, whatever line ends and filters the user's checkout has. A snapshot is built in a
folder of its own under a lock and takes its place by one rename, so that nobody ever sees half of one; a manifest
with every file's and folder's stat, change time included, tells later whether anything was written, added or removed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from engram.errors import ConfigError, ResumeError, StoreError, UnrecordedCodeError
from engram.files import write_atomic
from engram.git import Git, buffer
from engram.objects import CHUNK, GitObject, read_objects, write_own_pack
from engram.paths import CachePaths
from engram.worktree import locate

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


class Source(Protocol):
    """Where the objects of a commit and of its submodules lie: git, and its folder `objects`."""

    git: Git
    store: Path

    def submodule(self, path: str, name: str | None, commit: str) -> Source | None:
        """The source of a submodule at `path`, called `name` in .gitmodules; None when nothing holds `commit`."""

    def keep(self, commit: str) -> None:
        """See to it that git's garbage collection spares the commit."""

    def gained(self, path: str) -> bool:
        """Whether a submodule that was missing may be there by now."""


class RepositorySource:
    """The objects of a repository, and those of its submodules wherever git keeps them."""

    def __init__(self, root: Path | None, git_dir: Path, common_dir: Path) -> None:
        """Name the working tree (None for a git folder alone), its git folder and the shared one."""
        self.root, self.git_dir, self.common_dir = root, git_dir, common_dir
        self.git = Git.of_objects(common_dir)
        self.store = common_dir / "objects"

    def submodule(self, path: str, name: str | None, commit: str) -> RepositorySource | None:
        """Look in the working tree, then in the folders where git keeps submodules that are not checked out."""
        candidates: list[tuple[Path | None, Path]] = []
        if self.root is not None and (self.root / path / ".git").exists():
            candidates.append((self.root / path, locate(self.root / path)[0]))
        if name is not None:
            candidates += [
                (None, own / "modules" / name) for own in (self.git_dir, self.common_dir)
            ]
        for root, git_dir in candidates:
            if not (git_dir / "HEAD").exists():
                continue
            source = RepositorySource(root, git_dir, _common(git_dir))
            if source.git.succeeds("cat-file", "-e", f"{commit}^{{tree}}"):
                return source
        return None

    def keep(self, commit: str) -> None:
        """Write the hidden ref."""
        keep(self.common_dir, commit)

    def gained(self, path: str) -> bool:
        """Whether the submodule's folder is a checkout now."""
        return self.root is not None and (self.root / path / ".git").exists()


class PackSource:
    """One object folder that holds a commit and those of its submodules; nothing else of a repository."""

    def __init__(self, git_dir: Path) -> None:
        """Name the scratch git folder."""
        self.git = Git.of_objects(git_dir)
        self.store = git_dir / "objects"

    def submodule(self, path: str, name: str | None, commit: str) -> PackSource | None:  # noqa: ARG002
        """The same object folder, when it holds the commit."""
        return self if self.git.succeeds("cat-file", "-e", f"{commit}^{{tree}}") else None

    def keep(self, commit: str) -> None:
        """Nothing to do: the pack is the run's own and no garbage collection reaches it."""

    def gained(self, path: str) -> bool:  # noqa: ARG002
        """A pack never gains anything."""
        return False


def _common(git_dir: Path) -> Path:
    pointer = git_dir / "commondir"
    if not pointer.is_file():
        return git_dir
    return Path(os.path.realpath(git_dir / os.fsdecode(pointer.read_bytes()).rstrip("\n")))


def hidden_ref(commit: str) -> str:
    """The ref that keeps a commit alive after an amend, a rebase or a deleted branch."""
    return f"refs/engram/{commit}"


def keep(common_dir: Path, commit: str) -> None:
    """Make sure that a hidden ref points to `commit`; one read of a small file when it does already.

    Raises:
        ConfigError: git could not write the ref, or the commit does not exist.
    """
    if _is_kept(common_dir, commit):
        return
    git = Git.of_objects(common_dir)
    command = ("update-ref", hidden_ref(commit), commit)
    if not git.succeeds(*command):
        # Nobody but engram writes this ref, and always to the same value: a lock on it is a killed process's.
        (common_dir / f"{hidden_ref(commit)}.lock").unlink(missing_ok=True)
        git.run(*command)


def _is_kept(common_dir: Path, commit: str) -> bool:
    with suppress(OSError):
        return (common_dir / hidden_ref(commit)).read_text().strip() == commit
    try:
        packed = (common_dir / "packed-refs").read_bytes()
    except OSError:
        return False
    return f"{commit} {hidden_ref(commit)}\n".encode() in packed


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
        with _writing(cache.snapshots), place.locked():
            manifest = place.intact()
            if manifest is None or any(source.gained(path) for path in manifest["missing"]):
                manifest = _build(source, place)
    source.keep(commit)
    for path, git_dir in manifest["submodules"]:
        if git_dir is not None:
            keep(Path(git_dir), manifest["commits"][path])
    return Snapshot(commit, place.folder, cache.folder.parent, tuple(manifest["missing"]))


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


class _Entry(NamedTuple):
    mode: str
    blob: str
    path: str


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
    files, links = _read_tree(source.git, commit)
    for name in sorted({parent for entry in (*files, *links) for parent in _parents(entry.path)}):
        os.mkdir(f"{folder}/{prefix}{name}")  # noqa: PTH102 (Path costs more than the call itself)
        layout.names.append(prefix + name)
    _write_blobs(source, files, f"{folder}/{prefix}", layout, prefix)
    layout.names.extend(prefix + entry.path for entry in files)
    names = _submodule_names(source.git, commit) if links else {}
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


def _read_tree(git: Git, commit: str) -> tuple[list[_Entry], list[_Entry]]:
    """The files and the submodules of a commit."""
    files: list[_Entry] = []
    links: list[_Entry] = []
    for line in git.run("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        if line:
            words, _, path = line.partition(b"\t")
            mode, kind, blob = words.decode().split(" ")
            (files if kind == "blob" else links).append(_Entry(mode, blob, os.fsdecode(path)))
    return files, links


def _parents(path: str) -> Iterator[str]:
    """Every folder above a path, nearest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _submodule_names(git: Git, commit: str) -> dict[str, str]:
    """Submodule path -> its name in .gitmodules of the commit."""
    call = git.start(
        "config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp", r"^submodule\..*\.path$"
    )
    records = os.fsdecode(call.finish()[1]).split("\0")
    pairs = (record.partition("\n") for record in records if record)
    return {path: key[len("submodule.") : -len(".path")] for key, _, path in pairs}


def _write_blobs(
    source: Source, files: list[_Entry], target: str, layout: _Layout, prefix: str
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
    git: Git, found: GitObject, entry: _Entry, layout: _Layout, prefix: str
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
    with _writing(destination.parent):
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
    _, links = _read_tree(source.git, commit)
    names = _submodule_names(source.git, commit) if links else {}
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

    if (manifest := _Place(cache, commit).intact()) is not None:
        return Snapshot(
            commit, cache.snapshots / commit, cache.folder.parent, tuple(manifest["missing"])
        )
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
