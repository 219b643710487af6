"""Where the objects of a commit lie, its submodules' too, and the ref that keeps a commit."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engram.git import Git
from engram.worktree import common_folder, locate

if TYPE_CHECKING:
    from pathlib import Path


class TreeEntry(NamedTuple):
    """A file, link or submodule of a commit: git's mode, the id, the path below the root."""

    mode: str
    blob: str
    path: str


def read_tree(git: Git, commit: str) -> tuple[list[TreeEntry], list[TreeEntry]]:
    """The files and the submodules of a commit."""
    files: list[TreeEntry] = []
    links: list[TreeEntry] = []
    for line in git.run("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        if line:
            words, _, path = line.partition(b"\t")
            mode, kind, blob = words.decode().split(" ")
            (files if kind == "blob" else links).append(TreeEntry(mode, blob, os.fsdecode(path)))
    return files, links


def submodule_names(git: Git, commit: str) -> dict[str, str]:
    """Submodule path -> its name in .gitmodules of the commit."""
    call = git.start(
        "config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp", r"^submodule\..*\.path$"
    )
    records = os.fsdecode(call.finish()[1]).split("\0")
    pairs = (record.partition("\n") for record in records if record)
    return {path: key[len("submodule.") : -len(".path")] for key, _, path in pairs}


class Source(Protocol):
    """Where the objects of a commit and of its submodules lie: git, and its folder `objects`."""

    git: Git
    store: Path

    def submodule(self, path: str, name: str | None, commit: str) -> Source | None:
        """The source of the submodule `name` at `path`; None when nothing holds `commit`."""

    def keep(self, commit: str) -> None:
        """See to it that git's garbage collection spares the commit."""

    def gained(self, path: str) -> bool:
        """Whether a submodule that was missing may be there by now."""


class RepositorySource:
    """The objects of a repository, and those of its submodules wherever git keeps them."""

    def __init__(self, root: Path | None, git_dir: Path, common_dir: Path) -> None:
        """Name the working tree (None for a git folder alone), its git folder, the shared one."""
        self.root, self.git_dir, self.common_dir = root, git_dir, common_dir
        self.git = Git.of_objects(common_dir)
        self.store = common_dir / "objects"

    def submodule(self, path: str, name: str | None, commit: str) -> RepositorySource | None:
        """Look in the working tree, then where git keeps submodules that are not checked out."""
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
            source = RepositorySource(root, git_dir, common_folder(git_dir))
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
    """One object folder that holds a commit and those of its submodules, and nothing else."""

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


def hidden_ref(commit: str) -> str:
    """The ref that keeps a commit alive after an amend, a rebase or a deleted branch."""
    return f"refs/engram/{commit}"


def keep(common_dir: Path, commit: str) -> None:
    """Make sure that a hidden ref points to `commit`; one read of a small file when it does.

    Raises:
        ConfigError: git could not write the ref, or the commit does not exist.
    """
    if _is_kept(common_dir, commit):
        return
    git = Git.of_objects(common_dir)
    command = ("update-ref", hidden_ref(commit), commit)
    if not git.succeeds(*command):
        # Nobody but engram writes this ref, and always to the same value: a lock on it is a killed
        # process's.
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
