"""What a working tree holds beyond its commit: no flag, setting or old time stamp hides it.

git's own stat cache is used as it is when no entry of the index carries a flag that hides changes.
Otherwise the question is asked again on a private copy of the index with these flags cleared.
Submodules are asked one by one, because a status of the outer repository believes the flags inside
them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from engram.errors import ConfigError
from engram.git import Git

_LETTERS = {"M": "modified", "T": "type changed", "A": "added", "D": "deleted", "U": "unmerged"}
_STATUS = (
    "status",
    "--porcelain=v2",
    "-z",
    "--branch",
    "--no-ahead-behind",
    "--untracked-files=all",
    "--ignored=no",
    "--ignore-submodules=dirty",
    "--no-renames",
)


class Change(NamedTuple):
    """A path that is not what the commit says, relative to the root with `/`, and in which way."""

    path: str
    why: str


class Submodule(NamedTuple):
    """A submodule: its path below the root, and the commit the index records for it."""

    path: str
    commit: str


class Survey(NamedTuple):
    """One working tree, compared with its commit.

    Attributes:
        commit: what HEAD points to; None before the first commit.
        branch: None when HEAD is detached.
        changes: every difference, in submodules too, with paths below the outermost root.
        submodules: all gitlinks of the index, nested ones too.
        blobs: path -> blob id in the index, of the paths that were asked for.
    """

    commit: str | None
    branch: str | None
    changes: list[Change]
    submodules: list[Submodule]
    blobs: dict[str, str]


class _Entry(NamedTuple):
    flag: str
    mode: str
    blob: str
    path: str


def locate(root: Path) -> tuple[Path, Path]:
    """Find the git folders of a working tree without starting git.

    Args:
        root: the folder that holds `.git`.

    Returns:
        The working tree's own git folder, and the one it shares with its linked working trees.

    Raises:
        ConfigError: `.git` is not what git writes.
    """
    own = root / ".git"
    if own.is_file():
        text = os.fsdecode(own.read_bytes()).rstrip("\n")
        if not text.startswith("gitdir: "):
            msg = f"{str(own)!r} does not name a git folder; repair or remove it"
            raise ConfigError(msg)
        own = Path(os.path.realpath(root / text.removeprefix("gitdir: ")))
    return own, common_folder(own)


def common_folder(git_dir: Path) -> Path:
    """The git folder that a working tree's own one shares with others; itself for a plain one."""
    pointer = git_dir / "commondir"
    if not pointer.is_file():
        return git_dir
    return Path(os.path.realpath(git_dir / os.fsdecode(pointer.read_bytes()).rstrip("\n")))


def survey(root: Path, *, sparse: bool, wanted: str | None = None) -> Survey:
    """Compare a working tree with its commit.

    Args:
        root: the folder that holds `.git`.
        sparse: whether files may be absent because of a sparse checkout.
        wanted: a path below `root` whose blob id is asked for.

    Raises:
        ConfigError: git failed.
    """
    git = Git(root)
    listing = git.start("ls-files", "-v", "-s", "-z")
    status = git.start(*_STATUS)
    try:
        flagged, links, blobs = _entries(listing.output(), wanted)
    finally:
        status.finish()
    answer = status.output()
    hidden = [entry for entry in flagged if not _absent_by_intent(root, entry, sparse=sparse)]
    if hidden:
        answer = _status_without_flags(git, hidden)
    commit, branch, changes = _parse_status(answer, {entry.path: entry.flag for entry in hidden})
    found = Survey(
        commit, branch, changes, [Submodule(link.path, link.blob) for link in links], blobs
    )
    for link in links:
        _descend(found, root, link, wanted)
    return found


def _entries(
    listing: bytes, wanted: str | None
) -> tuple[list[_Entry], list[_Entry], dict[str, str]]:
    """The entries that hide changes, the submodules, and the blob of the path that is wanted."""
    flagged, links, blobs = [], [], {}
    ending = None if wanted is None else b"\t" + os.fsencode(wanted)
    for line in listing.split(b"\0"):
        if (
            not line.startswith(b"H 1")
            or line.startswith(b"H 160000")
            or (ending and line.endswith(ending))
        ):
            if not line:
                continue
            words, _, path = line.partition(b"\t")
            flag, mode, blob, _stage = words.decode().split(" ")
            entry = _Entry(flag, mode, blob, os.fsdecode(path))
            if flag != "H" and (flag.islower() or flag == "S"):
                flagged.append(entry)
            if mode == "160000":
                links.append(entry)
            if entry.path == wanted:
                blobs[entry.path] = blob
    return flagged, links, blobs


def _absent_by_intent(root: Path, entry: _Entry, *, sparse: bool) -> bool:
    return sparse and entry.flag == "S" and not os.path.lexists(root / entry.path)


def _status_without_flags(git: Git, hidden: list[_Entry]) -> bytes:
    """Ask for the status on a private copy of the index in which nothing is hidden."""
    import tempfile

    source = locate(git.where)[0] / "index"
    paths = b"".join(os.fsencode(entry.path) + b"\0" for entry in hidden)
    with tempfile.TemporaryDirectory(prefix="engram-index-") as folder:
        copy = Path(folder) / "index"
        times = source.stat()
        copy.write_bytes(source.read_bytes())
        # By the index file's own time git knows entries that changed within the tick of its
        # last write.
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        private = git.with_variables(GIT_INDEX_FILE=str(copy))
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            private.run("update-index", flag, "-z", "--stdin", data=paths)
        return private.run(*_STATUS)


def _parse_status(
    answer: bytes, flags: dict[str, str]
) -> tuple[str | None, str | None, list[Change]]:
    commit = branch = None
    changes = []
    for record in os.fsdecode(answer).split("\0"):
        if record.startswith("# branch.oid "):
            oid = record.removeprefix("# branch.oid ")
            commit = None if oid == "(initial)" else oid
        elif record.startswith("# branch.head "):
            head = record.removeprefix("# branch.head ")
            branch = None if head == "(detached)" else head
        elif record.startswith("? "):
            path = record[2:]
            changes.append(
                Change(path, "untracked repository" if path.endswith("/") else "untracked")
            )
        elif record.startswith(("1 ", "u ")):
            changes.append(_parse_change(record, flags))
    return commit, branch, changes


def _parse_change(record: str, flags: dict[str, str]) -> Change:
    """Read `1 XY sub modes... ids... path`, or the same with `u` when unmerged."""
    fields = record.split(" ", 8 if record[0] == "1" else 10)
    path, staged, unstaged = fields[-1], fields[1][0], fields[1][1]
    if record[0] == "u":
        return Change(path, "unmerged")
    words = [] if unstaged == "." else [_LETTERS.get(unstaged, "changed")]
    if staged != ".":
        words.insert(0, f"{_LETTERS.get(staged, 'changed')} in the index")
    if fields[2][1] == "C":
        words = ["submodule at another commit than the recorded one"]
    if path in flags:
        words.append(f"hidden by {'skip-worktree' if flags[path] in 'Ss' else 'assume-unchanged'}")
    return Change(path, ", ".join(words))


def _descend(found: Survey, root: Path, link: _Entry, wanted: str | None) -> None:
    """Add what one submodule holds to the survey of its outer repository."""
    folder = root / link.path
    prefix = link.path + "/"
    if not (folder / ".git").exists():
        if folder.is_dir() and any(folder.iterdir()):
            why = "files in the folder of a submodule that is not checked out"
            found.changes.append(Change(prefix, why))
        return
    inner_wanted = wanted.removeprefix(prefix) if wanted and wanted.startswith(prefix) else None
    inner = survey(folder, sparse=is_sparse(folder), wanted=inner_wanted)
    if inner.commit != link.blob and all(change.path != link.path for change in found.changes):
        found.changes.append(Change(link.path, "submodule at another commit than the recorded one"))
    found.changes.extend(
        Change(prefix + path, f"{why}, in submodule {link.path!r}") for path, why in inner.changes
    )
    found.submodules.extend(Submodule(prefix + path, commit) for path, commit in inner.submodules)
    found.blobs.update({prefix + path: blob for path, blob in inner.blobs.items()})


def is_sparse(root: Path) -> bool:
    """Whether a working tree is a sparse checkout."""
    return (
        Git(root).start("config", "--type=bool", "core.sparseCheckout").finish()[1].strip()
        == b"true"
    )
