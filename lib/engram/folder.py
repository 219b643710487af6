"""Make a run's folder and put into it what is known before the script starts."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from engram import files, inputs, open_runs, record, roots
from engram.config import resolved
from engram.errors import StoreError
from engram.findings import Finding
from engram.index import Index
from engram.lease import Lease
from engram.manifest import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engram.paths import GridPaths, RunPaths
    from engram.request import Run

RESERVE_BYTES = 1 << 20
TMP_PREFIX = "engram-"

__all__ = [
    "keep_code",
    "keep_inputs",
    "keep_source",
    "make",
    "mend",
    "release_reserve",
    "remove_tmp",
    "unmake",
]


def make(run: Run) -> None:
    """Make the folder, lock its lease, and let the index know of it."""
    hide_from_git(run.root.folder)
    place = run.request.place
    run.paths = paths = record.new_run_folder(
        run.root.folder,
        place.folder.name if place else run.config.name,
        title=place.point if place else None,
    )
    paths.provenance.mkdir()
    run.lease = Lease.acquire(paths.lease)
    for folder in (paths.inputs, paths.outputs):
        folder.mkdir()
    run.tmp = make_tmp(paths.run_id)
    roots.register(run.cache, run.root.folder)
    open_runs.opened(run.root, paths)
    Index(run.root).note(paths.folder)
    take_reserve(paths)


def unmake(run: Run) -> None:
    """Take back a folder that never got a record: it is nobody's yet."""
    if not hasattr(run, "paths"):
        return
    import shutil

    shutil.rmtree(run.paths.folder, ignore_errors=True)
    remove_tmp(run.tmp)
    open_runs.closed(run.root, run.paths)


def take_reserve(paths: RunPaths | GridPaths) -> None:
    """Set some disk aside, so that an end that is met on a full disk can still be recorded."""
    with paths.reserve.open("wb") as stream, contextlib.suppress(OSError):
        os.posix_fallocate(stream.fileno(), 0, RESERVE_BYTES)


def release_reserve(paths: RunPaths | GridPaths) -> None:
    """Give the reserve back."""
    with contextlib.suppress(OSError):
        paths.reserve.unlink(missing_ok=True)


def hide_from_git(run_root: Path) -> None:
    """Make a new run root ignore itself: git would list every file of every run at each start.

    Raises:
        StoreError: it cannot be made; a link may lead to a disk that is not there.
    """
    if run_root.exists():
        return
    if run_root.is_symlink():
        msg = f"the run root {str(run_root)!r} is a link to {str(run_root.readlink())!r}, which is"
        raise StoreError(f"{msg} missing: mount that disk, or remove the link")
    try:
        run_root.mkdir(parents=True, exist_ok=True)
        files.write_atomic(run_root / ".gitignore", b"*\n")
    except OSError as error:
        raise record.store_error(run_root, error) from error


def keep_code(run: Run) -> None:
    """Put what belongs to the code into the run folder: lock file, patch, pack if it is there."""
    paths, recorded = run.paths, run.request.recorded_code
    if run.snapshot is None:
        return
    lock_file = run.snapshot.path / "uv.lock"
    if lock_file.is_file():
        files.write_atomic(paths.lock_file, lock_file.read_bytes())
    patch = run.patch if recorded is None else recorded.patch()
    if patch is not None:
        files.write_atomic(paths.patch, patch)
        run.code["patch_sha256"] = hashlib.sha256(patch).hexdigest()
    keep_source(run, wait=False)


def keep_source(run: Run, *, wait: bool) -> bool:
    """Give the run folder the commit's pack, which makes it independent of the repository.

    Args:
        run: its record, when it is born already, is brought up to date.
        wait: whether to wait for a pack that is still being written.

    Returns:
        Whether nothing is left to be done.
    """
    if run.snapshot is None or run.code["source_sha256"] is not None:
        return True
    source = run.root.source(run.snapshot.commit)
    if not source.exists() and not (wait or run.packing is None or run.packing.done()):
        return False
    if not source.exists():
        make_source(run, source)
    files.link_or_copy(source, run.paths.source)
    run.code["source_sha256"] = run.source_sha256 or hash_file(run.paths.source)
    if run.born:
        run.record = record.change(run.paths, code=run.code)
    return True


def make_source(run: Run, source: Path) -> None:
    """Put the commit's pack beside the runs: the one being written, or that of the original run."""
    source.parent.mkdir(parents=True, exist_ok=True)
    recorded = run.request.recorded_code
    if run.packing is not None:
        made = run.packing.finish()
        files.link_or_copy(made, source)
        made.unlink(missing_ok=True)
    elif recorded is not None:
        files.link_or_copy(recorded.pack, source)


def keep_inputs(run: Run) -> None:
    """Put in place what the script reads: parameters, inputs, and the metrics it continues."""
    paths = run.paths
    files.write_atomic(paths.parameters, run.parameters.data)
    files.write_atomic(paths.experiment, resolved(run.config, run.inputs).encode())
    inputs.place(run.inputs, paths.inputs)
    files.write_json(paths.inputs_manifest, inputs.manifest(run.inputs))
    if run.request.metrics_from is not None:
        from engram.metrics_files import copy_until

        parent, position = run.request.metrics_from
        copy_until(parent, paths, position)


def mend(run: Run) -> list[Finding]:
    """Put back what the script did to the run's own folder, and say so.

    The record, the parameters and the experiment are written again from memory: they say what was
    run, not what the script made of them.
    """
    paths = run.paths
    damaged = [name for name, intact in kept_files(run) if not intact]
    if not damaged:
        return []
    for place in (paths.folder, paths.provenance, paths.inputs, paths.outputs):
        place.mkdir(parents=True, exist_ok=True)
    if paths.metadata.is_dir():
        paths.metadata.rename(paths.folder / f"{paths.metadata.name}.damaged")
    record.restore(paths, run.record)
    files.write_atomic(paths.parameters, run.parameters.data)
    files.write_atomic(paths.experiment, resolved(run.config, run.inputs).encode())
    for log in paths.logs(run.config.engine.processes):
        log.touch()
    said = f"the script changed the run's own record: {', '.join(damaged)}"
    return [Finding("record_damaged", said, damaged)]


def kept_files(run: Run) -> Iterator[tuple[str, bool]]:
    """The files that were complete before the script started: are they still as they were?"""
    paths, hashes = run.paths, run.record["hashes"]
    expected = [
        (paths.parameters, hashes["parameters"]),
        (paths.experiment, hashes["experiment"]),
        (paths.environment, hashes["environment"]),
        (paths.inputs_manifest, hashes["inputs"]),
        (paths.lock_file, hashes["lock_file"]),
        (paths.patch, run.code["patch_sha256"]),
    ]
    yield paths.metadata.name, record.is_intact(paths, run.record)
    yield "logs", all(log.is_file() for log in paths.logs(run.config.engine.processes))
    yield "outputs/", paths.outputs.is_dir()
    yield paths.source.name, paths.source.is_file() or run.snapshot is None
    for path, sha256 in expected:
        if sha256 is not None:
            name = path.relative_to(paths.folder).as_posix()
            yield name, path.is_file() and hash_file(path) == sha256


def make_tmp(run_id: str) -> Path:
    """Make the run's own TMPDIR, below the machine's.

    Its name is short: sockets of multiprocessing lie in it, whose paths may have 107 bytes.
    """
    base = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    folder = base / f"{TMP_PREFIX}{run_id[-6:]}-{os.urandom(3).hex()}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise record.store_error(folder, error) from error
    return folder


def remove_tmp(folder: Path | None) -> None:
    """Remove a run's TMPDIR; what a script left there is nobody's."""
    if folder is None or not folder.name.startswith(TMP_PREFIX):
        return
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
