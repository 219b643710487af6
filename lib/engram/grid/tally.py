"""What has happened in a grid so far, for whoever shows it: counts, times, failures, extremes."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.table import duration, printable, short

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Failure", "Running", "Tally"]

KEPT_TIMES = 501
KEPT_FAILURES = 20
SUMMARY = "summary."
MOST_VALUES = 3


class Running(NamedTuple):
    """A point on its way."""

    device: str
    since: float  # time.monotonic()


class Failure(NamedTuple):
    """A point that did not complete."""

    name: str
    state: str
    cause: str
    folder: Path | None


class Extreme(NamedTuple):
    """The lowest or the highest value so far."""

    value: float
    name: str


class Tally:
    """Counts what happens; its size depends on the slots, not on the points."""

    def __init__(self, metric: str | None = None) -> None:
        """Count nothing yet.

        Args:
            metric: the key of the summary to follow; default: the first number that comes.
        """
        self.metric = metric
        self.total = self.over = 0
        self.slots: tuple[str, ...] = ()
        self.where: Path | None = None
        self.began = time.monotonic()
        self.running: dict[str, Running] = {}
        self.counts: Counter[str] = Counter()
        self.times: deque[float] = deque(maxlen=KEPT_TIMES)
        self.failures: deque[Failure] = deque(maxlen=KEPT_FAILURES)
        self.lowest: Extreme | None = None
        self.highest: Extreme | None = None

    def begin(self, total: int, done: int, slots: Sequence[str], where: Path) -> None:
        """Begin with `done` of `total` points over already."""
        self.total, self.over, self.slots, self.where = total, done, tuple(slots), where
        self.began = time.monotonic()

    def started(self, name: str, device: str) -> None:
        """Count a point as running."""
        self.running[name] = Running(device, time.monotonic())

    def ended(self, row: dict[str, Any], *, retry: bool) -> None:
        """Count the end of an attempt; with `retry` its point waits again."""
        began = self.running.pop(row["name"], None)
        if retry:
            return
        self.over += 1
        self.counts[row["state"]] += 1
        if row["state"] != "completed":
            folder = self.folder(row)
            cause = row["cause"] or ""
            self.failures.append(Failure(row["name"], row["state"], cause, folder))
            return
        spent = row["run_s"] if began is None else time.monotonic() - began.since
        if spent is not None:
            self.times.append(spent)
        self._note_extremes(row)

    def _note_extremes(self, row: dict[str, Any]) -> None:
        if self.metric is None:
            self.metric = next((key for key, _ in _numbers(row)), None)
        value = row.get(f"{SUMMARY}{self.metric}")
        if value is None or not _is_number(value):
            return
        found = Extreme(value, row["name"])
        if self.lowest is None or value < self.lowest.value:
            self.lowest = found
        if self.highest is None or value > self.highest.value:
            self.highest = found

    def folder(self, row: dict[str, Any]) -> Path | None:
        """The run folder of an attempt, None where no run was born."""
        return self.where / row["run_id"] if self.where and row["run_id"] else None

    @property
    def waiting(self) -> int:
        """Points that have not started."""
        return max(0, self.total - self.over - len(self.running))

    @property
    def failed(self) -> int:
        """Points that ended without completing, in this session."""
        return sum(self.counts.values()) - self.counts["completed"]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning of this session."""
        return time.monotonic() - self.began

    def left_s(self) -> float | None:
        """Estimate how long it still takes: every point is taken to last the median.

        Returns:
            Seconds; None while no point has completed.
        """
        if not self.times:
            return None
        median = sorted(self.times)[len(self.times) // 2]
        now = time.monotonic()
        begun = [max(0.0, median - (now - point.since)) for point in self.running.values()]
        lanes = min(len(self.slots) or len(self.running), self.waiting + len(self.running))
        spread = (median * self.waiting + sum(begun)) / max(1, lanes)
        return max(spread, median if self.waiting else max(begun, default=0.0))

    def values(self, row: dict[str, Any]) -> str:
        """The first numbers of a point's summary, the followed one first: "accuracy=0.91 ..."."""
        numbers = dict(_numbers(row))
        ordered = sorted(numbers, key=lambda key: key != self.metric)
        return " ".join(f"{printable(key)}={short(numbers[key])}" for key in ordered[:MOST_VALUES])

    def counted(self) -> str:
        """Write how many run, wait, failed: "4 running, 33 waiting, 1 failed"."""
        parts = [f"{len(self.running)} running", f"{self.waiting} waiting"]
        return ", ".join([*parts, *self.mishaps()])

    def mishaps(self) -> list[str]:
        """Write how many points ended without completing, by state."""
        return [
            f"{number} {state.replace('_', ' ')}"
            for state, number in self.counts.items()
            if state != "completed"
        ]

    def timed(self) -> str:
        """Write how long it took and still takes."""
        left = self.left_s()
        estimate = "" if left is None else f", about {duration(left)} left"
        return f"{duration(self.elapsed_s)} elapsed{estimate}"


def _numbers(row: dict[str, Any]) -> list[tuple[str, float]]:
    """The numbers of a row's summary."""
    return [
        (key.removeprefix(SUMMARY), value)
        for key, value in row.items()
        if key.startswith(SUMMARY) and _is_number(value, finite=False)
    ]


def _is_number(value: Any, *, finite: bool = True) -> bool:  # noqa: ANN401
    """Whether a value can be compared: no bool, and no NaN where `finite`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not finite or math.isfinite(value)
