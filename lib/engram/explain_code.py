"""How the code of two runs differs, as far as either run used it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from engram.compare_values import ABSENT
from engram.errors import RunnerError
from engram.explain_parts import CAUSE, Change, Section, some
from engram.recorded import recorded_root
from engram.repository import Repository, diff_of_packs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.explain_parts import Side

__all__ = ["code"]

# A difference as short as this is shown whole.
SHORT = 12
CODE_OR_PROSE = (".py", ".md", ".rst", ".gitignore")


class FileDiff(NamedTuple):
    """The difference of one file.

    Attributes:
        path: in the second commit, in the first when it is gone.
        what: "changed", "added", "removed" or "renamed from PATH".
        added: lines.
        removed: lines.
        lines: those lines, as git marks them.
    """

    path: str
    what: str
    added: int
    removed: int
    lines: list[str]


def code(a: Side, b: Side) -> tuple[Section, str]:
    """Compare the code that either run used.

    Returns:
        The part, and the difference as git writes it; "" when there is none, or no commit is at
        hand.
    """
    section = Section("code", CAUSE)
    scripts = [side.record["script"]["path"] for side in (a, b)]
    if scripts[0] != scripts[1]:
        section.changes.append(Change("script", scripts[0], scripts[1]))
    commits = [side.record["code"].get("snapshot_commit") for side in (a, b)]
    text = ""
    if None in commits or commits[0] != commits[1]:
        found = _commit_diff(a, b, _used(a, b), section)
        _by_hash(a, b, section, found)
        text = found or ""
    section.changes += _from_outside(a, b)
    return section, text


def _used(a: Side, b: Side) -> list[str] | None:
    """Files of the commits that either run imported; None when a run does not say which."""
    if a.imports is None or b.imports is None:
        return None
    paths = {side.record["script"]["path"] for side in (a, b)}
    for side in (a, b):
        paths |= _modules(side).keys()
    return sorted(paths)


def _modules(side: Side) -> dict[str, str | None]:
    """The modules of the commit that a run imported: path -> sha256."""
    listed = (side.imports or {}).get("modules") or ()
    return {item["path"]: item["sha256"] for item in listed}


def _commit_diff(a: Side, b: Side, paths: list[str] | None, section: Section) -> str | None:
    """Git's difference of the two commits; None when it cannot be had."""
    first, second = (side.record["code"].get("snapshot_commit") for side in (a, b))
    if first is None or second is None:
        live = " and ".join(side.paths.run_id for side in (a, b) if side.record["code"].get("live"))
        section.remarks.append(
            f"{live or 'a run'} ran from the working tree, which no commit holds"
        )
        return None
    if paths is None:
        section.remarks.append("a run left no list of its imports: the whole commits are compared")
    try:
        text, names = _diff(a, b, first, second, paths)
    except (RunnerError, OSError) as error:
        section.remarks.append(f"the commits are not at hand: {error}")
        return None
    files = list(split(text))
    short = sum(file.added + file.removed for file in files) <= SHORT
    section.changes += [_change(file, shown=short) for file in files]
    others = [name for name in names if name not in (paths or names)]
    if not files:
        said = "no file" if not names else "no module that either run imported"
        section.remarks.append(f"commits {first[:12]} and {second[:12]} differ in {said}")
    # What is imported is recorded, what else a script reads of its own commit is not.
    if read := [name for name in others if not name.endswith(CODE_OR_PROSE)]:
        section.remarks.append(f"a script may have read, as no record says: {some(read, 'file')}")
    return text


def _diff(
    a: Side, b: Side, first: str, second: str, paths: list[str] | None
) -> tuple[str, list[str]]:
    """The difference in `paths`, and the names of all files that differ.

    From a repository that has both commits, else from the packs in the run folders.
    """
    for root in dict.fromkeys(recorded_root(side.record) for side in (a, b)):
        if (root / ".git").exists():
            repository = Repository(root)
            if repository.has(first) and repository.has(second):
                names = repository.diff(first, second, names_only=True)
                return repository.diff(first, second, paths), names.splitlines()
    packs = [side.paths.source for side in (a, b)]
    names = diff_of_packs(packs, first, second, names_only=True)
    return diff_of_packs(packs, first, second, paths), names.splitlines()


def split(text: str) -> Iterator[FileDiff]:
    """The files of a difference that git wrote."""
    head: dict[str, str] = {}
    lines: list[str] = []
    inside = False
    for line in [*text.split("\n"), "diff --git "]:
        if line.startswith("diff --git "):
            if head:
                yield _file(head, lines)
            head, lines, inside = {"name": line[len("diff --git ") :]}, [], False
        elif line.startswith("@@"):
            inside = True
        elif inside and line[:1] in ("+", "-"):
            lines.append(line)
        elif not inside:
            for mark in ("--- ", "+++ ", "rename from ", "rename to ", "Binary files "):
                if line.startswith(mark):
                    head[mark.strip()] = line[len(mark) :].removesuffix("\t")


def _file(head: dict[str, str], lines: list[str]) -> FileDiff:
    """One file of it."""
    old, new = head.get("---", ""), head.get("+++", "")
    path = new.removeprefix("b/") or head.get("rename to") or head["name"].rpartition(" b/")[2]
    what = "changed"
    if new == "/dev/null":
        path, what = old.removeprefix("a/"), "removed"
    elif old == "/dev/null":
        what = "added"
    elif "rename from" in head:
        what = f"renamed from {head['rename from']}"
    added = sum(line.startswith("+") for line in lines)
    return FileDiff(path, what, added, len(lines) - added, lines)


def _change(file: FileDiff, *, shown: bool) -> Change:
    """A file, its changed lines with it when they are few."""
    counts = f"+{file.added} -{file.removed}" if file.lines else "no line of text differs"
    return Change(file.path, "", "", f"{file.what}, {counts}", True, tuple(file.lines * shown))


def _by_hash(a: Side, b: Side, section: Section, text: str | None) -> None:
    """Modules whose recorded content differs, where no commit shows it: submodules, live runs."""
    shown = {change.key for change in section.changes}
    ours, theirs = _modules(a), _modules(b)
    for path in sorted(ours.keys() & theirs.keys() - shown):
        if ours[path] != theirs[path]:
            hashes = _short(ours[path]), _short(theirs[path])
            section.changes.append(Change(path, *hashes))
    if text is None:
        section.remarks.append("modules are compared by their recorded hashes")
        for path in sorted(ours.keys() ^ theirs.keys()):
            words = ("imported", ABSENT) if path in ours else (ABSENT, "imported")
            section.changes.append(Change(path, *words, "imported by one of the runs only"))


def _from_outside(a: Side, b: Side) -> Iterator[Change]:
    """Modules that neither commit nor environment holds."""
    ours, theirs = (
        {item["path"]: _short(item["sha256"]) for item in _outside(side)} for side in (a, b)
    )
    for path in sorted(ours.keys() | theirs.keys()):
        old, new = ours.get(path, ABSENT), theirs.get(path, ABSENT)
        if old != new:
            yield Change(path, old, new, "imported from outside the commit")


def _outside(side: Side) -> list[dict[str, Any]]:
    return list((side.imports or {}).get("outside") or ())


def _short(sha256: str | None) -> str:
    return f"sha256 {str(sha256)[:12]}"
