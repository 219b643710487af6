"""Continue a run: a new run from the newest valid checkpoint of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import checkpoint_files, errors
from engram.findings import Finding
from engram.reconcile import reconcile
from engram.record import load as load_record
from engram.recorded import recorded_code, recorded_inputs, recorded_root, run_root
from engram.request import Request, asked
from engram.store import Store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.paths import RunPaths

__all__ = ["request"]


def request(options: argparse.Namespace, argv: Sequence[str]) -> Request:
    """The request that continues `options.resume`.

    Commit, parameters and inputs are those of the parent unless the command line overrides them;
    overrides are kept in the edge and named in a note.

    Args:
        options: parsed options with `resume`, and any override.
        argv: the arguments as given, for the record.

    Raises:
        ResumeError: the run is still running, or left no valid checkpoint.
        RunNotFoundError: no run, or several, answer to the reference.
    """
    paths = Store.for_root(Path.cwd()).find(options.resume)
    record = reconcile(paths)
    if record["state"] in ("created", "running"):
        msg = (
            f"run {paths.run_id!r} is {record['state']} and cannot be continued yet: wait or end it"
        )
        raise errors.ResumeError(msg)
    if options.commit not in (None, "HEAD"):
        msg = f"--commit takes HEAD, not {options.commit!r}: check that commit out first"
        raise errors.ConfigError(msg)
    checkpoint, edge, holder, position = newest_checkpoint(paths)
    overrides = overrides_of(options)
    continued = asked(options, argv, experiment=paths.experiment, root=recorded_root(record))
    return continued._replace(
        run_root=run_root(paths, record),
        recorded_code=None if uses_working_tree(options) else recorded_code(paths, record),
        recorded_inputs=recorded_inputs(paths, record, allow_changed=options.allow_changed_inputs),
        resumed_from={"run": holder.run_id, **edge, "overrides": overrides},
        resume_from=checkpoint,
        metrics_from=(holder, position),
        notes=override_notes(overrides),
    )


def newest_checkpoint(paths: RunPaths) -> tuple[Path, dict[str, Any], RunPaths, int]:
    """Find the checkpoint to continue from; a resumed run without one falls back to its start.

    Returns:
        The checkpoint, its part of the edge (name and sha256), the run that holds it, and the byte
        of that run's metrics.jsonl at the save.

    Raises:
        ResumeError: there is no valid checkpoint.
    """
    checkpoint = checkpoint_files.newest_valid(paths.checkpoints)
    if checkpoint is None:
        return inherited_checkpoint(paths)
    edge = {"checkpoint": checkpoint.name, "sha256": checkpoint_files.identity(checkpoint)}
    return checkpoint, edge, paths, checkpoint_files.read_meta(checkpoint).metrics_position


def inherited_checkpoint(paths: RunPaths) -> tuple[Path, dict[str, Any], RunPaths, int]:
    """The checkpoint that a run without one of its own was started from."""
    parent = load_record(paths)["parents"]["resumed_from"]
    if parent is None:
        saved = [
            f"{path.name}: {checkpoint_files.problem(path)}"
            for _, path in checkpoint_files.saved_steps(paths.checkpoints)
        ]
        found = (
            "; ".join(saved)
            or f"nothing that engram.checkpoint saved in {str(paths.checkpoints)!r}"
        )
        msg = (
            f"run {paths.run_id!r} left no valid checkpoint ({found}): start it again with --rerun"
        )
        raise errors.ResumeError(msg)
    holder = Store.for_root(Path.cwd()).find(parent["run"])
    return exact_checkpoint(holder, parent)


def exact_checkpoint(
    holder: RunPaths, edge: dict[str, Any]
) -> tuple[Path, dict[str, Any], RunPaths, int]:
    """The very checkpoint that an edge names.

    Raises:
        ResumeError: it is gone, damaged or another one now.
    """
    checkpoint = holder.checkpoints / edge["checkpoint"]
    problem = checkpoint_files.problem(checkpoint)
    if problem is None and checkpoint_files.identity(checkpoint) != edge["sha256"]:
        problem = f"its sha256 is not {edge['sha256']}"
    if problem is not None:
        msg = f"checkpoint {str(checkpoint)!r} is not the one that was continued from: {problem}"
        raise errors.ResumeError(msg)
    kept = {"checkpoint": edge["checkpoint"], "sha256": edge["sha256"]}
    return checkpoint, kept, holder, checkpoint_files.read_meta(checkpoint).metrics_position


def overrides_of(options: argparse.Namespace) -> list[str]:
    """What the command line changes against the parent, as it was written."""
    changed = [f"--set {item}" for item in options.set] + [
        f"--config {item}" for item in options.config
    ]
    for name in ("seed", "timeout", "commit"):
        if getattr(options, name) is not None:
            changed.append(f"--{name} {getattr(options, name)}")
    return changed + [
        f"--{name.replace('_', '-')}" for name in ("allow_dirty", "live") if getattr(options, name)
    ]


def override_notes(overrides: list[str]) -> list[Finding]:
    """A continued run that was changed on the way says so."""
    if not overrides:
        return []
    return [Finding("resumed_with_overrides", f"continued with {', '.join(overrides)}", overrides)]


def uses_working_tree(options: argparse.Namespace) -> bool:
    """Whether the code comes from the working tree rather than from the parent's commit."""
    return options.commit is not None or options.allow_dirty or options.live
