"""The doctor's look at where runs and caches lie: file systems, runs left behind, snapshots."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engram.doctor import BROKEN, OK, WARN, Check, Place
from engram.errors import RunnerError
from engram.filters import Filter
from engram.grid import record as grid_records
from engram.grid.find import grids_in
from engram.removal import counted, unreadable
from engram.snapshot import intact_snapshot
from engram.table import printable, size
from engram.trash import left_aside

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CHECKS"]

SCARCE_BYTES = 2 * 10**9
EMPTY_BYTES = 10**8
SKEW_S = 2.0
MOUNTS = Path("/proc/self/mounts")


def file_systems(place: Place) -> Iterator[Check]:
    """Whether locks, links and names work where runs and caches lie, and whether there is room."""
    folders = [("run root", index.root.folder) for index in place.store.indices]
    if place.repository is not None:
        folders.append(("cache", place.repository.common_dir))
    if not place.store.indices:
        yield Check("run root", OK, "none yet")
    for topic, folder in folders:
        said = f"{folder} ({kind(folder)}, {size(shutil.disk_usage(folder).free)} free)"
        problems = list(probe(topic, folder))
        yield from problems or [Check(topic, OK, said)]


def kind(folder: Path) -> str:
    """The type of the file system that a folder lies on."""
    best, found = "", "unknown file system"
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(errors="replace").splitlines():
            _, mount, name, *_ = line.split(" ")
            mount = mount.encode().decode("unicode_escape")
            inside = f"{folder}/".startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(best):
                best, found = mount, name
    return found


def probe(topic: str, folder: Path) -> Iterator[Check]:
    """Try out a file system in a folder of one's own, which is removed afterwards."""
    place = f"{folder} ({kind(folder)})"
    free = shutil.disk_usage(folder).free
    if free < SCARCE_BYTES:
        level = BROKEN if free < EMPTY_BYTES else WARN
        yield Check(topic, level, f"{place}: {size(free)} free", "free space; see gc")
    inside = folder / ".engram" if (folder / ".engram").is_dir() else folder
    try:
        scratch = tempfile.mkdtemp(prefix=".engram-doctor-", dir=inside)
    except OSError as error:
        advice = "set another output_dir, or ask for access"
        yield Check(topic, BROKEN, f"{place} cannot be written: {error.strerror}", advice)
        return
    try:
        for level, said, advice in problems(Path(scratch)):
            yield Check(topic, level, f"{place}: {said}", advice)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def problems(folder: Path) -> Iterator[tuple[str, str, str]]:
    """What a file system cannot do, as (level, what, advice)."""
    first = folder / "probe"
    first.write_bytes(b"probe")
    if not locks_work(first):
        advice = "a run's lease needs them; without, a dead runner may be taken for a living one"
        yield WARN, "locks (flock) do not work", advice
    if (folder / "PROBE").exists():
        yield WARN, "upper and lower case are the same", "names that differ by case alone collide"
    try:
        (folder / "link").hardlink_to(first)
    except OSError:
        yield WARN, "no hard links", "each run keeps a source pack of its own: more space"
    try:
        (folder / "pointer").symlink_to(first)
    except OSError:
        yield WARN, "no symbolic links", 'set strategy = "copy" for every input'
    skew = first.stat().st_mtime - time.time()
    if abs(skew) > SKEW_S:
        advice = "set both by NTP: the times of files and of runs do not fit together"
        yield WARN, f"its clock is {skew:+.0f} s off this machine's", advice


def locks_work(path: Path) -> bool:
    """Whether a lock that is held keeps a second one out."""
    with path.open("rb+") as one, path.open("rb+") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def runs(place: Place) -> Iterator[Check]:
    """Runs that ended without a word, or that cannot be read; what was half removed."""
    rows = place.store.list_runs()
    killed = place.store.list_runs([Filter("state", "=", "killed")])
    if killed:
        advice = f"`show {killed[0].run_id}` says why; --resume continues it, rm removes it"
        yield Check("killed runs", WARN, f"{counted(len(killed), 'run')} killed", advice)
    for run in unreadable(rows):
        advice = "restore metadata.json from a backup, or delete the folder: it is not listed whole"
        yield Check("record", WARN, f"the record of {run} cannot be read", advice)
    for index in place.store.indices:
        left = left_aside(index.root)
        if left:
            said = f"{counted(len(left), 'run')} half removed in {index.root.folder}"
            yield Check("trash", WARN, said, "gc --yes finishes that")
    if not killed:
        yield Check("runs", OK, f"{counted(len(rows), 'run')}, none killed")


def grids(place: Place) -> Iterator[Check]:
    """Grids that did not run every point, or that cannot be read."""
    found = [paths for index in place.store.indices for paths in grids_in(index.root)]
    killed = []
    for paths in found:
        try:
            if grid_records.reconcile(paths)["state"] == "killed":
                killed.append(paths.grid_id)
        except RunnerError as error:
            yield Check("grid record", WARN, str(error), "restore grid.json from a backup")
    if killed:
        advice = f"--grid --resume {killed[-1]} runs what is left, rm removes it"
        yield Check("killed grids", WARN, f"{counted(len(killed), 'grid')} killed", advice)
    elif found:
        yield Check("grids", OK, f"{counted(len(found), 'grid')}, none killed")


def snapshots(place: Place) -> Iterator[Check]:
    """Checkouts that somebody changed since they were laid out."""
    folder = place.cache.snapshots
    commits = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    damaged = [commit for commit in commits if intact_snapshot(commit, place.cache) is None]
    if damaged:
        names = ", ".join(printable(commit[:12]) for commit in damaged)
        advice = "find out what writes there; the next run of the commit makes it again"
        yield Check("snapshots", WARN, f"{len(damaged)} changed since made: {names}", advice)
    elif commits:
        yield Check("snapshots", OK, f"{len(commits)}, all as they were made")


CHECKS = (file_systems, runs, grids, snapshots)
