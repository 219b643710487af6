"""The dispatcher: a free slot takes the next point at once, and every ending is kept."""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.engine import Ended, Event, Halt, Left, Note, Started, Task
from engram.grid.points_table import row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engram.grid.engine import Engine
    from engram.grid.interrupts import Interrupts
    from engram.grid.points import Points
    from engram.grid.points_table import PointsTable
    from engram.grid.search import Search
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
        interrupts: Interrupts,
        search: Search | None = None,
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
            interrupts: the signals that came since the grid exists.
            search: chooses more points meanwhile, where there is one.
        """
        self.engine = engine
        self.waiting = deque(tasks)
        self.points = points
        self.table = table
        self.view = view
        self.save = save
        self.rules = rules
        self.counts = Counter(counts)
        self.search = search
        self.verdicts: Counter[str] = Counter()
        self.running: dict[int, Task] = {}  # by the number of the point
        self.first: dict[int, int] = {}  # attempt of each point, in this session
        self.interrupts = interrupts
        self.heard = 0  # of the signals
        self.halted: str | None = None  # why nothing more can start
        self.closed = False  # nothing new starts
        self.saved = time.monotonic()

    @property
    def interrupted_by(self) -> int | None:
        """The first signal that came, None for none."""
        return self.interrupts.pressed[0] if self.heard else None

    def run(self) -> None:
        """Work until every point is over, or until nothing more may start and nothing runs."""
        self._obey()
        while self.running or self._goes_on():
            self._feed()
            for event in self.engine.wait(TICK_S, [*self.interrupts.wake, *self._watched()]):
                self._take(event)
            self._obey()
            self._consult()
            self._keep_current()
        self.save(self._counts())

    def _goes_on(self) -> bool:
        """Whether anything may start yet."""
        more = self.search is not None and not self.search.settled
        return not self.closed and (bool(self.waiting) or more)

    def _watched(self) -> Sequence[int]:
        return () if self.search is None else self.search.watched

    def _consult(self) -> None:
        """Let the search choose points where there is room for them, and end some that run."""
        if self.search is None:
            return
        free = 0 if self.closed else self.engine.free() - len(self.waiting)
        idle = not self.running and not self.waiting
        news = self.search.exchange(free=free, idle=idle)
        for note in news.notes:
            self.view.note(note)
        for task, why in news.prune:
            if not self.closed and self.running.get(task.number) == task:
                self.engine.prune(task, why)
        self.waiting.extend(news.tasks)
        self.view.resize(self.search.total)
        if self.search.problem is not None and not self.closed:
            self.closed = True
            self.view.note(f"nothing more starts: {self.search.problem}")

    def _feed(self) -> None:
        while self.waiting and not self.closed and self.engine.free():
            task = self.waiting.popleft()
            self.engine.start(task)
            self.running[task.number] = task
            self.first.setdefault(task.number, task.attempt)

    def _take(self, event: Event) -> None:
        if isinstance(event, Note):
            self.view.note(event.text)
        elif isinstance(event, Started):
            self.view.started(event.task.name, event.device)
            if self.search is not None:
                self.search.started(event.task, event.run_id)
        elif isinstance(event, Left):
            self.running.pop(event.task.number, None)
        elif isinstance(event, Halt):
            self._halt(event)
        else:
            self._ended(event)

    def _ended(self, event: Ended) -> None:
        """Keep what came of an attempt: its point is over, or gets another one."""
        task, record = event.task, event.record
        index = task.number
        begun = self.running.pop(index, task)
        if task.attempt != begun.attempt:  # an engine that requeues makes attempts of its own
            self.first[index] += task.attempt - begun.attempt
        columns = self.points.columns(index)
        row = row_of(index, task.name, columns, record, task.attempt, event.device)
        again = None if self.closed else self._again(event)
        self.view.ended(row, retry=again is not None)
        if self.search is not None:
            later = self.closed and record["state"] == "interrupted"
            self.search.over(task, record, again=later or again is not None)
        if again is not None:
            self.waiting.appendleft(again)
            return
        self.counts[record["state"]] += 1
        if record["comparison"]:
            self.verdicts[record["comparison"]["verdict"]] += 1
        self.table.put(row)
        if self.rules.fail_fast and record["state"] != "completed" and not self.closed:
            self.closed = True
            self.engine.withdraw()
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

    def _halt(self, event: Halt) -> None:
        """Start nothing more; the point counts as not begun."""
        self.running.pop(event.task.number, None)
        if self.halted is None:
            self.halted = event.cause
            self.view.note(f"nothing more starts: {event.cause}")
        if not self.closed:
            self.closed = True
            self.engine.withdraw()

    def _obey(self) -> None:
        """End what runs after a first signal, kill it after another Ctrl-C."""
        self.interrupts.clear()
        pressed = self.interrupts.pressed
        while self.heard < len(pressed):
            self.heard += 1
            if self.heard == 1:
                self.closed = True
                name = signal.Signals(pressed[0]).name
                self.view.note(f"{name}: nothing more starts; {self.engine.STOPS}")
                self.engine.stop(now=False)
            elif pressed[self.heard - 1] == signal.SIGINT:
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


def out_of_memory(record: dict[str, Any]) -> bool:
    """Whether a script ended because its device had no memory left."""
    raised = (record["exit"] or {}).get("exception") or {"type": "", "message": ""}
    named = raised["type"].endswith("OutOfMemoryError")
    return named or "CUDA out of memory" in raised["message"]
