"""The repository of a script: which commit runs, is the working tree that commit, dirty work.

What differs is found in engram.worktree; the commit's files are laid out by engram.snapshot.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engram.errors import ConfigError, UnrecordedCodeError
from engram.git import Git
from engram.paths import CachePaths
from engram.snapshot import Snapshot, ensure_snapshot, snapshot_from_pack, unpack
from engram.sources import RepositorySource, keep
from engram.worktree import Change, Survey, locate, survey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Change",
    "GitState",
    "Repository",
    "Snapshot",
    "diff_of_packs",
    "find_root",
    "snapshot_from_pack",
]

_LISTED = 20
_WIP_MESSAGE = "engram: work in progress"
_WIP_IDENTITY = {
    f"GIT_{role}_{what}": text
    for role in ("AUTHOR", "COMMITTER")
    for what, text in (("NAME", "engram"), ("EMAIL", "engram@localhost"), ("DATE", "@0 +0000"))
}


class GitState(NamedTuple):
    """What git says about a working tree at one moment.

    Attributes:
        commit: full id of HEAD.
        branch: None when HEAD is detached.
        remotes: name -> URL without credentials.
        on_remote: whether a remote-tracking branch reaches HEAD; None when there is no remote.
        script: the script's path below the root, with `/`.
        script_blob: git's id of the script's content; None when it is not tracked.
        submodules: {"path", "commit"} of every submodule as recorded, nested ones too.
        changes: what keeps this working tree from being its commit.
        spared: differences in places that may differ (workspace, parameters file, run roots).
        companions: modules beside a script that no commit holds; a dirty capture takes them along.
    """

    commit: str
    branch: str | None
    remotes: dict[str, str]
    on_remote: bool | None
    script: str
    script_blob: str | None
    submodules: list[dict[str, str]]
    changes: list[Change]
    spared: Sequence[Change] = ()
    companions: Sequence[str] = ()

    @property
    def dirty(self) -> bool:
        """Whether code would run that the commit does not hold."""
        return bool(self.changes)


def find_root(start: Path) -> Path:
    """Find the repository that holds `start`; GIT_DIR and its like are not looked at.

    Args:
        start: a file or folder, existing or not.

    Returns:
        The nearest folder upward that holds `.git`, with symlinks resolved.

    Raises:
        ConfigError: no folder upward holds `.git`.
    """
    resolved = Path(os.path.realpath(start))
    for folder in (resolved, *resolved.parents):
        git = folder / ".git"
        if git.is_file() or (git / "HEAD").exists():
            return folder
    msg = (
        f"{str(start)!r} is not inside a git repository; run `git init` and commit the script first"
    )
    raise ConfigError(msg)


class Repository:
    """One working tree and the repository it belongs to.

    Attributes:
        root: the folder that holds `.git`, with symlinks resolved.
        git_dir: the working tree's own git folder.
        common_dir: the git folder that all linked working trees share.
        cache: engram's own folder inside `common_dir`.
    """

    def __init__(self, root: Path) -> None:
        """Open the repository at `root`, without starting git.

        Raises:
            ConfigError: `root` holds no usable `.git`.
        """
        self.root = Path(os.path.realpath(root))
        if not (self.root / ".git").exists():
            msg = f"{str(root)!r} is not the root of a git repository: it holds no .git"
            raise ConfigError(msg)
        self.git_dir, self.common_dir = locate(self.root)
        self.cache = CachePaths(self.common_dir / "engram")
        self._git = Git(self.root)

    def inspect(self, *, script: str, allowed: Sequence[str]) -> GitState:
        """Compare the working tree with HEAD by content, and identify HEAD.

        Args:
            script: the script's path, absolute or relative to the root.
            allowed: files and folders, relative to the root, that may differ; the script never may.

        Raises:
            UnrecordedCodeError: there is no commit yet, or the script lies outside the repository.
            ConfigError: git failed.
        """
        path = self._relative(script)
        settings = self._git.start(
            "config", "-z", "--get-regexp", r"^(remote\..*\.url|core\.sparsecheckout)$"
        )
        # Walks only what is not on a remote, unlike `branch --contains`.
        unpushed = self._git.start("rev-list", "-n", "1", "HEAD", "--not", "--remotes")
        remotes, sparse = _parse_settings(settings.finish()[1])
        try:
            found = survey(self.root, sparse=sparse, wanted=path)
        finally:
            ahead = unpushed.finish()[1]
        if found.commit is None:
            msg = f"the repository {str(self.root)!r} has no commit yet; commit the script first"
            raise UnrecordedCodeError(msg)
        return self._judge(found, path, allowed, remotes, pushed=not ahead.strip())

    def _judge(
        self,
        found: Survey,
        script: str,
        allowed: Sequence[str],
        remotes: dict[str, str],
        *,
        pushed: bool,
    ) -> GitState:
        """Apply the clean rule to what was found."""
        changes = sorted(change for change in set(found.changes) if not _is_bytecode(change))
        script_changed = any(change.path == script for change in changes)
        if not script_changed and script not in found.blobs:
            changes.append(Change(script, f"the script is {self._why_untracked(script)}"))
            script_changed = True
        refused = [c for c in changes if c.path == script or not _lies_in(c.path, allowed)]
        kept = set(refused)
        spared = [c for c in changes if c not in kept]
        companions = []
        if script_changed and _lies_in(script, allowed):
            companions = self._companions(script)
        return GitState(
            commit=str(found.commit),
            branch=found.branch,
            remotes=remotes,
            on_remote=pushed if remotes else None,
            script=script,
            script_blob=found.blobs.get(script),
            submodules=[submodule._asdict() for submodule in sorted(found.submodules)],
            changes=refused,
            spared=spared,
            companions=companions,
        )

    def require_clean(self, state: GitState) -> None:
        """Refuse code that the commit does not hold.

        Raises:
            UnrecordedCodeError: naming the files, and why each is refused.
        """
        if not state.changes:
            return
        lines = [f"  {path!r}: {why}" for path, why in state.changes[:_LISTED]]
        more = len(state.changes) - _LISTED
        if more > 0:
            lines.append(f"  and {more} more")
        msg = (
            f"the working tree {str(self.root)!r} is not its commit {state.commit[:12]}:\n"
            + "\n".join(lines)
            + "\ncommit these files (or ignore what is no code), "
            + "or use --allow-dirty to capture them in the record"
        )
        raise UnrecordedCodeError(msg)

    def capture(self, state: GitState) -> tuple[str, bytes]:
        """Make a hidden commit of HEAD plus all that differs, without touching the user's index.

        Equal content on an equal HEAD gives an equal commit id. A hidden ref keeps the commit.

        Returns:
            The id of that commit, and the binary patch that leads from HEAD to it, untracked files
            included.

        Raises:
            UnrecordedCodeError: a submodule or a nested repository holds changes; they do not fit
                into a patch.
            ConfigError: git failed.
        """
        if not state.changes:
            return state.commit, b""
        self._require_capturable(state)
        paths = sorted({change.path for change in state.changes} | set(state.companions))
        tree = self._write_tree(state.commit, paths)
        author = self._git.with_variables(**_WIP_IDENTITY)
        written = author.run("commit-tree", tree, "-p", state.commit, "-m", _WIP_MESSAGE)
        commit = written.decode().strip()
        keep(self.common_dir, commit)
        patch = self._git.run(
            *(
                "diff-tree",
                "-p",
                "--binary",
                "--full-index",
                "--no-renames",
                "--no-ext-diff",
                "--no-textconv",
            ),
            *(
                "--submodule=short",
                "--src-prefix=a/",
                "--dst-prefix=b/",
                "--no-color",
                state.commit,
                commit,
            ),
        )
        return commit, patch

    def snapshot(self, commit: str) -> Snapshot:
        """Lay the commit's files out once, verify them, and keep the commit from git's gc.

        Raises:
            UnrecordedCodeError: a Git LFS pointer cannot be replaced by its content.
            ConfigError: the commit is not in the repository, or git failed.
            StoreError: the git folder cannot be written.
        """
        return ensure_snapshot(
            RepositorySource(self.root, self.git_dir, self.common_dir), commit, self.cache
        )

    def archive(self, commit: str, destination: Path) -> None:
        """Write the commit's files, without history, as one git pack; submodules' files too.

        Raises:
            ConfigError: git failed.
            StoreError: `destination` cannot be written.
        """
        # Only the first run of a commit needs it, and what it imports is slow.
        from engram.archive import write_pack

        write_pack(RepositorySource(self.root, self.git_dir, self.common_dir), commit, destination)

    def has(self, commit: str) -> bool:
        """Whether the repository holds this commit with all its trees' roots."""
        return self._git.succeeds("cat-file", "-e", f"{commit}^{{tree}}")

    def blob_id(self, commit: str, path: str) -> str | None:
        """Git's id of a file's content at a commit; None when the commit has no such file."""
        code, out, _ = self._git.start(
            "rev-parse", "--verify", "--quiet", f"{commit}:{path}"
        ).finish()
        return None if code else out.decode().strip()

    def diff(
        self, a: str, b: str, paths: Sequence[str] | None = None, *, names_only: bool = False
    ) -> str:
        """The difference between two commits as unified text.

        Args:
            a: the older commit.
            b: the newer commit.
            paths: restrict it to these; None for all.
            names_only: give the paths alone, one a line.

        Raises:
            ConfigError: one of the commits is not in the repository.
        """
        return _diff(self._git, a, b, paths, names_only=names_only)

    def _relative(self, script: str) -> str:
        """The script's path below the root; the file must lie there too, not only a link."""
        plain = os.path.relpath(os.path.normpath(self.root / script), self.root)
        real = os.path.relpath(os.path.realpath(self.root / plain), self.root)
        for path in (plain, real):
            if path == os.pardir or path.startswith(os.pardir + os.sep):
                msg = (
                    f"the script {script!r} lies outside the repository {str(self.root)!r}; "
                    "move it inside and commit it"
                )
                raise UnrecordedCodeError(msg)
        return plain.replace(os.sep, "/")

    def _why_untracked(self, script: str) -> str:
        if not os.path.lexists(self.root / script):
            return "missing and not tracked by git"
        ignored = self._git.succeeds("check-ignore", "-q", "--", script)
        return "ignored by git" if ignored else "not tracked by git"

    def _companions(self, script: str) -> list[str]:
        """Python files beside and below the script that differ from the commit, ignored or not."""
        folder = script.rpartition("/")[0] or "."
        others = self._git.run(
            "ls-files", "-z", "--others", "--modified", "--deduplicate", "--", folder
        )
        names = (os.fsdecode(name) for name in others.split(b"\0"))
        return sorted(name for name in names if name.endswith(".py"))

    def _require_capturable(self, state: GitState) -> None:
        inner = tuple(submodule["path"] + "/" for submodule in state.submodules)
        for path, why in state.changes:
            if path.endswith("/") or path.startswith(inner):
                msg = f"{path!r} cannot be captured ({why}): commit it there first, or remove it"
                raise UnrecordedCodeError(msg)
        if not os.path.lexists(self.root / state.script):
            msg = f"the script {state.script!r} does not exist in {str(self.root)!r}"
            raise UnrecordedCodeError(msg)

    def _write_tree(self, commit: str, paths: Sequence[str]) -> str:
        """Write the tree of `commit` with `paths` as they are on disk, on an index of its own."""
        import tempfile

        present = [path for path in paths if _is_at(self.root, path)]
        gone = sorted(set(paths).difference(present))
        with tempfile.TemporaryDirectory(prefix="engram-index-") as folder:
            git = self._git.with_variables(GIT_INDEX_FILE=str(Path(folder) / "index"))
            git.run("read-tree", commit)
            git.run("update-index", "-z", "--force-remove", "--stdin", data=_lines(gone))
            git.run("update-index", "-z", "--add", "--replace", "--stdin", data=_lines(present))
            return git.run("write-tree").decode().strip()


def diff_of_packs(
    packs: Sequence[Path],
    a: str,
    b: str,
    paths: Sequence[str] | None = None,
    *,
    names_only: bool = False,
) -> str:
    """The difference between two commits that no repository holds, see Repository.diff.

    Args:
        packs: written by Repository.archive: of `a`, and of `b`.
        a: the older commit.
        b: the newer commit.
        paths: restrict it to these; None for all.
        names_only: give the paths alone, one a line.

    Raises:
        ResumeError: a pack is missing, damaged, or of another commit.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="engram-packs-") as scratch:
        stores = [Path(scratch) / name for name in ("a", "b")]
        for store, pack, commit in zip(stores, packs, (a, b), strict=True):
            unpack(pack, commit, store)
        (stores[0] / "objects" / "info").mkdir(exist_ok=True)
        (stores[0] / "objects" / "info" / "alternates").write_text(f"{stores[1] / 'objects'}\n")
        return _diff(Git.of_objects(stores[0]), a, b, paths, names_only=names_only)


def _diff(git: Git, a: str, b: str, paths: Sequence[str] | None, *, names_only: bool) -> str:
    limited = ("--", *paths) if paths is not None else ()
    shown = ("-r", "--name-only") if names_only else ("-p", "-M")
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-commit-id")
    return git.run("diff-tree", *shown, *options, a, b, *limited).decode(errors="replace")


def _lines(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _is_bytecode(change: Change) -> bool:
    """Whether this is what Python leaves beside modules; no snapshot holds it."""
    return change.why == "untracked" and "__pycache__" in change.path.split("/")


def _is_at(root: Path, path: str) -> bool:
    """Whether a file, link or submodule lies at `path` below `root`, not reached through a link."""
    full = root / path
    if full.is_dir() and not full.is_symlink() and not (full / ".git").exists():
        return False
    return os.path.lexists(full) and os.path.realpath(full.parent) == str(full.parent)


def _lies_in(path: str, allowed: Sequence[str]) -> bool:
    """Whether a path is one of the allowed ones or lies below one."""
    bare = path.rstrip("/")
    places = (place.strip("/") for place in allowed)
    return any(
        bare == place or bare.startswith(place + "/") for place in places if place not in ("", ".")
    )


def _parse_settings(answer: bytes) -> tuple[dict[str, str], bool]:
    """Read `key newline value NUL` records into (remotes, whether the checkout is sparse)."""
    remotes: dict[str, str] = {}
    sparse = False
    for record in os.fsdecode(answer).split("\0"):
        key, _, value = record.partition("\n")
        if key == "core.sparsecheckout":
            sparse = value.lower() in ("", "true", "yes", "on", "1")
        elif key:
            remotes.setdefault(key[len("remote.") : -len(".url")], without_credentials(value))
    return remotes, sparse


def without_credentials(url: str) -> str:
    """Strip user names, passwords and queries from the URL of a remote.

    The user of an ssh URL is kept: it is part of the address and no secret. Over http a user name
    may be a token.

    Args:
        url: as configured, also in the short form `user@host:path`.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        user, at, address = url.partition("@")
        return address if at and ":" in user else url
    if scheme == "file":
        return url
    rest = rest.partition("?")[0].partition("#")[0]
    authority, slash, path = rest.partition("/")
    if "@" not in authority and not authority.rpartition(":")[2].isdigit() and ":" in authority:
        # A password with a bare slash in it: the host comes after the last @.
        authority, slash, path = rest.rpartition("@")[2].partition("/")
    user, at, host = authority.rpartition("@")
    keeps_user = scheme.endswith("ssh") and at
    return f"{scheme}://{user.partition(':')[0] + '@' if keeps_user else ''}{host}{slash}{path}"
