"""Inputs: checked and hashed before a run exists, put into it, and looked at again at its end."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import InputError
from engram.files import read_json
from engram.input_walk import Bounds, refuse, walk
from engram.manifest import (
    Entry,
    Found,
    hash_many,
    in_order,
    printable,
    read_entries,
    tree_hash,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engram.config import InputSpec
    from engram.findings import Finding
    from engram.paths import CachePaths, RunPaths
    from engram.recorded import RecordedInputs

__all__ = ["ResolvedInput", "changed_since", "check", "manifest", "place"]

MAX_LISTED = 20  # changed files in one finding


class Hashed(NamedTuple):
    """The files of an input as they were read."""

    files: list[Found]
    hashes: list[str]
    began: float  # epoch seconds

    def entries(self) -> list[Entry]:
        """The manifest."""
        pairs = zip(self.files, self.hashes, strict=True)
        return in_order(Entry(file.name, file.stat.st_size, sha256) for file, sha256 in pairs)


class ResolvedInput:
    """One input as it was found.

    Attributes:
        name: its name in inputs/.
        path: as declared, made absolute; of an earlier run, its outputs.
        source: the same with every link resolved: where the bytes are.
        strategy: "symlink" or "copy".
        run: the id of the earlier run whose outputs these are.
        sha256: of the file, or of the folder's manifest.
        entries: the manifest.
        hashed: what the manifest was made of.
        differs_from: the sha256 that the repeated run recorded, where the content is another now.
        placed: where it lies in the run folder, once it does.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        source: Path,
        strategy: str,
        run: str | None,
        sha256: str,
        entries: list[Entry],
        hashed: Hashed,
    ) -> None:
        """Describe what was found; the attributes are those above."""
        self.name = name
        self.path = path
        self.source = source
        self.strategy = strategy
        self.run = run
        self.sha256 = sha256
        self.entries = entries
        self.hashed = hashed
        self.differs_from: str | None = None
        self.placed: Path | None = None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self.entries)

    def as_json(self) -> dict[str, Any]:
        """What the record says about it."""
        return {
            "name": self.name,
            "path": printable(str(self.path)),
            "strategy": self.strategy,
            "run": self.run,
            "sha256": self.sha256,
            "size": self.size,
            "files": len(self.entries),
        }


class Declared(NamedTuple):
    """One [[data.inputs]] with its run looked up."""

    spec: InputSpec
    name: str
    path: Path
    run: RunPaths | None
    where: str  # what messages call it
    is_recorded_copy: bool = False


def check(
    specs: Sequence[InputSpec],
    *,
    output_dir: Path,
    resolve_run: Callable[[str], RunPaths],
    cache: CachePaths | None = None,
    recorded: RecordedInputs | None = None,
) -> list[ResolvedInput]:
    """Check and hash all inputs; nothing is written but the cache of hashes.

    Args:
        specs: the [[data.inputs]] in order.
        output_dir: the run root, which no input may lie in or hold.
        resolve_run: finds the run that an id, latest:NAME or best:NAME:KEY means.
        cache: where known hashes lie; None reads every byte.
        recorded: the inputs of the run that is repeated: the copies it kept are used, and its
            hashes must be met.

    Raises:
        InputError: an input is missing, unreadable, no file or folder, a loop of links, badly
            placed, shares its name with another, or is not the declared or recorded content. The
            message names the path.
    """
    if not specs:
        return []
    declared = [declare(i, spec, resolve_run, recorded) for i, spec in enumerate(specs)]
    require_unique(declared)
    bounds = Bounds.around(output_dir)
    return [resolve(item, bounds, cache, recorded) for item in declared]


def declare(
    index: int,
    spec: InputSpec,
    resolve_run: Callable[[str], RunPaths],
    recorded: RecordedInputs | None,
) -> Declared:
    """Find out where an input lies and what it is called."""
    where = f"data.inputs.{index}"
    run = None if spec.run is None else resolve_run(spec.run)
    path = run.outputs if run is not None else spec.path or Path()
    experiment = path.name if run is None else experiment_of(run, spec, where)
    name = spec.name or experiment
    copy = recorded.copies.get(name) if recorded else None
    if copy is not None and copy.exists():
        return Declared(spec, name, copy, run, where, is_recorded_copy=True)
    return Declared(spec, name, path, run, where)


def experiment_of(run: RunPaths, spec: InputSpec, where: str) -> str:
    """The experiment of an earlier run that has ended.

    Raises:
        InputError: it has not, so that its outputs may still change; or it did not complete and was
            not named, but only the latest.
    """
    from engram import record

    found = record.load(run)
    if found["state"] not in record.ENDED:
        msg = (
            f"{where}: run {run.run_id!r} is {found['state']}: wait until its outputs are complete"
        )
        raise InputError(msg)
    if found["state"] != "completed" and str(spec.run).partition(":")[0] == "latest":
        msg = (
            f"{where}: {spec.run!r} is run {run.run_id!r}, which is {found['state']}: its outputs "
            "may not be all. Run that experiment again, or choose a run by its id with "
            f"`--config {where}.run=ID`"
        )
        raise InputError(msg)
    return str(found["experiment"])


def require_unique(declared: Sequence[Declared]) -> None:
    """Refuse two inputs of one name.

    Raises:
        InputError: there are two, or one without a name.
    """
    seen: dict[str, Declared] = {}
    for item in declared:
        if not item.name:
            refuse(item.where, str(item.path), "has no base name: give it a `name`")
        other = seen.setdefault(item.name, item)
        if other is not item:
            what = f"and {str(other.path)!r} are both called {item.name!r}: give one another `name`"
            refuse(item.where, str(item.path), what)


def resolve(
    item: Declared, bounds: Bounds, cache: CachePaths | None, recorded: RecordedInputs | None
) -> ResolvedInput:
    """Walk, hash and compare one input."""
    is_run = item.run is not None or item.is_recorded_copy
    bounds.require_outside(item.path, item.where, is_run=is_run)
    files = walk(item.path, item.name, where=item.where, bounds=bounds, is_run=is_run)
    hashed = hash_files(files, item.where, cache)
    source, entries = Path(os.path.realpath(item.path)), hashed.entries()
    found = ResolvedInput(
        name=item.name,
        path=item.path,
        source=source,
        strategy=item.spec.strategy,
        run=item.run.run_id if item.run else None,
        sha256=tree_hash(entries) if source.is_dir() else entries[0].sha256,
        entries=entries,
        hashed=hashed,
    )
    require_content(item, found, recorded)
    if item.run is not None and recorded is None:
        require_as_left(item.run, found, item.where)
    return found


def hash_files(files: list[Found], where: str, cache: CachePaths | None) -> Hashed:
    """Hash what a walk found.

    Raises:
        InputError: a file cannot be read after all.
    """
    began = time.time()
    try:
        if cache is None:
            return Hashed(files, hash_many(files), began)
        # Here, because it brings in SQLite, which a run without inputs does not need.
        from engram.hash_cache import HashCache

        return Hashed(files, hash_many(files, HashCache(cache.hashes)), began)
    except OSError as error:
        refuse(where, str(error.filename), f"cannot be read: {error.strerror}")


def require_content(item: Declared, found: ResolvedInput, recorded: RecordedInputs | None) -> None:
    """Refuse content that is not the declared one, or not that of the run to repeat."""
    declared = item.spec.sha256
    if declared is not None and found.sha256 != declared:
        what = f"has sha256 {found.sha256}, not the declared {declared}"
        refuse(item.where, str(item.path), what)
    before = recorded.sha256.get(item.name) if recorded else None
    if recorded is None or before is None or before == found.sha256:
        return
    if not recorded.allow_changed:
        what = f"has sha256 {found.sha256}, not the recorded {before}: restore it, or use"
        refuse(item.where, str(item.path), what + " --allow-changed-inputs")
    found.differs_from = before


def require_as_left(run: RunPaths, found: ResolvedInput, where: str) -> None:
    """Refuse outputs of an earlier run that are not what it left: the edge would not be true.

    Files that were added since are inputs like any other. A run that was killed recorded nothing.
    """
    if not run.outputs_manifest.is_file():
        return
    now = {entry.path: entry.sha256 for entry in found.entries}
    for entry in read_entries(read_json(run.outputs_manifest)):
        if entry.link is None and entry.sha256 and now.get(entry.path) != entry.sha256:
            state = "altered" if entry.path in now else "missing"
            what = (
                f"is of run {run.run_id!r}, but {state} since that ended: restore it, repeat that "
                "run with --rerun and name the new one, or give the folder as a `path` instead"
            )
            refuse(where, str(run.outputs / entry.path), what)


def manifest(inputs: Sequence[ResolvedInput]) -> list[dict[str, Any]]:
    """What provenance/inputs.json holds: each input with all its files."""
    return [
        {**item.as_json(), "entries": [entry.as_json() for entry in item.entries]}
        for item in inputs
    ]


def place(inputs: Sequence[ResolvedInput], folder: Path) -> None:
    """Put every input into a run's inputs/, under its name.

    A copy belongs to the run: it can be written to, and shares nothing with its source.

    Args:
        inputs: what `check` returned; their `placed` is set.
        folder: the run's inputs folder.

    Raises:
        InputError: a source was changed or removed since it was hashed.
        OSError: the folder cannot be written, or the disk is full.
    """
    for item in inputs:
        target = folder / item.name
        if item.strategy == "copy":
            copy(str(item.source), str(target))
            require_untouched(item)
        else:
            target.symlink_to(item.source)
        item.placed = target


def copy(source: str, target: str) -> None:
    """Copy a file or folder through its links; times and modes stay, and the owner may write."""
    import shutil

    status = Path(source).stat()
    if stat.S_ISDIR(status.st_mode):
        Path(target).mkdir()
        for name in os.listdir(source):  # noqa: PTH208
            copy(f"{source}/{name}", f"{target}/{name}")
    else:
        shutil.copyfile(source, target)
    Path(target).chmod(stat.S_IMODE(status.st_mode) | stat.S_IRUSR | stat.S_IWUSR)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def require_untouched(item: ResolvedInput) -> None:
    """Refuse a copy of something that is no longer what was hashed."""
    from engram.hash_cache import signature

    for file in item.hashed.files:
        path = Path(file.path)
        now = path.stat() if path.exists() else None
        if now is None or signature(now) != signature(file.stat):
            what = "changed between hashing and copying: start again when it is at rest"
            refuse(f"input {item.name!r}", file.path, what)


def changed_since(inputs: Sequence[ResolvedInput]) -> list[Finding]:
    """Look at the inputs again, after the run.

    A file whose times show that nobody touched it is not read a second time.

    Args:
        inputs: what `check` returned and `place` placed.

    Returns:
        At most two findings: inputs that changed while the run was on, and inputs that are not
        those of the run that was repeated.
    """
    if not inputs:
        return []
    from engram.findings import Finding

    found: list[Finding] = []
    changes = [line for item in inputs for line in changes_of(item)]
    if changes:
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        message = f"inputs changed while the run was on: {changes[0]}{more}"
        found.append(Finding("inputs_changed", message, changes[:MAX_LISTED]))
    differing = {
        item.name: {"recorded": item.differs_from, "now": item.sha256}
        for item in inputs
        if item.differs_from
    }
    if differing:
        message = f"not the inputs of the repeated run: {', '.join(differing)}"
        found.append(Finding("inputs_differ", message, differing))
    return found


def changes_of(item: ResolvedInput) -> list[str]:
    """One line for every file of an input that is not as it was when hashed."""
    from engram.hash_cache import SeenFiles

    copied = item.placed if item.strategy == "copy" else None
    lines = [] if copied or not link_replaced(item) else [f"{item.name}: its link leads elsewhere"]
    try:
        files = walk(copied or item.source, item.name, where=f"input {item.name!r}")
        hashes = hash_many(files, SeenFiles(*item.hashed))
    except (InputError, OSError) as error:
        return [*lines, str(error)]
    now = {file.name: sha256 for file, sha256 in zip(files, hashes, strict=True)}
    before = {entry.path: entry.sha256 for entry in item.entries}
    changed = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
    is_file = item.source.is_file() or set(before) == {item.name}
    return lines + [
        f"{name if is_file else f'{item.name}/{name}'}: {how_changed(name, before, now)}"
        for name in changed
    ]


def how_changed(name: str, before: dict[str, str], now: dict[str, str]) -> str:
    """What happened to one file."""
    if name not in now:
        return "missing"
    return "changed" if name in before else "new"


def link_replaced(item: ResolvedInput) -> bool:
    """Whether the link in inputs/ leads elsewhere now."""
    return item.placed is not None and Path(os.path.realpath(item.placed)) != item.source
