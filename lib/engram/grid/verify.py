"""Check every recorded hash of a grid: its own files, and each of its runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engram import errors
from engram import record as runs
from engram.grid import record as records
from engram.grid.attempts import run_folders
from engram.grid.readme import counted
from engram.verify import Difference, compare_file, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.paths import GridPaths, RunPaths

__all__ = ["verify_command", "verify_grid"]


def verify_grid(paths: GridPaths) -> Iterator[Difference]:
    """Compare a grid's folder with its records, one run after the other; every byte is read.

    Yields:
        What differs; paths are relative to the grid's folder.

    Raises:
        RunNotFoundError: the grid has no record.
        StoreError: the grid's record cannot be read.
    """
    record = records.load(paths)
    recorded, found = record.get("record_sha256"), records.record_sha256(record)
    if recorded != found:
        yield Difference(paths.record.name, "altered", recorded, found)
    hashes, code = record.get("hashes") or {}, record.get("code") or {}
    files = (
        (paths.grid_file, hashes.get("grid_file")),
        (paths.experiment, hashes.get("experiment")),
        (paths.parameters, hashes.get("parameters")),
        # Of a search that goes on, the file grows.
        (paths.points, hashes.get("points") if record["state"] in records.ENDED else None),
        (paths.patch, code.get("patch_sha256")),
        (paths.source, code.get("source_sha256")),
    )
    for path, sha256 in files:
        if sha256:
            yield from compare_file(path.name, sha256, path)
    for run in run_folders(paths):
        try:
            differences = verify(run)
        except errors.RunNotFoundError:
            continue  # killed before its record was born: nothing is recorded of it
        except errors.StoreError:
            yield Difference(f"{run.run_id}/{run.metadata.name}", "unreadable")
            continue
        for item in differences:
            yield replace(item, path=f"{run.run_id}/{item.path}")


def _completed(paths: RunPaths) -> bool:
    """Whether a run's record says that it completed."""
    try:
        return bool(runs.load(paths)["state"] == "completed")
    except errors.RunnerError:
        return False


def verify_command(paths: GridPaths) -> int:
    """Verify a grid and say what came out.

    Returns:
        COMPLETED, or DIFFERENT when anything is not as recorded.

    Raises:
        RunNotFoundError: it has no record.
        StoreError: its record cannot be read.
    """
    number = 0
    for difference in verify_grid(paths):
        print(f"    {difference}")
        number += 1
    record = records.load(paths)
    folders = run_folders(paths)
    if number:
        print(f"{paths.grid_id}: {number} of its files are not as recorded")
    else:
        made = f"{len(folders)} {'run' if len(folders) == 1 else 'runs'}"
        print(f"{paths.grid_id}: every recorded hash holds, of the grid and its {made}")
    if record["state"] not in records.ENDED:
        print(f"it is {record['state']}: only what it has recorded so far was checked")
    completed = sum(_completed(run) for run in folders)
    if completed < record["counts"].get("completed", 0):
        print(f"{counted(record)}; only {completed} of the completed ones have a run here now")
    return errors.DIFFERENT if number else errors.COMPLETED
