"""What a Slurm job does on its node: it is the parent of one runner, and requeues when preempted.

srun's step --exec--> submitit --calls--> `on_node` --fork, exec--> runner --> guardian --> child

Slurm signals every process of a step at once, so the runner and the script hear a SIGTERM by
themselves. The signal that comes ahead of a time limit, SIGUSR2, is for this process alone: the
runner and all that it starts ignore it, and are sent a SIGTERM instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from engram import errors, slurm_jobs
from engram import record as records
from engram.files import write_json
from engram.paths import RunPaths

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Job", "attempts_of", "on_node"]

EARLY = signal.SIGUSR2
REQUEUED = 75  # EX_TEMPFAIL: the exit code of a job that goes on later
ANSWERS = 5  # how often the controller is asked again when it does not answer


class Job(NamedTuple):
    """What a job is to run; plain values, for it is pickled."""

    command: tuple[str, ...]  # the attempt's number, and --earlier RUN, are put behind it
    point: int  # its index
    first: int  # number of the first attempt that this job makes
    earlier: str | None  # run to go on from
    tail: tuple[str, ...]  # more arguments, at the end
    attempts: str  # folder where the runner leaves the ids of its runs
    runs: str  # folder that holds the runs
    folder: str  # submitit's
    early_s: float  # how long before a time limit Slurm sends EARLY


def on_node(lib: str, *job: object) -> None:
    """Run a job; pickled by value, since the node's Python does not know engram yet.

    Args:
        lib: the folder that holds engram.
        job: the values of a Job.
    """
    import sys

    sys.path.insert(0, lib)
    from engram.grid.slurm_node import Job, Parent

    Parent(Job(*job)).run()  # type: ignore[arg-type]


def attempts_of(folder: Path, index: int) -> dict[int, str]:
    """The runs that were made of a point by jobs, by the number of the attempt."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            of, _, number = path.name.partition("-")
            if of == str(index) and number.isdigit():
                found[int(number)] = path.read_text(encoding="utf-8").strip()
    return dict(sorted(found.items()))


class Parent:
    """The parent of one runner."""

    def __init__(self, job: Job) -> None:
        """Remember what is to be run."""
        self.job = job
        array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
        self.name = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
        self.asked = Path(job.folder) / f"{self.name}_asked"
        self.runner: subprocess.Popen[bytes] | None = None
        self.heard: list[int] = []

    def run(self) -> None:
        """Run the next attempt to its end, or to the next time that the job is started.

        Raises:
            SystemExit: the run did not complete, or the job goes on later; Slurm gets the code.
        """
        os.environ["ENGRAM_SLURM_EARLY_S"] = str(self.job.early_s)
        os.environ["ENGRAM_SLURM_ASKED"] = str(self.asked)
        self.asked.unlink(missing_ok=True)
        if (code := self._done_before()) is None:
            code = self._attempt()
        if self.heard and code in (errors.INTERRUPTED, errors.TERMINATED):
            self._go_on_later()
        self._say_end(code)
        if code != errors.COMPLETED:
            sys.exit(code if code > 0 else errors.INCOMPLETE)

    def _attempt(self) -> int:
        """Start a runner and wait for its end."""
        for number in (EARLY, signal.SIGTERM):
            signal.signal(number, self._hear)
        command = self._command()
        print("$", *command, file=sys.stderr, flush=True)
        self.runner = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=deaf)
        if EARLY in self.heard:
            self._ask()
        return self.runner.wait()

    def _command(self) -> list[str]:
        job, made = self.job, self._made()
        number = max(made, default=job.first - 1) + 1
        tried = [made[number] for number in sorted(made, reverse=True)]
        earlier = next((run for run in tried if self._left_checkpoint(run)), job.earlier)
        return [*job.command, str(number), *(["--earlier", earlier] if earlier else []), *job.tail]

    def _left_checkpoint(self, run_id: str) -> bool:
        """Whether an attempt can be continued."""
        from engram.resume import newest_checkpoint

        try:
            newest_checkpoint(RunPaths(Path(self.job.runs) / run_id))
        except errors.RunnerError:
            return False
        return True

    def _made(self) -> dict[int, str]:
        """The attempts that this job has made before it was requeued."""
        made = attempts_of(Path(self.job.attempts), self.job.point)
        return {number: run for number, run in made.items() if number >= self.job.first}

    def _done_before(self) -> int | None:
        """The exit code of an attempt that completed, when only its job did not get to say so."""
        made = self._made()
        if not made:
            return None
        with contextlib.suppress(errors.RunnerError):
            record = records.load(RunPaths(Path(self.job.runs) / made[max(made)]))
            if record["state"] == "completed":
                return errors.COMPLETED
        return None

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard.append(number)
        if number == EARLY and self.heard.count(EARLY) == 1:
            self.asked.touch()  # the runner heard nothing, and its record shall say why
            self._ask()

    def _ask(self) -> None:
        """Have the runner end its run; one that was asked before takes no notice."""
        if self.runner is not None and self.runner.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.runner.send_signal(signal.SIGTERM)

    def _go_on_later(self) -> None:
        """Requeue a job that has to make room; return from one that is over."""
        for _ in range(ANSWERS):
            job = slurm_jobs.own()
            if job is not None:
                break
            time.sleep(1.0)
        else:
            return
        verdict = slurm_jobs.why(job)
        if verdict is not None and verdict.slurm == "REQUEUED":
            leave("Slurm starts this job again")
        if verdict is not None and verdict.slurm == "PREEMPTED":
            done = subprocess.run(
                ["scontrol", "requeue", job.number], capture_output=True, text=True
            )
            if done.returncode == 0:
                leave("requeued: the next attempt goes on from the newest checkpoint")
            print(f"cannot requeue: {done.stderr.strip()}", file=sys.stderr, flush=True)

    def _say_end(self, code: int) -> None:
        """Leave word for who watches."""
        write_json(Path(self.job.folder) / f"{self.name}_end.json", {"code": code})


def deaf() -> None:
    """Ignore EARLY, in a new process; what it starts does so too."""
    signal.signal(EARLY, signal.SIG_IGN)


def leave(why: str) -> NoReturn:
    """End this start of the job without a result, so that nobody takes it for the last."""
    print(why, file=sys.stderr, flush=True)
    sys.exit(REQUEUED)
