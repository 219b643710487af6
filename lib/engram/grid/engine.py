"""What runs the points of a grid: one interface, whether on this machine, in Slurm or in Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Ended", "Engine", "Event", "Halt", "Left", "Note", "Started", "Task", "essence"]


class Task(NamedTuple):
    """One attempt at one point."""

    number: int  # of the point, from 0
    name: str
    attempt: int = 1
    earlier: str | None = None  # run id of an earlier attempt: go on from its newest checkpoint
    original: str | None = None  # run id of the run that this one repeats
    alone: bool = False  # on its device: together with others it ran out of memory


class Started(NamedTuple):
    """A point's run has its folder and its record."""

    task: Task
    run_id: str
    device: str


class Ended(NamedTuple):
    """An attempt is over."""

    task: Task
    run_id: str | None  # None when no run was born
    device: str
    record: dict[str, Any]  # what `essence` keeps of the run's record
    checkpoint: bool = False  # whether the run left one to go on from


class Note(NamedTuple):
    """Something that people should know, and that ends nothing."""

    text: str


class Left(NamedTuple):
    """An attempt that goes on, or stays unsubmitted, without being watched any longer."""

    task: Task


class Halt(NamedTuple):
    """An attempt could not be kept, nor can any other be: the disk is full, or the like."""

    task: Task
    cause: str


Event = Started | Ended | Left | Note | Halt


class Engine(Protocol):
    """Runs tasks; the dispatcher decides which."""

    STOPS: str
    """What becomes of what runs when the dispatcher is stopped, for people."""

    def free(self) -> int:
        """How many more tasks it takes now."""

    def start(self, task: Task) -> None:
        """Take a task; only called when one is free."""

    def wait(self, timeout_s: float, wake: Sequence[int]) -> list[Event]:
        """Return what happened, as soon as something did.

        Args:
            timeout_s: when to return without news, in seconds.
            wake: descriptors that end the wait when they can be read.
        """

    def prune(self, task: Task, why: str) -> None:
        """Have a task end early, as completed for this cause; it may be over already."""

    def withdraw(self) -> None:
        """Take back the tasks that have not begun; `wait` tells of them as Left."""

    def stop(self, *, now: bool) -> None:
        """End what runs: ask first, or kill at once."""

    def close(self) -> None:
        """Give everything back; nothing runs anymore."""


def essence(record: dict[str, Any]) -> dict[str, Any]:
    """What the dispatcher needs of a run's record; plain values only.

    Args:
        record: as loaded, or as a run holds it.
    """
    comparison, exit_ = record.get("comparison"), record.get("exit")
    return {
        "run_id": record["run_id"],
        "state": record["state"],
        "exit": exit_ and {"cause": exit_["cause"], "exception": _kind(exit_)},
        "seed": record["seed"],
        "times": record["times"],
        "summary": record["summary"],
        "pruned": bool(record.get("pruned")),
        "comparison": comparison and {"verdict": comparison["verdict"]},
        "usage": record["usage"],
    }


def _kind(exit_: dict[str, Any]) -> dict[str, str] | None:
    """The exception without its traceback, which may be long."""
    raised = exit_.get("exception")
    return raised and {"type": raised["type"], "message": raised["message"][:1000]}


def without_run(state: str, cause: str) -> dict[str, Any]:
    """The essence of an attempt that was over before it had a record."""
    return {
        "run_id": None,
        "state": state,
        "exit": {"cause": cause, "exception": None},
        "seed": None,
        "times": {"created": None, "started": None, "ended": None, "run_s": None},
        "summary": None,
        "pruned": False,
        "comparison": None,
        "usage": None,
    }
