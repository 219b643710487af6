"""Points as Slurm jobs, submitted through submitit: arrays with a throttle, and jobs that requeue.

The jobs live without us: whoever watches may go and come back, and the runners on the nodes write
all records. What was submitted stands in `jobs.jsonl` beside submitit's own files.
"""

from __future__ import annotations

import json
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engram import slurm_jobs
from engram.grid import elsewhere, slurm_node
from engram.grid.backoff import Backoff
from engram.grid.engine import Ended, Left, Note, Started, Task, without_run
from engram.grid.slurm_submit import Slurm, array_size
from engram.program import program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engram.grid.engine import Event
    from engram.grid.prepare import Shared
    from engram.paths import GridPaths
    from engram.settings import EngineConfig

__all__ = ["SlurmEngine", "Submitted"]

LOOK_S = (0.2, 3.0)  # at the files that jobs leave: at first, and when nothing happens for long
ASK_S = (1.0, 30.0)  # Slurm
AHEAD = 10  # points that a search has in Slurm at a time, where no throttle says
LAG_S = 15.0  # until what a job wrote on its node is seen here
SILENT_S = 60.0  # until a record that does not end is given up


class Submitted(NamedTuple):
    """A task, and the job that it became."""

    job: str  # 12, or 12_3
    task: Task


class SlurmEngine:
    """Runs the points of a grid as jobs of Slurm."""

    STOPS = "what was submitted goes on"

    def __init__(
        self,
        paths: GridPaths,
        config: EngineConfig,
        *,
        name: str,
        command: Callable[[Task], tuple[Sequence[str], Sequence[str]]],
        ahead: int | None = None,
    ) -> None:
        """Make an engine without jobs.

        Args:
            paths: of the grid.
            config: the table [engine].
            name: of the jobs, for people.
            command: the call that runs a task, in two parts: the number of the attempt, and
                --earlier RUN where there is one, are put between them.
            ahead: how many points may be submitted before the first is over; None for all.
        """
        self.paths = paths
        self.slurm = Slurm(config, paths.slurm, name=name)
        self.throttle = config.throttle
        self.command = command
        self.ahead = ahead
        self.most = array_size()
        self.withdrawn = False
        self.batch: list[Task] = []
        self.news: list[Event] = []
        self.jobs: dict[str, Submitted] = {}
        self.left: dict[int, Submitted] = {}  # by an earlier watcher, and not asked for yet
        self.begun: dict[str, int] = {}  # by job: the attempt that was announced
        self.gone: dict[str, tuple[float, slurm_jobs.Job]] = {}  # over in Slurm, since when
        self.silent: dict[str, float] = {}  # over, but their records do not say so; since when
        self.looked = Backoff(*LOOK_S)
        self.asked = Backoff(*ASK_S)

    @classmethod
    def for_grid(
        cls,
        shared: Shared,
        config: EngineConfig,
        tasks: Sequence[Task],
    ) -> SlurmEngine:
        """Make the engine of a grid, which takes up the jobs that an earlier watcher left.

        Args:
            shared: what the points are made of.
            config: the table [engine].
            tasks: what is to be done.
        """
        engine = cls(
            shared.paths,
            config,
            name=shared.run.config.name,
            command=lambda task: elsewhere.arguments(shared, task),
            ahead=(config.throttle or AHEAD) if shared.grows else None,
        )
        engine.attach({task.number for task in tasks})
        return engine

    def free(self) -> int:
        """How many more tasks it takes now."""
        room = self.most - len(self.batch)
        if self.ahead is not None:
            room = min(room, self.ahead - len(self.batch) - len(self.jobs))
        return max(0, room)

    def start(self, task: Task) -> None:
        """Take a task; it is submitted together with others by the next `wait`.

        A point that a job works on already is watched, and gets no other.
        """
        job = self.left.pop(task.number, None)
        if job is None:
            self.batch.append(task)
        else:
            self.jobs[job.job] = job

    def attach(self, wanted: set[int]) -> None:
        """Take up the jobs that an earlier watcher left, or was killed beside.

        Args:
            wanted: numbers of the points that are to be done.
        """
        said: dict[str, Submitted] = {}
        kept = self.paths.slurm_jobs
        for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else ():
            entry = json.loads(line)
            if entry.get("over"):
                said.pop(entry["job"], None)
            else:
                said[entry["job"]] = Submitted(entry["job"], Task(*entry["task"]))
        over = self.slurm.over() & set(said)
        over |= {name for name, job in slurm_jobs.ask(set(said) - over).items() if job.over}
        for name in over:
            self._keep({"job": name, "over": True})
        going = [job for name, job in said.items() if name not in over]
        self.left = {job.task.number: job for job in going if job.task.number in wanted}

    def wait(self, timeout_s: float, wake: Sequence[int]) -> list[Event]:
        """Return what happened, as soon as something did.

        Args:
            timeout_s: when to return without news, in seconds.
            wake: descriptors that end the wait when they can be read.
        """
        end = time.monotonic() + timeout_s
        while True:
            self._submit()
            self._look()
            news, self.news = self.news, []
            left = end - time.monotonic()
            if news or left <= 0:
                return news
            if select.select(wake, [], [], min(left, LOOK_S[0]))[0]:
                return []

    def prune(self, task: Task, why: str) -> None:
        """Leave the order where the runner on the node looks for it; see Engine."""
        for name, item in self.jobs.items():
            if item.task.number == task.number:
                attempt = max(task.attempt, self.begun.get(name, 0))
                elsewhere.prune(self.paths.attempts, task._replace(attempt=attempt), why)

    def stop(self, *, now: bool) -> None:
        """Leave the jobs alone: who stops watching does not stop them."""
        if self.jobs:
            again = f"{program()} --grid --resume {self.paths.grid_id}"
            end = f"scancel {' '.join(self.masters())}"
            self.news.append(Note(f"the Slurm jobs go on. Watch them: {again}; end them: {end}"))
        self.news += [Left(task) for task in self.batch]
        self.news += [Left(item.task) for item in self.jobs.values()]
        self.batch = []
        self.jobs = {}

    def withdraw(self) -> None:
        """Take back what has not begun."""
        self.withdrawn = True
        self.news += [Left(task) for task in self.batch]
        self.batch = []
        if self.jobs:
            subprocess.run(["scancel", "--state=PENDING", *self.masters()], check=False)

    def close(self) -> None:
        """Nothing is held."""

    def masters(self) -> list[str]:
        """What scancel takes to end all that was submitted and is not over."""
        return sorted({name.partition("_")[0] for name in self.jobs}, key=int)

    def _submit(self) -> None:
        """Submit what was collected, when the throttle lets another array be."""
        free = None if self.throttle is None else self.throttle - len(self.jobs)
        if not self.batch or (free is not None and free <= 0):
            return
        tasks, self.batch = self.batch, []
        names = self.slurm.submit([self._job(task) for task in tasks], parallel=free)
        for name, task in zip(names, tasks, strict=True):
            self.jobs[name] = Submitted(name, task)
            self._keep({"job": name, "task": list(task)})
        number = names[0].partition("_")[0]
        many = f", {len(names)} tasks" if len(names) > 1 else ""
        limit = f", {free} at a time" if free is not None and len(names) > 1 else ""
        self.news.append(Note(f"submitted Slurm job {number}{many}{limit}"))
        self.looked.hurry()
        self.asked.hurry()

    def _job(self, task: Task) -> slurm_node.Job:
        head, tail = self.command(task)
        return slurm_node.Job(
            command=tuple(head),
            point=task.number,
            first=task.attempt,
            earlier=task.earlier,
            tail=tuple(tail),
            attempts=str(self.paths.attempts),
            runs=str(self.paths.folder),
            folder=str(self.slurm.folder),
            early_s=self.slurm.early_s,
        )

    def _keep(self, entry: dict[str, Any]) -> None:
        with self.paths.slurm_jobs.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _look(self) -> None:
        """See which jobs began and which are over: by their files often, by asking now and then."""
        if not self.jobs or not self.looked.due():
            return
        over = self.slurm.over() & set(self.jobs)
        if self.asked.due():
            over |= self._ask_slurm(over)
        made = elsewhere.runs_made(self.paths.attempts)  # after that: a run may have just begun
        for name, item in self.jobs.items():
            self._began(name, item, made.get(item.task.number, {}))
        for name in over:
            self._end(name, made.get(self.jobs[name].task.number, {}))
        if self.news:
            self.looked.hurry()
            self.asked.hurry()

    def _began(self, name: str, item: Submitted, made: dict[int, Path]) -> None:
        """Tell of a run, and of the next one after the job was requeued."""
        number = max(made, default=0)
        if number < item.task.attempt or self.begun.get(name) == number:
            return
        self.begun[name] = number
        run_id = made[number].read_text(encoding="utf-8").strip()
        device = elsewhere.device_of(self.paths.run(run_id))
        self.news.append(Started(item.task._replace(attempt=number), run_id, device))

    def _ask_slurm(self, known: set[str]) -> set[str]:
        """The jobs that Slurm says are over, once what they left has had time to be seen."""
        now = time.monotonic()
        for name, job in slurm_jobs.ask(set(self.jobs) - known).items():
            if job.over:
                self.gone.setdefault(name, (now, job))
            else:
                self.gone.pop(name, None)
        return {name for name, (since, _) in self.gone.items() if now - since >= self._lag(name)}

    def _lag(self, name: str) -> float:
        """A job that never began left nothing to be seen."""
        return LAG_S if name in self.begun else ASK_S[0]

    def _end(self, name: str, made: dict[int, Path]) -> None:
        """Tell how a job's last attempt ended, as its record says, where it has one."""
        task = self.jobs[name].task
        number = max(made, default=0)
        job = self.gone.get(name, (0.0, None))[1]
        event: Event | None
        if number >= task.attempt:
            run_id = made[number].read_text(encoding="utf-8").strip()
            since = self.silent.setdefault(name, time.monotonic())
            given_up = time.monotonic() - since > SILENT_S
            paths = self.paths.run(run_id)
            event = elsewhere.ended(task._replace(attempt=number), paths, given_up=given_up)
        elif self.withdrawn and job is not None and job.state == "CANCELLED":
            event = Left(task)
        else:
            event = Ended(task, None, "", without_run(*self._without_run(name, job)))
        if event is None:
            return
        del self.jobs[name]
        self.gone.pop(name, None)
        self._keep({"job": name, "over": True})
        self.news.append(event)

    def _without_run(self, name: str, job: slurm_jobs.Job | None) -> tuple[str, str]:
        """Why a job ended that never made a run."""
        verdict = slurm_jobs.named(job.state, job) if job is not None else None
        if verdict is not None:
            return verdict.state, f"{verdict.cause}, before the run began"
        said = elsewhere.last_line(self.paths.slurm / f"{name}_0_log.err")
        return "failed", f"the Slurm job {name} ended before the run began: {said}"
