"""Repeat a run from its record, and say whether the same result came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import errors, record
from engram.execute import execute
from engram.launch import exit_code, print_end, print_start, say
from engram.reconcile import reconcile
from engram.recorded import (
    recorded_code,
    recorded_inputs,
    recorded_root,
    require_unaltered,
    run_root,
)
from engram.recreate import recorded_environment
from engram.request import Request
from engram.resume import exact_checkpoint
from engram.store import Store
from engram.workflow import plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.paths import RunPaths
    from engram.spawn import Spawned

__all__ = ["rerun"]


def rerun(options: argparse.Namespace, argv: Sequence[str], ahead: Spawned | None = None) -> int:
    """Repeat `options.rerun` and compare every output.

    Args:
        options: parsed options with `rerun`.
        argv: the arguments as given, for the record.
        ahead: an interpreter that was started before the options were known.

    Returns:
        The exit code: that of the run, or DIFFERENT when it completed with another result.

    Raises:
        ResumeError: the run is not over, ran live, its files were altered, or it has no lock file
            to recreate the environment from.
        EnvironmentMissingError: the recorded environment cannot be made.
        InputError: an input is missing or changed.
        RunNotFoundError: no run, or several, answer to the reference.
    """
    original = Store.for_root(Path.cwd()).find(options.rerun)
    before = reconcile(original)
    request = repeat(original, before, options, argv)
    if options.dry_run:
        print(plan(request))
        return errors.COMPLETED
    run = execute(request, announce=print_start, ahead=ahead)
    print_end(run)
    if run.comparison is None:
        say("not compared: this run did not complete")
        return exit_code(run)
    return report(run.comparison, original)


def repeat(
    original: RunPaths, before: dict[str, Any], options: argparse.Namespace, argv: Sequence[str]
) -> Request:
    """The request that repeats a recorded run."""
    given = [f"--{name}" for name in ("set", "config", "seed", "timeout") if getattr(options, name)]
    given += [f"--{name}" for name in ("allow_dirty", "live", "pdb") if getattr(options, name)]
    if given:
        options_given = ", ".join(given)
        msg = f"--rerun repeats a run as it was, without {options_given}: use --resume or a new run"
        raise errors.ConfigError(msg)
    if before["state"] not in record.ENDED:
        msg = f"run {original.run_id!r} is {before['state']}: wait until it has ended"
        raise errors.ResumeError(msg)
    require_unaltered(original, before)
    request = Request(
        experiment=original.experiment,
        root=recorded_root(before),
        argv=tuple(argv),
        run_root=run_root(original, before),
        recorded_code=recorded_code(original, before),
        recorded_inputs=recorded_inputs(
            original, before, allow_changed=options.allow_changed_inputs
        ),
        recreate=recorded_environment(original, before) if options.recreate_environment else None,
        rerun_of={"run": original.run_id},
        original=original,
    )
    edge = before["parents"]["resumed_from"]
    if edge is None:
        return request
    checkpoint, _, holder, position = exact_checkpoint(
        Store.for_root(Path.cwd()).find(edge["run"]), edge
    )
    return request._replace(
        resumed_from=edge, resume_from=checkpoint, metrics_from=(holder, position)
    )


def report(comparison: dict[str, Any], original: RunPaths) -> int:
    """Print the verdict, and what is not identical.

    Returns:
        COMPLETED, or DIFFERENT.
    """
    verdict = comparison["verdict"]
    if verdict == "not compared":
        say(f"not compared: {original.run_id} did not complete")
        return errors.COMPLETED
    for item in comparison["files"]:
        if item["verdict"] not in ("identical", "volatile"):
            say(f"    {item['path']}: {item['verdict']}, {item['reason']}")
    say(f"{verdict}: compared with {original.run_id}, {len(comparison['files'])} files")
    return errors.DIFFERENT if verdict == "different" else errors.COMPLETED
