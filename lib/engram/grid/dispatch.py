"""The dispatcher: a free slot takes the next point at once, and every ending is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.engine import Ended, Event, Note, Started, Task
from engram.grid.points_table import row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from engram.grid.engine import Engine
    from engram.grid.points import Points
    from engram.grid.points_table import PointsTable
    from engram.grid.view import View

__all__ = ["Dispatcher", "Rules"]

TICK_S = 0.25
SAVE_S = 1.0
CRASHED = ("failed", "killed")


class Rules(NamedTuple):
    """What to do when points do not complete."""

    retries: int = 0  # more attempts at a point that crashed
    packs: bool = (
        False  # points share devices by their memory: what runs out of it runs again alone
    )
    fail_fast: bool = False  # start nothing more after the first point that did not complete


class Dispatcher:
    """Gives points to an engine and keeps what came of them."""

    def __init__(
        self,
        engine: Engine,
        tasks: Iterable[Task],
        *,
        points: Points,
        table: PointsTable,
        view: View,
        save: Callable[[dict[str, int]], None],
        rules: Rules,
        counts: dict[str, int],
    ) -> None:
        """Name everything that takes part.

        Args:
            engine: runs the points.
            tasks: what is to be done, in order.
            points: the points of the grid.
            table: gets one row for each point that is over.
            view: shows what happens.
            save: keeps the counts of points by state; called now and then, and at the end.
            rules: what to do about failures.
            counts: points that were over before, by state.
        """
        self.engine = engine
        self.waiting = deque(tasks)
        self.points = points
        self.table = table
        self.view = view
        self.save = save
        self.rules = rules
        self.counts = Counter(counts)
        self.verdicts: Counter[str] = Counter()
        self.running: set[Task] = set()
        self.first: dict[int, int] = {}  # attempt of each point, in this session
        self.pressed: list[int] = []
        self.heard = 0  # of those
        self.closed = False  # nothing new starts
        self.saved = time.monotonic()

    @property
    def interrupted_by(self) -> int | None:
        """The first signal that came, None for none."""
        return self.pressed[0] if self.pressed else None

    def run(self) -> None:
        """Work until every point is over, or until nothing more may start and nothing runs."""
        with self._signals() as wake:
            while self.running or (self.waiting and not self.closed):
                self._feed()
                for event in self.engine.wait(TICK_S, [wake]):
                    self._take(event)
                self._obey(wake)
                self._keep_current()
        self.save(self._counts())

    def _feed(self) -> None:
        while self.waiting and not self.closed and self.engine.free():
            task = self.waiting.popleft()
            self.engine.start(task)
            self.running.add(task)
            self.first.setdefault(task.number, task.attempt)

    def _take(self, event: Event) -> None:
        if isinstance(event, Note):
            self.view.note(event.text)
        elif isinstance(event, Started):
            self.view.started(event.task.name, event.device)
        else:
            self._ended(event)

    def _ended(self, event: Ended) -> None:
        """Keep what came of an attempt: its point is over, or gets another one."""
        task, record = event.task, event.record
        self.running.discard(task)
        index = task.number
        columns = self.points.columns(index)
        row = row_of(index, task.name, columns, record, task.attempt, event.device)
        again = None if self.closed else self._again(event)
        self.view.ended(row, retry=again is not None)
        if again is not None:
            self.waiting.appendleft(again)
            return
        self.counts[record["state"]] += 1
        if record["comparison"]:
            self.verdicts[record["comparison"]["verdict"]] += 1
        self.table.put(row)
        if self.rules.fail_fast and record["state"] != "completed" and not self.closed:
            self.closed = True
            self.view.note(f"--fail-fast: {task.name!r} did not complete, so nothing more starts")

    def _again(self, event: Ended) -> Task | None:
        """The next attempt at a point that crashed, if it gets one."""
        task, state = event.task, event.record["state"]
        if self.rules.packs and not task.alone and out_of_memory(event.record):
            return task._replace(attempt=task.attempt + 1, alone=True)
        made = task.attempt + 1 - self.first.get(task.number, task.attempt)
        if state not in CRASHED or made > self.rules.retries:
            return None
        earlier = event.run_id if event.checkpoint and task.original is None else task.earlier
        return task._replace(attempt=task.attempt + 1, earlier=earlier)

    def _obey(self, wake: int) -> None:
        """End what runs after a first signal, kill it after another Ctrl-C."""
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        while self.heard < len(self.pressed):
            self.heard += 1
            if self.heard == 1:
                self.closed = True
                name = signal.Signals(self.pressed[0]).name
                self.view.note(f"{name}: nothing more starts; ending what runs (again: at once)")
                self.engine.stop(now=False)
            elif self.pressed[self.heard - 1] == signal.SIGINT:
                self.engine.stop(now=True)

    def _keep_current(self) -> None:
        self.view.tick()
        self.table.flush(force=False)
        if time.monotonic() - self.saved > SAVE_S:
            self.save(self._counts())
            self.saved = time.monotonic()

    def _counts(self) -> dict[str, int]:
        """Points by how they ended, and those that did not yet."""
        over = {state: number for state, number in self.counts.items() if number}
        return {**over, "pending": len(self.points) - sum(over.values())}

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Collect signals instead of being interrupted; yield what wakes the loop."""
        wake, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before: dict[int, Any] = {}
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                before[number] = signal.signal(number, self._caught)
        wakeup = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(end)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.pressed.append(number)


def out_of_memory(record: dict[str, Any]) -> bool:
    """Whether a script ended because its device had no memory left."""
    raised = (record["exit"] or {}).get("exception") or {"type": "", "message": ""}
    named = raised["type"].endswith("OutOfMemoryError")
    return named or "CUDA out of memory" in raised["message"]
