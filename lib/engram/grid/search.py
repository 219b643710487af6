"""The dispatcher's side of a search: what to ask, what to tell, and which point is the best."""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.engine import Task
from engram.grid.proposer import Door, Over, finite_or_not
from engram.table import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engram.grid.points import Points
    from engram.grid.proposer import Answer
    from engram.grid.search_table import SearchConfig
    from engram.grid.sweep_table import SweepConfig

__all__ = ["News", "Search", "told"]

LOOK_S = 0.5


class News(NamedTuple):
    """What the dispatcher has to do."""

    tasks: list[Task]
    prune: list[tuple[Task, str]]
    notes: list[str]


class Search:
    """Chooses the points of one grid, through the door of its proposer."""

    def __init__(
        self,
        door: Door,
        points: Points,
        *,
        over: Sequence[Over] = (),
        config: SearchConfig | SweepConfig | None = None,
        where: str = "",
    ) -> None:
        """Begin, or go on.

        Args:
            door: the way to what chooses.
            points: those there are.
            over: what came of those that are over for good.
            config: what is searched; None for an adaptive grid file.
            where: the grid file, for messages.
        """
        self.door = door
        self.points = points
        self.config = config
        self.where = where
        self.untold = list(over)
        self.running: dict[int, tuple[Task, str]] = {}
        self.looked = time.monotonic()
        self.waits = False  # for the end of another point
        self.ended = config is not None and len(points) >= config.trials
        self.problem: str | None = None
        self.best: dict[str, Any] | None = None
        for item in over:
            self._note_best(item)

    @property
    def watched(self) -> list[int]:
        """What wakes the dispatcher."""
        return [self.door.descriptor] if self.door.busy else []

    @property
    def settled(self) -> bool:
        """Whether nothing more will come of it."""
        return self.problem is not None or (self.ended and not self.untold and not self.door.busy)

    @property
    def total(self) -> int:
        """How many points there will be, as far as is known."""
        known = self.config is not None and not self.ended
        return max(len(self.points), self.config.trials if known and self.config else 0)

    def started(self, task: Task, run_id: str) -> None:
        """Know that a point runs."""
        self.running[task.number] = (task, run_id)

    def over(self, task: Task, record: dict[str, Any], *, again: bool) -> None:
        """Know how an attempt ended.

        Args:
            task: the attempt.
            record: the essence of its run's record.
            again: whether its point gets another one, now or later.
        """
        self.running.pop(task.number, None)
        if again:
            return
        item = told(task.number, record)
        self.untold.append(item)
        self.waits = False
        self._note_best(item)

    def _note_best(self, item: Over) -> None:
        """Keep the point with the best value so far."""
        if (
            self.config is None
            or self.config.metric is None
            or item.state != "completed"
            or item.pruned
        ):
            return
        value = finite_or_not(item.summary).get(self.config.metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        sign = 1 if self.config.direction == "minimize" else -1
        if math.isfinite(value) and (self.best is None or sign * value < sign * self.best["value"]):
            name = self.points.names[item.number]
            self.best = {"name": name, "run_id": item.run_id, "value": value}

    def exchange(self, *, free: int, idle: bool) -> News:
        """Hear the answer to the last question, and put the next one; never waits.

        Args:
            free: how many points could be started.
            idle: whether nothing runs, or waits to run.
        """
        news = News([], [], [])
        if self.problem is None and self.door.busy and readable(self.door.descriptor):
            answer = self.door.hear()
            if answer is not None:
                self._take(answer, news)
        if self.problem is None and not self.door.busy:
            self._ask(free=free - len(news.tasks), idle=idle and not news.tasks)
        return news

    def _take(self, answer: Answer, news: News) -> None:
        news.notes.extend(answer.notes)
        for number, why in answer.prune:
            if number in self.running:
                news.prune.append((self.running[number][0], why))
        self.ended = self.ended or answer.ended
        self.waits = answer.waits and not self.untold
        self.problem = answer.problem
        if answer.point is not None:
            self.points.refresh()
            news.tasks.append(Task(answer.point, self.points.names[answer.point]))

    def _ask(self, *, free: int, idle: bool) -> None:
        if self.waits and idle and not self.untold:
            self.problem = f"{self.where}: configurations yielded None while no point ran, so that "
            self.problem += "nothing would ever change: yield a point, or return"
            return
        point = free > 0 and not self.ended and not self.waits
        looks = self.config is not None and self.config.prunes and bool(self.running)
        looks = looks and time.monotonic() - self.looked >= LOOK_S
        if not (point or looks or self.untold):
            return
        running = {}
        if looks:
            self.looked = time.monotonic()
            running = {number: run_id for number, (_, run_id) in self.running.items()}
        self.door.ask(point=point, over=self.untold, running=running)
        self.untold = []

    def last_words(self) -> list[str]:
        """What came of it, for people."""
        if self.best is None or self.config is None:
            return []
        value, name, run_id = short(self.best["value"]), self.best["name"], self.best["run_id"]
        return [f"best {self.config.metric} {value}: {name} ({run_id})"]

    def close(self) -> None:
        """End the process that chooses."""
        self.door.close()


def readable(descriptor: int) -> bool:
    """Whether there is something to read."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def told(number: int, record: dict[str, Any]) -> Over:
    """What is told of a point that is over."""
    return Over(
        number,
        record["run_id"],
        record["state"],
        bool(record.get("pruned")),
        record["summary"],
        record["seed"],
        record["times"]["run_s"],
    )
