"""Compare the outputs of a run with those of its rerun, file by file."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from engram.compare import (
    DIFFERENT,
    EQUAL,
    IDENTICAL,
    FileResult,
    Tolerance,
    compare_files,
    compare_folders,
    first_differing_byte,
)
from engram.compare_formats import FOLDER_DECODERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engram.compare_values import Difference

MISSING = "missing"
EXTRA = "extra"
VOLATILE = "volatile"

# A script that calls W&B itself, in its own folder, leaves files that hold times and ids.
ALWAYS_VOLATILE = ("/wandb/**",)

__all__ = [
    "EXTRA",
    "MISSING",
    "VOLATILE",
    "Comparison",
    "FileComparison",
    "compare",
    "overall",
    "store_of",
    "volatile_matcher",
]


@dataclass(frozen=True)
class FileComparison:
    """One path of two output folders.

    Attributes:
        path: relative to the folders, with "/" between names and at the end of an empty folder.
        verdict: "identical", "equal", "different", "missing" (only recorded), "extra" (only new) or
            "volatile".
        reason: one sentence.
        first: the first difference, or None.
    """

    path: str
    verdict: str
    reason: str
    first: Difference | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for the record."""
        first = None if self.first is None else self.first.as_json()
        return {"path": self.path, "verdict": self.verdict, "reason": self.reason, "first": first}


@dataclass(frozen=True)
class Comparison:
    """All paths of two output folders.

    Attributes:
        verdict: "different" when any file is different, missing or extra; else "equal" when any is
            only equal; else "identical". Volatile files do not count.
        files: sorted by path.
    """

    verdict: str
    files: tuple[FileComparison, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the comparison for the record."""
        return {"verdict": self.verdict, "files": [file.as_json() for file in self.files]}


def compare(
    a: Path, b: Path, *, volatile: Sequence[str] = (), rtol: float = 0.0, atol: float = 0.0
) -> Comparison:
    """Compare two output folders.

    Args:
        a: the recorded outputs.
        b: the new outputs.
        volatile: patterns of files that may differ: "*" and "?" stay within a name, "**" spans
            folders, a pattern without "/" matches a name at any depth, and a folder's pattern
            covers all in it.
        rtol: relative tolerance of numbers.
        atol: absolute tolerance of numbers.
    """
    recorded, new = dict(_walk(Path(a))), dict(_walk(Path(b)))
    is_volatile = volatile_matcher(volatile)
    tolerance = Tolerance(rtol=rtol, atol=atol)
    files, undecoded = _compare_stores(Path(a), Path(b), recorded, new, is_volatile, tolerance)
    for path in sorted(recorded.keys() | new.keys()):
        if is_volatile(path):
            files.append(FileComparison(path, VOLATILE, "not compared"))
        elif path not in new:
            files.append(FileComparison(path, MISSING, "only in the recorded outputs"))
        elif path not in recorded:
            files.append(FileComparison(path, EXTRA, "only in the new outputs"))
        else:
            found = _compare_path(path, Path(a), Path(b), recorded[path], new[path], tolerance)
            why = undecoded.get(store_of(path) or "")
            if why and found.verdict != IDENTICAL:
                found = replace(found, reason=f"{found.reason}; {why}")
            files.append(found)
    files.sort(key=lambda file: file.path)
    return Comparison(overall(files), tuple(files))


def store_of(path: str) -> str | None:
    """The outermost folder on a path whose suffix says that its files hold one thing together."""
    parts = path.split("/")[:-1]
    for i, name in enumerate(parts):
        if PurePosixPath(name).suffix.lower() in FOLDER_DECODERS:
            return "/".join(parts[: i + 1])
    return None


def _compare_stores(
    a: Path,
    b: Path,
    recorded: dict[str, str],
    new: dict[str, str],
    is_volatile: Callable[[str], bool],
    tolerance: Tolerance,
) -> tuple[list[FileComparison], dict[str, str]]:
    """Compare folders such as .zarr as one thing, and take their files out of both listings.

    Returns:
        The comparisons; and why the others, whose files stay listed, were not decoded.
    """
    inside: dict[str, set[str]] = {}
    for path in recorded.keys() | new.keys():
        if (store := store_of(path)) is not None:
            inside.setdefault(store, set()).add(path)
    settled, undecoded = [], {}
    for store, paths in inside.items():
        kinds = {listing.get(path, "file") for listing in (recorded, new) for path in paths}
        both = all(any(path in listing for path in paths) for listing in (recorded, new))
        if not both or kinds - {"file", "folder"} or any(map(is_volatile, paths)):
            continue
        found = _compare_store(store, a, b, paths, tolerance)
        if isinstance(found, str):
            undecoded[store] = found
            continue
        settled.append(FileComparison(store, found.verdict, found.reason, found.first))
        for path in paths:
            recorded.pop(path, None)
            new.pop(path, None)
    return settled, undecoded


def _compare_store(
    store: str, a: Path, b: Path, paths: set[str], tolerance: Tolerance
) -> FileResult | str:
    """Compare one folder: its bytes first, which needs no package."""
    pairs = [(a / path, b / path) for path in paths if not path.endswith("/")]
    try:
        # A file more or less need not change what is held.
        whole = all(left.exists() and right.exists() for left, right in pairs)
        if whole and all(first_differing_byte(*pair) is None for pair in pairs):
            return FileResult(IDENTICAL, "the same bytes")
    except OSError as error:
        return f"it cannot be read: {error}"
    return compare_folders(a / store, b / store, tolerance)


def overall(files: Sequence[FileComparison]) -> str:
    """Return the verdict over many paths; see Comparison."""
    verdicts = {file.verdict for file in files} - {VOLATILE, IDENTICAL}
    if not verdicts:
        return IDENTICAL
    return EQUAL if verdicts == {EQUAL} else DIFFERENT


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, kind) of all below a folder; an empty folder is a path that ends with "/"."""
    with os.scandir(folder) as found:
        entries = list(found)
    if not entries and prefix:
        yield prefix, "folder"
    for entry in entries:
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{path}/")
        else:
            yield path, _kind(entry)


def _kind(entry: os.DirEntry[str]) -> str:
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "special file"


def _compare_path(
    path: str, a: Path, b: Path, kind: str, new_kind: str, tolerance: Tolerance
) -> FileComparison:
    if kind != new_kind:
        return FileComparison(path, DIFFERENT, f"a {kind} was recorded, now it is a {new_kind}")
    if kind == "link":
        return _compare_links(path, a, b)
    if kind != "file":
        return FileComparison(path, IDENTICAL, f"a {kind}, without content to compare")
    try:
        result = compare_files(a / path, b / path, tolerance)
    except OSError as error:
        return FileComparison(path, DIFFERENT, f"cannot be read: {error}")
    return FileComparison(path, result.verdict, result.reason, result.first)


def _compare_links(path: str, a: Path, b: Path) -> FileComparison:
    """Compare where two links lead; what lies there is compared only if it is an output itself."""
    ours, theirs = _target(a, path), _target(b, path)
    if ours == theirs:
        return FileComparison(path, IDENTICAL, f"links to {ours!r}")
    return FileComparison(path, DIFFERENT, f"links to {ours!r} were recorded, now to {theirs!r}")


def _target(folder: Path, path: str) -> str:
    """Return a link's target; one that leads into its own run is named relative to the run."""
    target = os.readlink(folder / path)  # noqa: PTH115 - the text as it stands, not as Path normalizes it
    run = folder.absolute().parent
    if os.path.isabs(target) and Path(target).is_relative_to(run):  # noqa: PTH117
        return f"RUN/{Path(target).relative_to(run).as_posix()}"
    return target


def volatile_matcher(volatile: Iterable[str]) -> Callable[[str], bool]:
    """Make the test of whether a path of the outputs may differ.

    Args:
        volatile: patterns, see `compare`.
    """
    apart = [_pattern(glob) for glob in (*ALWAYS_VOLATILE, *volatile)]
    return lambda path: any(pattern.fullmatch(path) for pattern in apart)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    """Translate a volatile pattern to a regular expression over whole relative paths."""
    body = glob.strip("/")
    parts = re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?)", body)
    meaning = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(meaning.get(part, re.escape(part)) for part in parts)
    anywhere = "" if "/" in glob.rstrip("/") else "(?:.*/)?"
    return re.compile(f"{anywhere}{text}(?:/.*)?", re.DOTALL)
