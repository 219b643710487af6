"""One run as a Ray task, followed as if it ran here; it ends with whoever follows it."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from engram import errors, record
from engram.execute import walk
from engram.grid import elsewhere, ray_settings
from engram.grid.follow import Follower
from engram.grid.interrupts import Interrupts
from engram.grid.prepare import keep_source, nothing
from engram.grid.ray_engine import given_up, why_no_run
from engram.grid.ray_link import Link
from engram.grid.ready import asked_threads
from engram.grid.slurm_single import keep
from engram.launch import say
from engram.paths import RunPaths, SubmissionPaths
from engram.request import Run
from engram.workflow import check_inputs, look_at_code, read_request, take_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from engram.request import Request

__all__ = ["execute"]

LOOK_S = 0.2


def execute(request: Request, announce: Callable[[Run], None]) -> Run:
    """Hand a run to Ray and follow it to its end.

    Args:
        request: what to run.
        announce: called when the run has its folder and its record.

    Returns:
        The run, ended.

    Raises:
        RunnerError: the run is refused, or Ray never began it.
        KeyboardInterrupt: it was interrupted before it began.
    """
    run = Run(request)
    walk(run, (read_request, look_at_code, check_inputs, take_code, keep_source), nothing)
    if request.live or request.pdb:
        msg = "--live and --pdb need the working tree and this terminal: not with kind = 'ray'"
        raise errors.ConfigError(msg)
    engine = run.config.engine
    ray_settings.check(engine)
    share = asked_threads(run) or ray_settings.threads(engine)
    environment = run.config.environment._replace(threads=share)
    run.config = run.config._replace(environment=environment)
    submission = SubmissionPaths(run.root.submissions / record.new_run_id(run.config.name))
    submission.folder.mkdir(parents=True)
    try:
        keep(run, submission)
        with Interrupts() as interrupts:
            interrupts.hold()
            link = Link(engine, submission.folder, submission.ray_log)
            try:
                return Watch(run, submission, link, interrupts, announce).to_the_end()
            finally:
                link.close()
    finally:
        shutil.rmtree(submission.folder, ignore_errors=True)


class Watch:
    """Shows a run on a node as if it ran here, and passes signals on."""

    def __init__(
        self,
        run: Run,
        submission: SubmissionPaths,
        link: Link,
        interrupts: Interrupts,
        announce: Callable[[Run], None],
    ) -> None:
        """Begin with what is known before the run begins.

        Args:
            run: has configuration and code; gets its paths and its record.
            submission: what it is made of.
            link: to Ray.
            interrupts: the signals that come.
            announce: called when the run begins.
        """
        self.run = run
        self.submission = submission
        self.link = link
        self.interrupts = interrupts
        self.announce = announce
        self.attempt = submission.attempts / "0-1"
        self.heard = 0
        self.follower: Follower | None = None
        self.over: tuple[float, dict[str, Any]] | None = None

    def to_the_end(self) -> Run:
        """Follow the run.

        Raises:
            DeviceError: Ray cannot be used, or gave the task up before it began a run.
            KeyboardInterrupt: it was interrupted before it began.
        """
        folder = str(self.submission.folder)
        command = [*elsewhere.invocation(), "__submitted", folder, "1"]
        self.link.tell(run=[(command, str(self.attempt))])
        while not self._ended():
            for message in self.link.hear(LOOK_S, *self.interrupts.wake):
                self._take(message)
            self._obey()
            self._show()
        if self.follower is not None:
            self.follower.show(last=True)
        self.run.comparison = self.run.record["comparison"]
        outcome = elsewhere.outcome(self.run.record)
        if self.heard and outcome.state == "interrupted":
            outcome = outcome._replace(signal_received=self.interrupts.pressed[0])
        self.run.outcome = outcome
        return self.run

    def _take(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            msg = f"cannot use Ray: {message['failed']}"
            raise errors.DeviceError(msg)
        if message.get("ready") == 0:
            say(f"no node has {ray_settings.needs(self.run.config.engine)}: the run waits for one")
        if "over" in message:
            self.over = time.monotonic(), message
            if "lost" in message:
                say(f"Ray lost the worker: {message['lost']}")

    def _obey(self) -> None:
        """Pass a first signal on, and another Ctrl-C: then the run is killed at once."""
        self.interrupts.clear()
        while self.heard < len(self.interrupts.pressed):
            number = self.interrupts.pressed[self.heard]
            self.heard += 1
            if self.heard == 1 or number == signal.SIGINT:
                self.link.tell(cancel=[str(self.attempt)])

    def _show(self) -> None:
        """Show what is new."""
        if self.follower is None and self.attempt.exists():
            run_id = self.attempt.read_text(encoding="utf-8").strip()
            folder = self.run.root.folder / self.run.config.name / run_id
            self.run.paths = RunPaths(folder)
            self.follower = Follower(self.run.paths)
            self.announce(self.run)
        if self.follower is not None:
            self.follower.show()

    def _ended(self) -> bool:
        """Whether the record is final."""
        if self.link.ended and self.over is None:
            self.over = time.monotonic(), {"lost": self.link.last_words()}
        if self.over is None:
            return False
        since, message = self.over
        if self.follower is None and self.attempt.exists():
            return False
        if self.follower is None:
            self._raise_unbegun(message)
        paths = self.run.paths
        final = elsewhere.final(paths, given_up=given_up(paths, since))
        if final is not None:
            self.run.record = final
        return final is not None

    def _raise_unbegun(self, message: dict[str, Any]) -> None:
        if self.heard:
            number = self.interrupts.pressed[0]
            raise KeyboardInterrupt if number == signal.SIGINT else errors.Terminated(number)
        raise errors.DeviceError(why_no_run(message))
