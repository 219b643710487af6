"""Check every recorded hash of a run against its folder, and name what was altered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram import errors, manifest
from engram import record as records
from engram.files import read_json
from engram.paths import GridPaths
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from engram.manifest import Entry, Found
    from engram.paths import RunPaths

__all__ = ["Difference", "compare_file", "verify", "verify_command"]


@dataclass(frozen=True)
class Difference:
    """One thing that is not as recorded.

    Attributes:
        path: of the file, relative to the run folder.
        kind: "altered", "missing", "extra" or "unreadable".
        recorded: the recorded sha256, where there is one.
        found: the sha256 now, where there is one.
    """

    path: str
    kind: str
    recorded: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        """One line for people."""
        hashes = (
            f" (sha256 {self.recorded}, now {self.found})" if self.recorded and self.found else ""
        )
        return printable(f"{self.kind}: {self.path}{hashes}")


def verify(paths: RunPaths) -> list[Difference]:
    """Compare a run folder with its record; every byte is read, no cache is asked.

    Args:
        paths: the folder of a run that has ended; of one still going, what it recorded is checked.

    Returns:
        What differs, in the order of the checks; empty when all is as recorded.

    Raises:
        RunNotFoundError: there is no record.
        StoreError: the record cannot be read.
    """
    record = records.load(paths)
    checks: tuple[Callable[[RunPaths, dict[str, Any]], Iterable[Difference]], ...] = (
        _record,
        _files,
        _inputs,
        _outputs,
    )
    found = [difference for check in checks for difference in check(paths, record)]
    return list(dict.fromkeys(found))


def _record(paths: RunPaths, record: dict[str, Any]) -> Iterator[Difference]:
    """The record itself."""
    recorded, found = record.get("record_sha256"), records.record_sha256(record)
    if recorded != found:
        yield Difference(_name(paths, paths.metadata), "altered", recorded, found)


def _files(paths: RunPaths, record: dict[str, Any]) -> Iterator[Difference]:
    """The files whose hashes stand in the record one by one."""
    hashes, code = record.get("hashes") or {}, record.get("code") or {}
    extra = []
    recorded: list[tuple[Path, str | None]] = [
        (paths.parameters, hashes.get("parameters")),
        (paths.experiment, hashes.get("experiment")),
        (paths.environment, hashes.get("environment")),
        (paths.inputs_manifest, hashes.get("inputs")),
        (paths.outputs_manifest, (record.get("outputs") or {}).get("manifest_sha256")),
        (paths.imports, hashes.get("imports")),
        (paths.files, hashes.get("files")),
        (paths.metrics, hashes.get("metrics")),
        (paths.lock_file, hashes.get("lock_file")),
        (paths.patch, code.get("patch_sha256")),
        (paths.source, code.get("source_sha256")),
        *_logs(paths, record.get("logs") or {}),
    ]
    # What the record says did not exist must not have appeared since.
    if "lock_file" in hashes and not hashes["lock_file"]:
        extra.append(paths.lock_file)
    if "patch_sha256" in code and not code["patch_sha256"]:
        extra.append(paths.patch)
    for path, sha256 in recorded:
        if sha256:
            yield from compare_file(_name(paths, path), sha256, path)
    yield from (Difference(_name(paths, path), "extra") for path in extra if os.path.lexists(path))


def _logs(paths: RunPaths, logs: dict[str, Any]) -> Iterator[tuple[Path, str | None]]:
    """The logs of every rank and their hashes."""
    each = [logs, *(logs.get("ranks") or ())]
    recorded = [rank.get(key) for rank in each for key in ("out_sha256", "err_sha256")]
    yield from zip(paths.logs(len(each)), recorded, strict=True)


def compare_file(name: str, recorded: str, path: Path) -> Iterator[Difference]:
    """One file against its hash."""
    try:
        found = manifest.hash_file(path)
    except FileNotFoundError:
        yield Difference(name, "missing", recorded)
    except OSError:
        yield Difference(name, "unreadable", recorded)
    else:
        if found != recorded:
            yield Difference(name, "altered", recorded, found)


def _inputs(paths: RunPaths, record: dict[str, Any]) -> Iterator[Difference]:
    """The inputs: copies in the folder, and what links lead to."""
    details = _manifest_of_inputs(paths)
    for item in record.get("inputs") or []:
        place = paths.inputs / item["name"]
        name = _name(paths, place)
        if not place.exists():
            yield Difference(name, "missing", item.get("sha256"))
        elif place.is_dir():
            yield from _input_folder(name, place, item, details.get(item["name"]))
        elif item.get("sha256"):
            yield from compare_file(name, item["sha256"], place)


def _input_folder(
    name: str, place: Path, item: dict[str, Any], recorded: list[Entry] | None
) -> Iterator[Difference]:
    """An input that is a folder: its files by name when the manifest tells, else as one."""
    found = _entries_behind(place)
    sha256 = manifest.tree_hash(found)
    if sha256 == item.get("sha256"):
        return
    differences = list(_entries(name, recorded, found)) if recorded is not None else []
    yield from differences or [Difference(name, "altered", item.get("sha256"), sha256)]


def _entries_behind(place: Path) -> list[Entry]:
    """The manifest of an input folder, read through its links as a script reads it."""
    found = list(_walk(place, "", frozenset()))
    hashes = manifest.hash_many(found, lenient=True)
    return manifest.in_order(
        manifest.Entry(file.name, file.stat.st_size, sha256)
        for file, sha256 in zip(found, hashes, strict=True)
    )


def _walk(folder: Path, prefix: str, trail: frozenset[tuple[int, int]]) -> Iterator[Found]:
    """Every file at and below a folder; a loop of links is left where it closes."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in trail:
        return
    for path in folder.iterdir():
        name = prefix + manifest.printable(path.name)
        if path.is_dir():
            yield from _walk(path, f"{name}/", trail | {identity})
        elif path.exists():
            yield manifest.Found(str(path), name, path.stat())


def _manifest_of_inputs(paths: RunPaths) -> dict[str, list[Entry]]:
    """The manifest by the name of the input; empty when damaged, which is reported elsewhere."""
    try:
        items = read_json(paths.inputs_manifest)
        return {item["name"]: manifest.read_entries(item["entries"]) for item in items}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _outputs(paths: RunPaths, record: dict[str, Any]) -> Iterator[Difference]:
    """The outputs: the manifest against the record, then every file against the manifest."""
    outputs = record.get("outputs")
    if not outputs:
        return
    name = _name(paths, paths.outputs_manifest)
    try:
        recorded = manifest.read_entries(read_json(paths.outputs_manifest))
    except FileNotFoundError:
        yield Difference(name, "missing", outputs["sha256"])
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield Difference(name, "unreadable", outputs["sha256"])
        return
    sha256 = manifest.tree_hash(recorded)
    if sha256 != outputs["sha256"]:
        yield Difference(name, "altered", outputs["sha256"], sha256)
    yield from _entries(_name(paths, paths.outputs), recorded, manifest.hash_tree(paths.outputs))


def _entries(
    prefix: str, recorded: Iterable[Entry], found: Iterable[Entry]
) -> Iterator[Difference]:
    """Two manifests of one folder, file by file."""
    before = {entry.path: entry for entry in recorded}
    after = {entry.path: entry for entry in found}
    for path in sorted(before.keys() | after.keys()):
        name = f"{prefix}/{path}"
        old, new = before.get(path), after.get(path)
        if old is None:
            yield Difference(name, "extra")
        elif new is None:
            yield Difference(name, "missing", old.sha256)
        elif new != old:
            kind = "unreadable" if old.sha256 and not new.sha256 else "altered"
            yield Difference(name, kind, old.sha256, new.sha256)


def _name(paths: RunPaths, path: Path) -> str:
    """A path as a person finds it in the run folder."""
    return path.relative_to(paths.folder).as_posix()


def verify_command(start: Path, reference: str) -> int:
    """Verify one run, or one grid with all its runs, and say what came out.

    Args:
        start: where the person stands.
        reference: see engram.grid.find.find_either.

    Returns:
        COMPLETED, or DIFFERENT when anything is not as recorded.

    Raises:
        RunNotFoundError: nothing answers, several do, or it has no record.
        StoreError: the record cannot be read.
    """
    from engram.grid.find import find_either

    paths = find_either(start, reference)
    if isinstance(paths, GridPaths):
        from engram.grid.verify import verify_command

        return verify_command(paths)
    differences = verify(paths)
    state = records.load(paths)["state"]
    for difference in differences:
        print(f"    {difference}")
    if state not in records.ENDED:
        print(f"{paths.run_id} is {state}: only what it has recorded so far was checked")
    elif differences:
        print(f"{paths.run_id}: {len(differences)} of its files are not as recorded")
    else:
        print(f"{paths.run_id}: every recorded hash holds{_unpinned(paths)}")
    return errors.DIFFERENT if differences else errors.COMPLETED


def _unpinned(paths: RunPaths) -> str:
    """What an ended run never recorded, so that nobody takes silence for proof."""
    record = records.load(paths)
    missing = [name for name in ("outputs", "logs") if not record.get(name)]
    return f"; it ended before its {' and '.join(missing)} were hashed" if missing else ""
