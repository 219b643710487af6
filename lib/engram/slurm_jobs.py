"""What Slurm says of its jobs: whether one still lives, and why one was ended.

`squeue` knows a job from its submission until some minutes after its end, at once; `sacct` knows it
ever after, some seconds late. A job that was requeued keeps its number, so a run is told from the
next one by how often its job had been restarted.
"""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Job", "Verdict", "ask", "call", "forget", "named", "obituary", "own", "standing", "why"]

PATIENCE_S = 5.0  # a controller that is down makes squeue try for a minute
FRESH_S = 2.0  # one answer serves all the runs that one command looks at
EARLY_S = 60.0  # Slurm may send the signal before a time limit this much earlier than asked
FIELDS = "JobID:|,JobArrayID:|,State:|,RestartCnt:|,Reason:|,EndTime:|,PreemptTime:|"
GOING = frozenset(
    ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING")
    + ("RESIZING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
    + ("RESV_DEL_HOLD", "POWER_UP_NODE")
)
"""States of a job that is not over."""
CAUSES = {
    "CANCELLED": ("interrupted", "cancelled in Slurm"),
    "TIMEOUT": ("timed_out", "Slurm time limit"),
    "DEADLINE": ("timed_out", "deadline in Slurm"),
    "PREEMPTED": ("interrupted", "preempted in Slurm"),
    "REQUEUED": ("interrupted", "requeued in Slurm"),
    "NODE_FAIL": ("killed", "its node failed, says Slurm"),
    "BOOT_FAIL": ("killed", "its node did not start, says Slurm"),
    "OUT_OF_MEMORY": ("killed", "out of memory, says Slurm"),
}


class Job(NamedTuple):
    """A job, or one task of an array of jobs."""

    number: str  # SLURM_JOB_ID: every task of an array has one of its own
    name: str  # what people call it: 12, or 12_3
    state: str
    restarts: int | None = None
    reason: str = ""
    ends: float | None = None  # epoch seconds
    preempted: bool = False

    @property
    def over(self) -> bool:
        """Whether it will never run again."""
        return self.state not in GOING


class Verdict(NamedTuple):
    """How Slurm ended a run."""

    state: str  # of the run
    cause: str
    slurm: str  # state of the job, as Slurm names it


def standing(identity: dict[str, Any]) -> Literal["alive", "dead", "elsewhere"]:
    """Judge by its job whether the runner of a run is alive.

    Args:
        identity: what `engram.lease.process_identity` said in the runner.

    Returns:
        "elsewhere" when this machine belongs to another cluster, or Slurm does not know.
    """
    job = find(identity)
    if job is None:
        return "elsewhere"
    if job.over or (again(job, identity) and job.state != "COMPLETING"):
        return "dead"
    return "alive"


def obituary(identity: dict[str, Any]) -> Verdict | None:
    """Say how a dead runner ended, as far as Slurm knows."""
    job = find(identity)
    if job is None:
        return None
    if again(job, identity):
        return named("REQUEUED", job)
    return named(job.state, job)


def own() -> Job | None:
    """The job that this process belongs to; None outside of jobs, and without an answer."""
    number = os.environ.get("SLURM_JOB_ID")
    return (queued(number) or {}).get(number) if number else None


def why(job: Job | None) -> Verdict | None:
    """Say, in a process of a job that was asked to end, what Slurm is doing with the job.

    Args:
        job: our own, as it is now.

    Returns:
        None when Slurm has nothing to do with it, or did not answer.
    """
    if job is None:
        return None
    if again(job, {"slurm_restart": os.environ.get("SLURM_RESTART_COUNT")}):
        return named("REQUEUED", job)
    if job.state == "RUNNING":
        return _why_told(job)
    if job.state == "COMPLETING":
        return named("TIMEOUT" if job.reason == "TimeLimit" else "CANCELLED", job)
    return named(job.state, job)


def _why_told(job: Job) -> Verdict | None:
    """Why a job was sent a signal that does not end it: it has some time to save its work."""
    if job.preempted:
        return named("PREEMPTED", job)
    asked = os.environ.get("ENGRAM_SLURM_ASKED")
    if not asked or not os.path.exists(asked):  # noqa: PTH110
        return None
    early_s = float(os.environ.get("ENGRAM_SLURM_EARLY_S") or 0.0)
    left_s = math.inf if job.ends is None else job.ends - time.time()
    return named("TIMEOUT" if left_s <= early_s + EARLY_S else "PREEMPTED", job)


def named(state: str, job: Job) -> Verdict | None:
    """The verdict on a job that ended in a state, None where the state says nothing more."""
    if state not in CAUSES:
        return None
    ended, cause = CAUSES[state]
    return Verdict(ended, f"{cause} (job {job.name})", state)


def again(job: Job, identity: dict[str, Any]) -> bool:
    """Whether the job was started anew, or is about to be, since a run of it began."""
    return job.restarts is not None and job.restarts > int(identity.get("slurm_restart") or 0)


def find(identity: dict[str, Any]) -> Job | None:
    """The job of a run, when this machine's Slurm is the one that ran it."""
    number, theirs = identity.get("slurm_job"), identity.get("slurm_cluster")
    if not number or not theirs or theirs != cluster():
        return None
    asked = int(time.monotonic() / FRESH_S)
    known = _of_user(identity.get("user"), asked)
    if known is None:
        return None
    return known.get(number) or _accounted_once(number)


def ask(names: Iterable[str]) -> dict[str, Job]:
    """Find jobs by what people call them: in the queue, else in the accounts.

    Args:
        names: as `12` or `12_3`.

    Returns:
        Those that Slurm knows, by name.
    """
    found: dict[str, Job] = {}
    for source in (lambda numbers: (queued(numbers) or {}).values(), accounted):
        missing = set(names) - set(found)
        if missing:
            jobs = source(",".join(sorted({name.partition("_")[0] for name in missing})))
            found |= among(missing, {job.name: job for job in jobs})
    return found


def among(names: set[str], jobs: dict[str, Job]) -> dict[str, Job]:
    """Find jobs by name in an answer, which may name tasks of an array that never began as one."""
    found = {}
    for name in names:
        array = name.partition("_")[0]
        many = (job for key, job in jobs.items() if covers(key, name))
        job = jobs.get(name) or next(many, None) or jobs.get(array)
        if job is not None:
            found[name] = job._replace(name=name)
    return found


def covers(several: str, name: str) -> bool:
    """Whether 12_[3-5,9%2] means, among others, a task such as 12_4."""
    array, _, tasks = several.partition("_[")
    of, _, task = name.partition("_")
    if not tasks or array != of or not task.isdigit():
        return False
    for part in re.split(r"[%\]]", tasks)[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and int(first) <= int(task) <= int(last or first):
            return True
    return False


def queued(numbers: str | None = None, *, user: str | None = None) -> dict[str, Job] | None:
    """Ask the queue.

    Args:
        numbers: of jobs, with commas; an array's number brings all its tasks.
        user: all jobs of a person instead.

    Returns:
        The jobs by number, and tasks that have no number yet by name; None without an answer.
    """
    which = ["--user", user] if user else ["--jobs", numbers or ""]
    said = call("squeue", "-h", "-r", "-t", "all", *which, "-O", FIELDS)
    if said is None:
        return None
    jobs: dict[str, Job] = {}
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 7:
            continue
        number, name, state, restarts, reason, ends, preempted = cells[:7]
        count = int(restarts) if restarts.isdigit() else None
        job = Job(number, name, state, count, reason, moment(ends), moment(preempted) is not None)
        numberless = "_" in name and state == "PENDING" and not count  # it bears its array's number
        jobs[name if numberless else number] = job
    return jobs


def accounted(numbers: str) -> list[Job]:
    """Ask the accounts, which may not be kept here, and lag behind by some seconds."""
    said = call("sacct", "-X", "-n", "-P", "-j", numbers, "-o", "JobIDRaw,JobID,State")
    rows = [line.split("|") for line in (said or "").splitlines()]
    return [Job(row[0], row[1], row[2].split()[0]) for row in rows if len(row) == 3 and row[2]]


@functools.cache
def cluster() -> str | None:
    """The name of the cluster that this machine's Slurm commands speak to."""
    for line in (call("scontrol", "show", "config") or "").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ClusterName":
            return value.strip()
    return None


def forget() -> None:
    """Ask Slurm anew, and which one it is."""
    cluster.cache_clear()
    _of_user.cache_clear()
    _accounted_once.cache_clear()


def call(*command: str) -> str | None:
    """Run a command of Slurm; None when it is not here, fails or does not answer in time."""
    environ = {key: value for key, value in os.environ.items() if not changes_output(key)}
    try:
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def changes_output(key: str) -> bool:
    """Whether a variable would have Slurm's commands print something else."""
    return key.startswith(("SQUEUE_", "SACCT_")) or key in ("SLURM_TIME_FORMAT", "SLURM_CLUSTERS")


def moment(text: str) -> float | None:
    """Read a time as Slurm writes it, in local time; None for N/A."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


@functools.lru_cache(maxsize=8)
def _of_user(user: str | None, asked: int) -> dict[str, Job] | None:
    """All jobs of a person, asked once per FRESH_S."""
    return queued(user=user) if user else None


@functools.lru_cache(maxsize=4096)
def _accounted_once(number: str) -> Job | None:
    """A job that the queue does not know anymore: its account will not change."""
    return next((job for job in accounted(number) if job.number == number), None)
