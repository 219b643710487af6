"""How what came out of two runs differs: ending, summary, metrics, outputs."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from engram import metrics as logged
from engram import record as records
from engram.compare import (
    DIFFERENT,
    IDENTICAL,
    FileResult,
    compare_files,
    compare_folders,
)
from engram.compare_values import ABSENT, Tolerance, differences
from engram.explain_parts import RESULT, Change, Section, flat
from engram.files import read_json
from engram.outputs import store_of, volatile_matcher

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from engram.compare_values import Difference
    from engram.explain_parts import Side

__all__ = ["ending", "metrics", "outputs", "summary"]

# Files are looked into up to this size; beyond, their hashes say that they differ.
LOOKED_INTO = 256 << 20
MOST_LOOKED_INTO = 20


def ending(a: Side, b: Side) -> Section:
    """How the runs ended."""
    section = Section("ending", RESULT)
    for key, ours, theirs in zip(ENDING, _ending(a), _ending(b), strict=True):
        if ours != theirs:
            section.changes.append(Change(key, ours, theirs))
    for side in (a, b):
        if side.record["state"] not in records.ENDED:
            section.remarks.append(f"{side.paths.run_id} is {side.record['state']}, so far")
    return section


ENDING = ("state", "exit code", "signal", "exception")


def _ending(side: Side) -> tuple[str, str, str, str]:
    found = side.record.get("exit") or {}
    raised = found.get("exception") or {}
    exception = f"{raised['type']}: {raised['message']}" if raised else "none"
    return side.record["state"], str(found.get("code")), str(found.get("signal")), exception


def _tolerance(side: Side) -> Tolerance:
    """How far numbers may part, by the first run's own settings."""
    values = [side.setting("outputs", key) or 0.0 for key in ("rtol", "atol")]
    return Tolerance(*map(float, values))


def summary(a: Side, b: Side) -> Section:
    """What the mains returned."""
    ours, theirs = (flat(side.record.get("summary") or {}) for side in (a, b))
    found = differences(ours, theirs, _tolerance(a))
    return Section("summary", RESULT, [_change(item) for item in found])


def _change(found: Difference, prefix: str = "") -> Change:
    """A difference of values; one within the tolerance does not matter."""
    note = "; ".join(filter(None, (found.note, "within the tolerance" if found.within else "")))
    key = found.key + (str(list(found.index)) if found.index is not None else "")
    return Change(f"{prefix}{key}", found.a, found.b, note, matters=not found.within)


def metrics(a: Side, b: Side) -> Section:
    """What was logged: the first step at which it differs."""
    section = Section("metrics", RESULT)
    try:
        pairs = list(zip_longest(_lines(a), _lines(b)))
    except (OSError, ValueError) as error:
        section.remarks.append(f"cannot be read: {error}")
        return section
    tolerance = _tolerance(a)
    first: dict[bool, Change] = {}
    count = 0
    for ours, theirs in pairs:
        change = _first(ours, theirs, tolerance)
        if change is not None:
            count += 1
            first.setdefault(change.matters, change)
    chosen = first.get(True, first.get(False))
    if chosen is not None:
        said = f"{count} of {len(pairs)} lines differ"
        note = f"{chosen.note}; {said}" if chosen.note else said
        section.changes.append(chosen._replace(note=note))
    return section


def _lines(side: Side) -> Iterable[dict[str, Any]]:
    return logged.read(side.paths.metrics) if side.paths.metrics.exists() else ()


def _first(
    ours: dict[str, Any] | None, theirs: dict[str, Any] | None, tolerance: Tolerance
) -> Change | None:
    """The first difference of two lines that matters, else the first."""
    if ours is None or theirs is None:
        step = f"from step {(ours or theirs or {}).get('step')}"
        return Change(step, "logged" if ours else ABSENT, "logged" if theirs else ABSENT)
    prefix = f"step {ours.get('step')}: "
    found = [_change(item, prefix) for item in differences(ours, theirs, tolerance)]
    return next((item for item in found if item.matters), found[0] if found else None)


def outputs(a: Side, b: Side) -> Section:
    """The files, by recorded hash; those that differ are looked into where they still are."""
    section = Section("outputs", RESULT)
    manifests = [_manifest(side, section) for side in (a, b)]
    if None in manifests:
        return section
    ours, theirs = (dict(found or {}) for found in manifests)
    globs = [side.setting("outputs", "volatile") or () for side in (a, b)]
    volatile = volatile_matcher([*globs[0], *globs[1]])
    names = [name for name in sorted(ours.keys() | theirs.keys()) if not volatile(name)]
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    section.changes += _each(a, b, differing, ours, theirs)
    return section


def _manifest(side: Side, section: Section) -> dict[str, str] | None:
    """Path -> sha256 of the outputs; None when nothing says."""
    try:
        return {item["path"]: item["sha256"] for item in read_json(side.paths.outputs_manifest)}
    except (OSError, ValueError, KeyError, TypeError):
        section.remarks.append(f"the outputs of {side.paths.run_id} were never hashed")
        return None


def _each(
    a: Side, b: Side, names: list[str], ours: dict[str, str], theirs: dict[str, str]
) -> Iterator[Change]:
    """One line for each file that differs by its bytes, unless it holds the same."""
    tolerance = _tolerance(a)
    stores: dict[str, FileResult | str] = {}
    looks = 0
    for name in names:
        hashes = _hash(ours.get(name)), _hash(theirs.get(name))
        both = a.paths.outputs / name, b.paths.outputs / name
        store = store_of(name)
        if store is not None and store not in stores:
            stores[store] = _compare_store(a, b, store, tolerance)
            if isinstance(found := stores[store], FileResult):
                yield from _told(store, ("", ""), found)
        if isinstance(stores.get(store or ""), FileResult):
            continue
        if ABSENT in hashes or looks >= MOST_LOOKED_INTO or not all(map(_is_small, both)):
            yield Change(name, *hashes)
            continue
        looks += 1
        yield from _look(name, hashes, both, tolerance)


def _compare_store(a: Side, b: Side, store: str, tolerance: Tolerance) -> FileResult | str:
    """Compare a folder that holds one thing, when both runs have it."""
    folders = a.paths.outputs / store, b.paths.outputs / store
    if not all(folder.is_dir() for folder in folders):
        return "only one of the runs has it"
    return compare_folders(*folders, tolerance)


def _hash(sha256: str | None) -> str:
    return ABSENT if sha256 is None else f"sha256 {sha256[:12]}"


def _is_small(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.is_file() and path.stat().st_size <= LOOKED_INTO
    except OSError:
        return False


def _look(
    name: str, hashes: tuple[str, str], both: tuple[Path, Path], tolerance: Tolerance
) -> Iterator[Change]:
    """What differs in a file; nothing when its content is the same in other bytes."""
    try:
        yield from _told(name, hashes, compare_files(*both, tolerance))
    except OSError as error:
        yield Change(name, *hashes, f"cannot be read: {error}")


def _told(name: str, hashes: tuple[str, str], found: FileResult) -> Iterator[Change]:
    """A comparison as a change."""
    if found.verdict == IDENTICAL:
        return
    if found.first is None or not found.first.key:
        yield Change(name, *hashes, found.reason, found.verdict == DIFFERENT)
    else:
        yield _change(found.first, f"{name} ")
