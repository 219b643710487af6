"""The values of one metric in a metrics.jsonl that grows; only what is new is read."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Tail", "Value"]

MOST_BYTES = 1 << 24  # of one look


class Value(NamedTuple):
    """One value of the metric."""

    step: int
    value: float


class Tail:
    """Reads the values of one metric as a script logs them.

    Of many values some are left out, the same ones in every run of a script: all of the first
    hundred count, then every tenth, from the thousandth on every hundredth, and so on.
    """

    def __init__(self, path: Path, metric: str) -> None:
        """Begin before the first line.

        Args:
            path: metrics.jsonl; it need not be there yet.
            metric: the key to follow.
        """
        self.path = path
        self.metric = metric
        self._needle = json.dumps(metric, ensure_ascii=False).encode("utf-8", "replace") + b":"
        self._position = 0
        self._number = 0  # of values met
        self._step = -1  # of the last one

    def read(self) -> Iterator[Value]:
        """The values that were logged since the last call; of a step the first one counts."""
        for line in self._lines():
            found = self._value(line) if self._needle in line else None
            if found is None or found.step <= self._step:
                continue
            self._step = found.step
            self._number += 1
            if self._number % sparsity(self._number) == 0:
                yield found

    def _lines(self) -> list[bytes]:
        """The new lines that are whole."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read(MOST_BYTES)
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._position += whole
        return data[:whole].splitlines()

    def _value(self, line: bytes) -> Value | None:
        """The metric of a line, if that is a number."""
        with contextlib.suppress(ValueError, AttributeError):
            row = json.loads(line)
            step, value = row.get("step"), row.get(self.metric)
            if type(step) is int and type(value) in (int, float):
                return Value(step, float(value))
        return None


def sparsity(number: int) -> int:
    """Of how many values one counts, near the one with this number."""
    return int(10 ** max(0, len(str(number)) - 2))
