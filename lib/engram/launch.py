"""From parsed options to a finished run: which request to make, what to say before and after."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engram import errors
from engram.execute import execute
from engram.files import write_atomic
from engram.paths import of_rank
from engram.repository import find_root
from engram.request import Request, asked
from engram.workflow import plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engram.paths import RunPaths
    from engram.request import Run
    from engram.spawn import Spawned

__all__ = ["launch", "run_tests"]

SEVERITIES = ("error", "warning", "note")
LOG_TO_READ = 1 << 26  # bytes
TAIL, TAIL_LINES = 1 << 14, 12  # bytes and lines of another rank's log
CHECKOUT = Path(__file__).resolve().parents[2]


def launch(options: argparse.Namespace, argv: Sequence[str], ahead: Spawned | None = None) -> int:
    """Start, continue or repeat one run and report it.

    Args:
        options: as `engram.options.run_parser` makes them.
        argv: the arguments as given, for the record.
        ahead: an interpreter that was started before the options were known.

    Returns:
        The exit code.
    """
    if options.attach:
        from engram.grid import slurm_single

        return slurm_single.attach(options.attach)
    if options.rerun:
        from engram import rerun

        return rerun.rerun(options, argv, ahead)
    if options.resume:
        from engram import resume

        request = resume.request(options, argv)
    else:
        request = fresh_request(options, argv)
    if options.dry_run:
        print(plan(request))
        return errors.COMPLETED
    run = execute(request, announce=print_start, ahead=ahead)
    print_end(run)
    return exit_code(run)


def fresh_request(options: argparse.Namespace, argv: Sequence[str]) -> Request:
    """The request of a run that starts from an experiment.toml."""
    named = options.experiment or default_experiment()
    experiment = Path(os.path.abspath(named))  # noqa: PTH100 - resolve() would follow links
    if not experiment.is_file():
        msg = f"no experiment file {str(experiment)!r}: {what_was_meant(experiment)}"
        raise errors.ConfigError(msg)
    return asked(options, argv, experiment=experiment, root=find_root(experiment.parent))


def what_was_meant(experiment: Path) -> str:
    """What somebody who named a file that is not there may have had in mind."""
    from difflib import get_close_matches

    from engram.cli import VERBS

    inside = experiment / "experiment.toml"
    if inside.is_file():
        return f"did you mean {shown(inside)!r}?"
    verbs = [verb for verb in VERBS if not verb.startswith("_")]
    near = get_close_matches(experiment.name, verbs, n=1)
    if near:
        return f"did you mean the verb {near[0]!r}?"
    return "name an existing experiment.toml"


def default_experiment() -> Path:
    """workspace/experiment.toml of this repository, made from its template on first use.

    Raises:
        ConfigError: there is neither the file nor a template to make it from.
    """
    for start in (Path.cwd(), CHECKOUT):
        try:
            workspace = find_root(start) / "workspace"
        except errors.ConfigError:
            continue
        experiment, template = workspace / "experiment.toml", workspace / "experiment.template.toml"
        if not experiment.exists() and template.is_file():
            write_atomic(experiment, template.read_bytes())
            print(f"made {experiment} from its template", file=sys.stderr)
        if experiment.is_file():
            return experiment
    msg = (
        f"no experiment named, and no workspace/experiment.toml above {str(Path.cwd())!r}: name one"
    )
    raise errors.ConfigError(msg)


def print_start(run: Run) -> None:
    """Say which run this is, before the script's own output."""
    code = run.code
    commit = (
        "working tree"
        if code["live"]
        else code["commit"][:10] + (" + patch" if code["dirty"] else "")
    )
    say(f"run {run.paths.run_id}  {run.config.script} at {commit}")
    say(f"    {shown(run.paths.folder)}")


def print_end(run: Run) -> None:
    """Say how it ended, what came out, what was found, and how to repeat it."""
    from engram.readme import command  # they were needed a moment ago, not before
    from engram.table import short

    record = run.record
    call = command(record)
    cause = "" if record["state"] == "completed" else f": {record['exit']['cause']}"
    tidy_terminal(run.paths)
    say(f"{record['state']} in {record['times']['run_s']:.1f} s{cause}")
    if record["exit"].get("rank"):
        print_log_of_rank(run.paths, record["exit"]["rank"])
    for key, value in (record["summary"] or {}).items():
        say(f"    {key} = {short(value)}")
    for item in sorted(record["findings"], key=lambda item: SEVERITIES.index(item["severity"])):
        say(f"    {item['severity']}: {item['message']}")
    say(f"    {shown(run.paths.folder)}")
    if record["state"] != "completed":
        say(f"look at it: {call} show {run.paths.run_id}")
    if record["state"] != "completed" and run.paths.checkpoints.is_dir():
        say(f"continue it: {call} --resume {run.paths.run_id}")
    if not record["code"]["live"]:
        say(f"repeat it: {call} --rerun {run.paths.run_id}")


def print_log_of_rank(paths: RunPaths, rank: int) -> None:
    """Show how the error output of a rank ends that failed: the terminal had rank 0's only."""
    from engram.table import printable

    log = of_rank(paths.log_err, rank)
    say(f"    output of rank {rank}: {shown(log)}")
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    for line in lines[-TAIL_LINES:]:
        say(f"    | {printable(line)}")


def tidy_terminal(paths: RunPaths) -> None:
    """Undo what a script that was ended in the middle of a progress bar left on the terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    last = paths.log_err.read_bytes()[-1:] if paths.log_err.stat().st_size < LOG_TO_READ else b""
    sys.stderr.write("\x1b[?25h" + ("" if last in (b"", b"\n") else "\n"))


def say(line: str) -> None:
    """Write one line of the runner's own to stderr; standard output belongs to the script."""
    # Whoever read it may have gone; the run goes on.
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def exit_code(run: Run) -> int:
    """The runner's exit code for a run that has ended."""
    state = run.record["state"]
    if state == "interrupted":
        by_keyboard = run.outcome.signal_received in (None, signal.SIGINT)
        return errors.INTERRUPTED if by_keyboard else errors.TERMINATED
    return {"completed": errors.COMPLETED, "timed_out": errors.TIMED_OUT}.get(
        state, errors.INCOMPLETE
    )


def run_tests(arguments: Sequence[str]) -> int:
    """Run the test suite of this checkout with the interpreter that runs us."""
    import subprocess

    if not (CHECKOUT / "tests").is_dir() or not (CHECKOUT / "run_experiment.py").is_file():
        msg = "the test suite lies in a checkout of engram only: clone it and use ./run test there"
        raise errors.EnvironmentMissingError(msg)
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode
