"""What grid.py shares out over rounds: cases of many points, timed in turn, as rows of a point."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from timing import Case, Sample, time_case


@dataclass
class Entry:
    """One row: what is timed, how often, and what came of it.

    Attributes:
        case: the whole grid as one process.
        points: how many it has.
        equal: how many of them wrote the right number since the last timing began.
        rounds: it takes part in the first so many.
        own: whether a failure ends the measurement; other tools are named and left out.
        warm_up: whether it runs once before the first round.
    """

    case: Case
    points: int
    equal: Callable[[int], int]
    rounds: int
    own: bool = True
    warm_up: bool = True
    samples: list[Sample] = field(default_factory=list)
    right: int = 0
    problem: str | None = None

    def take(self, number: int) -> None:
        """Time it and count the points whose number is right; round -1 is not counted.

        Raises:
            RuntimeError: it failed and is one of our own.
        """
        try:
            sample = time_case(self.case)
        except RuntimeError as error:
            if self.own:
                raise
            self.problem = str(error).splitlines()[-1]
            return
        right = self.equal(self.points)
        print(
            f"round {number + 1}: {self.case.name}: {sample.wall_s:.2f} s, "
            f"{right} of {self.points} right",
            file=sys.stderr,
            flush=True,
        )
        if number >= 0:
            self.samples.append(sample)
            self.right += right

    @property
    def wrong(self) -> bool:
        """Whether any number was not what it should be."""
        return self.right != self.points * len(self.samples)

    def row(self) -> dict[str, Any]:
        """What a point cost; the table shows it."""
        walls = [sample.wall_s for sample in self.samples]
        a_point_ms = 1000 / self.points
        return {
            "case": self.case.name,
            "points": self.points,
            "ms_a_point": statistics.median(walls) * a_point_ms,
            "fastest_ms": min(walls) * a_point_ms,
            "cpu_ms": statistics.median(sample.cpu_s for sample in self.samples) * a_point_ms,
            "rounds": len(walls),
            "numbers_right": f"{self.right} of {self.points * len(walls)}",
        }


def measure(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Time all in turn and give their rows, as multiples of the first too.

    Each round starts with another entry: nobody always runs after the same neighbor.
    """
    for number in range(-1, max(entry.rounds for entry in entries)):
        at = max(number, 0) % len(entries)
        for entry in [*entries[at:], *entries[:at]]:
            takes_part = entry.warm_up if number < 0 else number < entry.rounds
            if takes_part and entry.problem is None:
                entry.take(number)
    rows = [entry.row() for entry in entries if entry.samples]
    for row in rows:
        row["times"] = row["ms_a_point"] / rows[0]["ms_a_point"]
        row["times_fastest"] = row["fastest_ms"] / rows[0]["fastest_ms"]
    return rows


if __name__ == "__main__":
    sys.exit("this file holds how grid.py measures; run that")
