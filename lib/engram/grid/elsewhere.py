"""What engines on other machines share: how a point is called there, and what its run left."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

from engram import errors
from engram.files import write_atomic
from engram.grid.engine import Ended, essence
from engram.launch import CHECKOUT
from engram.outcome import Outcome
from engram.reconcile import reconcile
from engram.record import ENDED, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from engram.grid.engine import Task
    from engram.grid.prepare import Shared
    from engram.paths import RunPaths
    from engram.request import Run

__all__ = [
    "arguments",
    "device_of",
    "ended",
    "final",
    "heeding",
    "invocation",
    "last_line",
    "outcome",
    "prune",
    "runs_made",
]

LOOK_S = 1.0
SLURMS = ("srun: ", "slurmstepd", "submitit ")
TAIL = 2000  # characters of a log that a message may take a line of


def invocation() -> list[str]:
    """How another machine calls engram: as this process was."""
    script = CHECKOUT / "run_experiment.py"
    return [sys.executable, *([str(script)] if script.is_file() else ["-m", "engram"])]


def arguments(shared: Shared, task: Task) -> tuple[list[str], list[str]]:
    """The call that runs a task.

    Args:
        shared: what the points are made of.
        task: what is to be done.

    Returns:
        Two parts: the number of the attempt, and --earlier RUN where there is one, belong between
        them.
    """
    options = shared.options
    head = [*invocation(), "__point", str(shared.paths.folder), str(task.number)]
    tail = ["--timeout", options.timeout] if options.timeout else []
    tail += ["--allow-changed-inputs"] if options.allow_changed_inputs else []
    tail += ["--original", task.original] if task.original else []
    tail += ["--alone"] if task.alone else []
    return head, tail


def runs_made(folder: Path) -> dict[int, dict[int, Path]]:
    """The files that attempts left, each with the id of its run.

    Args:
        folder: the grid's `attempts`.

    Returns:
        Them by the number of the point, then by that of the attempt.
    """
    found: dict[int, dict[int, Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        point, _, attempt = path.name.partition("-")
        if point.isdigit() and attempt.isdigit():
            found.setdefault(int(point), {})[int(attempt)] = path
    return found


def prune(folder: Path, task: Task, why: str) -> None:
    """Have an attempt end early, as completed; its own process looks for this order.

    Args:
        folder: the grid's `attempts`.
        task: the attempt.
        why: the cause in the record.
    """
    folder.mkdir(exist_ok=True)
    write_atomic(_order(folder, task), why.encode())


@contextlib.contextmanager
def heeding(run: Run, folder: Path, task: Task) -> Iterator[None]:
    """Heed the order to end a run early, while it runs here; from the main thread only."""
    order = _order(folder, task)

    def look(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            run.prune(order.read_text(encoding="utf-8"))

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _order(folder: Path, task: Task) -> Path:
    return folder / f"{task.number}-{task.attempt}.prune"


def final(paths: RunPaths, *, given_up: bool) -> dict[str, Any] | None:
    """The record of a run whose job is over.

    Args:
        paths: its folder.
        given_up: whether its last words have had all the time that they get.

    Returns:
        None when its last words have not come through yet.
    """
    record = reconcile(paths)
    if record["state"] in ENDED:
        return record
    if not given_up:
        return None
    cause = "its job is over, but its record never said so"
    nothing = {"code": None, "signal": None, "cause": cause, "exception": None}
    return {**record, "state": "killed", "exit": nothing}


def ended(task: Task, paths: RunPaths, *, given_up: bool) -> Ended | None:
    """What an attempt came to whose job is over; arguments and None as for `final`."""
    record = final(paths, given_up=given_up)
    if record is None:
        return None
    left = record["state"] != "completed" and left_checkpoint(paths)
    return Ended(task, paths.run_id, device_of(paths), essence(record), left)


def outcome(record: dict[str, Any]) -> Outcome:
    """The end of a run as its own runner knew it, as far as the record tells."""
    exit_, cause = record["exit"], record["exit"]["cause"] or ""
    by_keyboard = cause.endswith("SIGINT") or cause.startswith("KeyboardInterrupt")
    received = signal.SIGINT if by_keyboard else signal.SIGTERM
    return Outcome(
        state=record["state"],
        exit=exit_,
        signal_received=received if record["state"] == "interrupted" else None,
        summary=record["summary"],
        usage=record["usage"] or {},
        strays=[],
    )


def last_line(path: Path) -> str:
    """The last line of a job's log that is not Slurm's own; without one "no word"."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[-TAIL:].split("\n")
    except OSError:
        return "no word"
    said = (line.strip() for line in reversed(lines) if not line.startswith(SLURMS))
    return next((line for line in said if line), "no word")


def device_of(paths: RunPaths) -> str:
    """Where a run runs: the node, and its devices."""
    try:
        record = load(paths)
    except errors.RunnerError:
        return ""
    devices = record.get("devices") or {}
    return " ".join((record.get("host") or "", *devices.get("labels", ()))).strip()


def left_checkpoint(paths: RunPaths) -> bool:
    """Whether a run can be continued."""
    from engram.resume import newest_checkpoint

    try:
        newest_checkpoint(paths)
    except errors.RunnerError:
        return False
    return True
