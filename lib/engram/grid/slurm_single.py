"""One run as a Slurm job: submitted with all that it is made of, and followed as if it ran here.

The commit is taken when the run is submitted, the run begins when Slurm has room. What lies between
is in ROOT/.engram/slurm/ID, which goes when the run has been followed to its end.
"""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engram import errors, files, record, slurm_jobs
from engram.execute import walk
from engram.grid import elsewhere, slurm_node
from engram.grid.backoff import Backoff
from engram.grid.follow import Follower
from engram.grid.point import devices_here
from engram.grid.prepare import keep_source, nothing
from engram.grid.slurm_submit import Slurm, check
from engram.launch import exit_code, print_end, print_start, say
from engram.paths import RootPaths, RunPaths, SubmissionPaths
from engram.program import program
from engram.recorded import RecordedCode
from engram.request import Run
from engram.roots import known
from engram.workflow import STEPS, check_inputs, look_at_code, read_request, take_code

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from engram.request import Request

__all__ = ["attach", "execute", "run_submitted"]

LOOK_S = (0.1, 2.0)  # at what the run writes
ASK_S = (1.0, 30.0)  # Slurm
LAG_S = 15.0  # until what a job wrote on its node is seen here
SILENT_S = 60.0  # until a record that does not end is given up


def execute(request: Request, announce: Callable[[Run], None]) -> Run:
    """Submit a run and follow it to its end.

    Args:
        request: what to run.
        announce: called when the run has its folder and its record, and for each further one that
            continues it after the job was requeued.

    Returns:
        The last run, ended.

    Raises:
        RunnerError: the run is refused, or its job never began it.
        KeyboardInterrupt: nobody watches any longer; the job goes on.
    """
    run = Run(request)
    walk(run, (read_request, look_at_code, check_inputs, take_code, keep_source), nothing)
    if request.live or request.pdb:
        msg = "--live and --pdb need the working tree and this terminal: not with kind = 'slurm'"
        raise errors.ConfigError(msg)
    check(run.config.engine)
    place = run.root.submissions / record.new_run_id(run.config.name)
    submission = SubmissionPaths(place)
    place.mkdir(parents=True)
    try:
        keep(run, submission)
        job = submit(run, submission)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    say(f"submitted Slurm job {job}")
    return Watch(submission, run, job, announce).to_the_end()


def keep(run: Run, submission: SubmissionPaths) -> None:
    """Write down what the job needs; what people edit afterwards changes nothing."""
    request = run.request
    if run.snapshot is not None and request.recorded_code is None:
        files.link_or_copy(run.root.source(run.snapshot.commit), submission.source)
        if run.patch is not None:
            files.write_atomic(submission.patch, run.patch)
        code = RecordedCode(run.code, run.script_blob, submission)
        request = request._replace(recorded_code=code)
    what = (request._replace(run_root=run.root.folder), run.config, run.parameters)
    files.write_atomic(submission.what, pickle.dumps(what))


def submit(run: Run, submission: SubmissionPaths) -> str:
    """Make it a job, and remember which."""
    config = run.config
    slurm = Slurm(config.engine, submission.slurm, name=config.name)
    runs = run.root.folder / config.name
    job = slurm_node.Job(
        command=(*elsewhere.invocation(), "__submitted", str(submission.folder)),
        point=0,
        first=1,
        earlier=None,
        tail=(),
        attempts=str(submission.attempts),
        runs=str(runs),
        folder=str(slurm.folder),
        early_s=slurm.early_s,
    )
    [name] = slurm.submit([job], parallel=None)
    files.write_json(submission.job, {"job": name, "runs": str(runs)})
    return name


def run_submitted(options: argparse.Namespace) -> int:
    """Run what was submitted, here and now, on the node.

    Args:
        options: `folder` of the submission, `attempt`, and `earlier`, the run to go on from.

    Returns:
        The exit code of the run.
    """
    submission = SubmissionPaths(Path(options.folder))
    request, config, parameters = pickle.loads(submission.what.read_bytes())
    if options.earlier is not None:
        from engram.resume import newest_checkpoint

        runs = RootPaths(request.run_root).folder / config.name
        checkpoint, edge, holder, position = newest_checkpoint(RunPaths(runs / options.earlier))
        request = request._replace(
            resumed_from={"run": holder.run_id, **edge, "overrides": []},
            resume_from=checkpoint,
            metrics_from=(holder, position),
        )
    run = Run(request._replace(devices=devices_here(), show=False))
    run.config, run.parameters = config, parameters

    def tell(run: Run) -> None:
        submission.attempts.mkdir(exist_ok=True)
        place = submission.attempts / f"0-{options.attempt}"
        files.write_atomic(place, run.paths.run_id.encode())

    walk(run, [step for step in STEPS if step is not read_request], tell)
    return exit_code(run)


class Watch:
    """Shows a submitted run as if it ran here."""

    def __init__(
        self, submission: SubmissionPaths, run: Run, job: str, announce: Callable[[Run], None]
    ) -> None:
        """Begin with what is known before the run begins.

        Args:
            submission: what was submitted.
            run: has configuration and code; gets its paths and its record.
            job: as Slurm calls it.
            announce: called for each run that begins.
        """
        self.submission = submission
        self.run = run
        self.job = job
        self.announce = announce
        self.runs = Path(json.loads(submission.job.read_text(encoding="utf-8"))["runs"])
        self.attempt = 0
        self.follower: Follower | None = None
        self.looked, self.asked = Backoff(*LOOK_S), Backoff(*ASK_S)
        self.said: str | None = None  # why it waits
        self.over: slurm_jobs.Job | None = None
        self.since: float | None = None  # over

    def to_the_end(self) -> Run:
        """Follow the run, and the next ones while its job is requeued.

        Raises:
            DeviceError: the job ended before it began a run.
            KeyboardInterrupt: somebody stops watching.
        """
        try:
            while not self._ended():
                time.sleep(self.looked.every_s)
        except KeyboardInterrupt:
            again, end = f"{program()} --attach {self.job}", f"scancel {self.job}"
            say(f"\nSlurm job {self.job} goes on. Watch it: {again}; end it: {end}")
            raise
        self._read()
        shutil.rmtree(self.submission.folder, ignore_errors=True)
        return self.run

    def _ended(self) -> bool:
        """Show what is new, and tell whether that was all."""
        news = self._begin() or (self.follower is not None and self.follower.show())
        if news:
            self.looked.hurry()
        self.looked.due()
        if self.since is None:
            self._ask()
            return False
        late_s = time.monotonic() - self.since
        if self.attempt == 0:
            if self.over is None or late_s > ASK_S[0]:
                raise errors.DeviceError(self._why_no_run())
            return False
        final = elsewhere.final(self.run.paths, given_up=late_s > SILENT_S)
        if final is None:
            return False
        self.run.record = final
        return True

    def _begin(self) -> bool:
        """Turn to the newest run."""
        made = elsewhere.runs_made(self.submission.attempts).get(0, {})
        newest = max(made, default=0)
        if newest == self.attempt:
            return False
        if self.follower is not None:
            self.follower.show()
            say(f"{self.run.paths.run_id} was interrupted: its job was requeued and goes on")
        self.attempt = newest
        self.run.paths = RunPaths(self.runs / made[newest].read_text(encoding="utf-8").strip())
        self.follower = Follower(self.run.paths)
        self.announce(self.run)
        return True

    def _ask(self) -> None:
        """See whether the job is over: by what it left, or by asking now and then."""
        if (self.submission.slurm / f"{self.job}_end.json").exists():
            self.since = time.monotonic()
            return
        if not self.asked.due():
            return
        job = slurm_jobs.ask([self.job]).get(self.job)
        if job is not None and job.over:
            self.over, self.since = job, time.monotonic()
        elif job is not None and job.state == "PENDING" and job.reason not in ("None", self.said):
            self.said = job.reason
            say(f"waits in Slurm: {job.reason}")

    def _read(self) -> None:
        """Show the last of the logs, and what the record says of the end."""
        if self.follower is not None:
            self.follower.show(last=True)
        self.run.comparison = self.run.record["comparison"]
        self.run.outcome = elsewhere.outcome(self.run.record)

    def _why_no_run(self) -> str:
        verdict = self.over and slurm_jobs.named(self.over.state, self.over)
        if verdict:
            return f"{verdict.cause}, before the run began"
        slurm = self.submission.slurm
        said = elsewhere.last_line(slurm / f"{self.job}_0_log.err")
        return f"Slurm job {self.job} ended before the run began: {said}, see {str(slurm)!r}"


def attach(job: str) -> int:
    """Watch a submitted run again.

    Args:
        job: as Slurm calls it.

    Returns:
        The exit code of the run.

    Raises:
        RunNotFoundError: no run that was submitted from here, and not yet followed to its end, has
            this job.
    """
    for root in known(Path.cwd()):
        for path in sorted(RootPaths(root).submissions.glob("*/job.json")):
            if json.loads(path.read_text(encoding="utf-8"))["job"] == job:
                run = Watch(
                    *open_again(SubmissionPaths(path.parent)), job, print_start
                ).to_the_end()
                print_end(run)
                return exit_code(run)
    msg = f"no run waits or runs as Slurm job {job!r}: see `squeue --me`, or {program()} list"
    raise errors.RunNotFoundError(msg)


def open_again(submission: SubmissionPaths) -> tuple[SubmissionPaths, Run]:
    """A submission, and what is known of its run."""
    request, config, parameters = pickle.loads(submission.what.read_bytes())
    run = Run(request)
    run.config, run.parameters = config, parameters
    run.code = dict(request.recorded_code.code)
    return submission, run
