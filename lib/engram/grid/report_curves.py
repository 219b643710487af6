"""Learning curves for a report: some runs, some keys, some steps, by rules that are stated."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engram.grid.report_points import Point

__all__ = ["MOST_KEYS", "MOST_RUNS", "MOST_STEPS", "Thinned", "read_curves"]

MOST_RUNS = 100
MOST_KEYS = 12
MOST_STEPS = 200
MOST_BYTES = 1 << 28  # of all metrics files together
BLOCKS = 64

Curve = tuple[list[float], list[float]]


def read_curves(points: Sequence[Point]) -> dict[str, Any]:
    """Read the metrics of a grid's runs, as much as a page can hold.

    Args:
        points: all points of the grid.

    Returns:
        "keys": their names, the most common first; "runs": pairs of a point's index and its curves,
        each by its key as steps and values; "rule": how these were chosen from what there is.
    """
    found = [index for index, point in enumerate(points) if _size(point)]
    number = min(len(found), MOST_RUNS)
    chosen = [found[place * len(found) // number] for place in range(number)]
    share = MOST_BYTES // max(1, number)
    read = [(index, _read(points[index], share)) for index in chosen]
    common = Counter(key for _, curves in read for key in curves)
    keys = [key for key, _ in common.most_common(MOST_KEYS)]
    kept = [(index, {key: curves[key] for key in keys if key in curves}) for index, curves in read]
    large = sum((_size(points[index]) or 0) > share for index in chosen)
    rule = _rule(len(found), number, len(common), large)
    return {"keys": keys, "runs": [item for item in kept if item[1]], "rule": rule}


def _rule(found: int, chosen: int, keys: int, large: int) -> str:
    """Say what was left out, and how."""
    parts = [f"at most {MOST_STEPS} steps of a curve, evenly spaced, and always its last"]
    if chosen < found:
        parts.insert(0, f"{chosen} of {found} runs with metrics, evenly spaced over the grid")
    if keys > MOST_KEYS:
        parts.append(f"the {MOST_KEYS} most common of {keys} metrics")
    if large:
        parts.append(f"of {large} large files, {BLOCKS} parts that are evenly spaced")
    return "; ".join(parts)


def _size(point: Point) -> int | None:
    """Bytes of a point's metrics; None where it has none."""
    try:
        return (point.run.metrics.stat().st_size or None) if point.run else None
    except OSError:
        return None


def _read(point: Point, share: int) -> dict[str, Curve]:
    """The thinned curves of one run, by key."""
    thinned: dict[str, Thinned] = {}
    for line in _lines(point.run.metrics if point.run else None, share):
        try:
            values = json.loads(line)
            step = float(values.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # torn by a kill, or no line of ours
        for key, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                thinned.setdefault(key, Thinned(MOST_STEPS)).add(step, value)
    return {key: curve.result() for key, curve in thinned.items()}


def _lines(path: Path | None, share: int) -> Iterator[bytes]:
    """The lines of a file; of one beyond `share` bytes, the whole lines of evenly spaced blocks."""
    if path is None:
        return
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size <= share:
                stream.seek(0)
                yield from stream
                return
            block = share // BLOCKS
            for number in range(BLOCKS):
                stream.seek(number * (size - block) // (BLOCKS - 1))
                lines = stream.read(block).split(b"\n")
                yield from lines[bool(number) : -1]
    except OSError:
        return


class Thinned:
    """Keeps evenly spaced items of a sequence of unknown length, the first and the last among them.

    When it is full, every second item goes, and from then on twice as many are passed over.
    """

    def __init__(self, most: int) -> None:
        """Keep at most `most` items, two or more."""
        self.most = most
        self.stride = 1
        self.seen = 0
        self.kept: list[tuple[float, float]] = []
        self.last: tuple[float, float] = (0, 0)

    def add(self, step: float, value: float) -> None:
        """Take the next item."""
        self.last = (step, value)
        if self.seen % self.stride == 0:
            if len(self.kept) == self.most - 1:
                del self.kept[1::2]
                self.stride *= 2
            if self.seen % self.stride == 0:
                self.kept.append(self.last)
        self.seen += 1

    def result(self) -> Curve:
        """The steps and the values that were kept."""
        ended = self.kept and self.kept[-1] == self.last
        items = self.kept if ended else [*self.kept, self.last]
        return [step for step, _ in items], [value for _, value in items]
