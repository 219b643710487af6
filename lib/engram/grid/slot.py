"""A slot: the process that takes points one after the other and is the runner of each.

dispatcher --fork--> slot --fork--> guardian --fork--> child

It is forked from the dispatcher when all that the points share is ready. It has a session of its
own, so that a Ctrl-C in the terminal reaches the dispatcher alone, which passes it on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from engram import errors, guardian
from engram.execute import STORE_ERRORS, walk
from engram.grid.engine import Task, essence, without_run
from engram.grid.prepare import left_checkpoint, point_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from engram.grid.device_slots import Slot
    from engram.grid.prepare import Shared
    from engram.request import Run

__all__ = ["Ends", "fork"]


class Ends(NamedTuple):
    """A slot process as the dispatcher sees it."""

    pid: int
    tasks: int  # write end: tasks go in; its end is the slot's
    orders: int  # write end: what to do with the task that runs; SIGUSR1 has the slot read it
    news: int  # read end: what happened comes out


def fork(shared: Shared, slot: Slot, log: Path) -> Ends:
    """Start a slot process.

    Args:
        shared: what its points are made of.
        slot: the devices it works on.
        log: what it has to say itself, which nobody reads unless it breaks.

    Raises:
        OSError: no more processes or descriptors.
    """
    tasks, orders, news = os.pipe(), os.pipe(), os.pipe()
    os.set_blocking(orders[0], False)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        serve(shared, slot, log, Inside(tasks[0], orders[0], news[1]), parent)
    for end in (tasks[0], orders[0], news[1]):
        os.close(end)
    return Ends(pid, tasks[1], orders[1], news[0])


class Inside(NamedTuple):
    """The other ends of the pipes."""

    tasks: int
    orders: int
    news: int


def serve(shared: Shared, slot: Slot, log: Path, ends: Inside, parent: int) -> NoReturn:
    """Be a slot process, to its end."""
    code = 1
    try:
        settle(log, keep={*ends, *(shared.warm.descriptors if shared.warm else ())})
        guardian.prctl(guardian.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            Worker(shared, slot, ends).work()
        code = 0
    except KeyboardInterrupt:  # Terminated too: asked to end between two points
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it may be None, or closed
            sys.stderr.flush()
        os._exit(code)


def settle(log: Path, keep: set[int]) -> None:
    """Leave the dispatcher's terminal, its locks and the pipes of the other slots behind."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for interrupt in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interrupt, leave)
    guardian.close_all_but(*keep)
    null = os.open(os.devnull, os.O_RDONLY)
    own = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    for descriptor, number in ((null, 0), (own, 1), (own, 2)):
        os.dup2(descriptor, number)
    os.close(null)
    os.close(own)
    gc.freeze()


def leave(number: int, frame: FrameType | None) -> None:
    """End a slot that is between two points."""
    raise errors.Terminated(number)


class Worker:
    """Takes points through their lives."""

    def __init__(self, shared: Shared, slot: Slot, ends: Inside) -> None:
        """Remember what points are made of, where they run, and where to report."""
        self.shared = shared
        self.slot = slot
        self.ends = ends
        self.ordered = bytearray()
        self.now: tuple[Task, Run] | None = None  # what runs

    def work(self) -> None:
        """Hold the devices, and run points until the dispatcher has no more."""
        signal.signal(signal.SIGUSR1, self.heed)
        from engram.grid.device_lease import hold

        with hold(self.slot, say=lambda text: self.tell(note=text)):
            self.tell(ready=True)
            for message in messages(self.ends.tasks):
                self.attempt(Task(*message["task"]))

    def attempt(self, task: Task) -> None:
        """Run one point and report how it ended; nothing of it can end the slot."""
        run: Run | None = None
        try:
            run, steps = point_run(self.shared, task, self.slot.to_record())
            self.now = task, run
            walk(run, steps, self.announce)
        except errors.RunnerError as error:
            if full(error):
                self.tell(halt=str(error))
            else:
                self.report(task, run, "failed", str(error))
        except KeyboardInterrupt:
            self.report(task, run, "interrupted", "the runner was interrupted")
            raise
        else:
            self.report(task, run, "", "")

    def heed(self, number: int, frame: FrameType | None) -> None:
        """Do what the dispatcher has ordered, unless it is late."""
        with contextlib.suppress(BlockingIOError):
            self.ordered += os.read(self.ends.orders, 1 << 16)
        for order in guardian.unframe(self.ordered):
            if self.now is not None and order["prune"] == [self.now[0].number, self.now[0].attempt]:
                self.now[1].prune(order["why"])

    def announce(self, run: Run) -> None:
        """Say that the run is born."""
        if run.why_cold is not None:
            self.shared = self.shared._replace(warm=None)
            self.tell(note=f"cold from here on, an interpreter for every point: {run.why_cold}")
        self.tell(started=run.paths.run_id)

    def report(self, task: Task, run: Run | None, state: str, cause: str) -> None:
        """Say how an attempt ended: as its record says, where it has one."""
        if run is None or not run.born:
            self.tell(ended=without_run(state, cause), checkpoint=False)
            return
        left = run.record["state"] != "completed" and left_checkpoint(run)
        self.tell(ended=essence(run.record), checkpoint=left)

    def tell(self, **message: Any) -> None:  # noqa: ANN401 - plain values
        """Write to the dispatcher; one that is gone has told us already by a signal."""
        data = memoryview(guardian.frame(message))
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.ends.news, data) :]


def full(error: BaseException) -> bool:
    """Whether the file system refuses what no other run would get from it either."""
    cause = error.__cause__
    return (
        isinstance(cause, OSError)
        and cause.errno in STORE_ERRORS
        or (cause is not None and full(cause))
    )


def messages(descriptor: int) -> Iterator[dict[str, Any]]:
    """The messages in a pipe, until its other end is closed."""
    buffer = bytearray()
    while data := os.read(descriptor, 1 << 16):
        buffer += data
        yield from guardian.unframe(buffer)
