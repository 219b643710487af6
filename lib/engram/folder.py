"""Make a run's folder and put into it what is known before the script starts."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from engram import files, inputs, open_runs, record, roots
from engram.config import resolved
from engram.index import Index
from engram.lease import Lease
from engram.manifest import hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from engram.paths import RunPaths
    from engram.request import Run

__all__ = ["keep_code", "keep_inputs", "make", "remove_tmp"]


def make(run: Run) -> None:
    """Make the folder, lock its lease, and let the index know of it."""
    hide_from_git(run.root.folder)
    run.paths = paths = record.new_run_folder(run.root.folder, run.config.name)
    paths.provenance.mkdir()
    run.lease = Lease.acquire(paths.lease)
    for folder in (paths.inputs, paths.outputs, paths.tmp):
        folder.mkdir()
    roots.register(run.cache, run.root.folder)
    open_runs.opened(run.root, paths)
    Index(run.root).note(paths.folder)


def hide_from_git(run_root: Path) -> None:
    """Make a new run root ignore itself: git would list every file of every run at each start."""
    if not run_root.exists():
        with contextlib.suppress(FileExistsError):
            run_root.mkdir(parents=True)
        files.write_atomic(run_root / ".gitignore", b"*\n")


def keep_code(run: Run) -> None:
    """Put what is needed to run this code again into the run folder: pack, patch, lock file."""
    paths, recorded = run.paths, run.request.recorded_code
    if run.snapshot is None:
        return
    source = run.root.source(run.snapshot.commit)
    if not source.exists():
        make_source(run, source)
    files.link_or_copy(source, paths.source)
    run.code["source_sha256"] = hash_file(paths.source)
    lock_file = run.snapshot.path / "uv.lock"
    if lock_file.is_file():
        files.write_atomic(paths.lock_file, lock_file.read_bytes())
    patch = run.patch if recorded is None else recorded.patch()
    if patch is not None:
        files.write_atomic(paths.patch, patch)
        run.code["patch_sha256"] = hashlib.sha256(patch).hexdigest()


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


def remove_tmp(paths: RunPaths) -> None:
    """Remove the run's TMPDIR; what a script left there is nobody's."""
    try:
        paths.tmp.rmdir()
    except OSError:
        import shutil

        shutil.rmtree(paths.tmp, ignore_errors=True)
