"""What the page of a report computes with: the points by columns, as JSON without surprises."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engram.errors import ConfigError
from engram.overrides import suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engram.grid.report_points import Point

__all__ = ["MOST_KEYS", "MOST_METRICS", "as_script_text", "link", "page_data"]

MOST_KEYS = 40
MOST_METRICS = 60
MOST_TEXT = 200  # characters of a value
MOST_CAUSE = 300
# Keys that say which repetition a point is; where others vary too, plots average over them.
REPEATS = ("seed", "repeat", "repetition", "replicate", "run_seed", "random_seed", "random_state")
EXACT = 2**53  # larger integers are not exact in JavaScript


def page_data(
    points: Sequence[Point], curves: dict[str, Any], *, metric: str | None, base: Path
) -> dict[str, Any]:
    """Collect what the page's script reads.

    Args:
        points: all points of the grid.
        curves: as `report_curves.read_curves` makes them.
        metric: the summary key to begin with; default: the first number.
        base: the folder that the page will lie in.

    Returns:
        Columns of plain values, one item a point each.

    Raises:
        ConfigError: no point has a number under that key.
    """
    keys = list(points[0].columns) if points else []
    numbers, texts = _summary_keys(points)
    if metric is not None and metric not in numbers:
        known = ", ".join(map(repr, numbers[:20])) or "none"
        msg = f"no point has a number {metric!r} in its summary{suggestion(metric, numbers)}"
        raise ConfigError(f"{msg} (numbers that are there: {known})")
    chosen = metric if metric is not None else (numbers[0] if numbers else None)
    shown = [key for key in numbers if key == chosen or key in numbers[:MOST_METRICS]]
    alone = [key for key in keys if not is_repeat(key)]
    return {
        "name": [point.name for point in points],
        "state": [point.state for point in points],
        "cause": [_cut(point.cause, MOST_CAUSE) for point in points],
        "folder": [link(point.run.folder, base) if point.run else None for point in points],
        "device": [point.device or None for point in points],
        "seed": [value(point.seed) for point in points],
        "run_s": [value(point.run_s) for point in points],
        "attempts": [point.attempts for point in points],
        "verdict": [point.verdict for point in points],
        "keys": [
            {
                "name": key,
                "repeat": bool(alone) and is_repeat(key),
                "values": [value(point.columns[key]) for point in points],
            }
            for key in keys[:MOST_KEYS]
        ],
        "metrics": [
            {"name": key, "values": [value(_of_summary(point, key)) for point in points]}
            for key in shown
        ],
        "texts": [
            {"name": key, "values": [value(point.summary.get(key)) for point in points]}
            for key in texts[:MOST_METRICS]
        ],
        "metric": chosen,
        "curves": {
            "keys": curves["keys"],
            "runs": [
                [
                    index,
                    {key: [_whole(steps), _short(values)] for key, (steps, values) in of.items()},
                ]
                for index, of in curves["runs"]
            ],
            "rule": curves["rule"],
        },
        "left_out": _left_out(len(keys) - MOST_KEYS, len(numbers) - len(shown)),
    }


def is_repeat(key: str) -> bool:
    """Whether a key only tells repetitions of the same thing apart."""
    last = key.rpartition(".")[2].lower()
    return last in REPEATS or last.endswith("_seed")


def _left_out(keys: int, metrics: int) -> str:
    """Say how many columns the page does without."""
    parts = [f"{keys} more keys that vary"] if keys > 0 else []
    parts += [f"{metrics} more numbers of the summaries"] if metrics > 0 else []
    return f"left out, see points.csv: {' and '.join(parts)}" if parts else ""


def _summary_keys(points: Sequence[Point]) -> tuple[list[str], list[str]]:
    """The keys of the summaries, by whether any point has a number there."""
    numbers: dict[str, None] = {}
    others: dict[str, None] = {}
    for point in points:
        for key, item in point.summary.items():
            (numbers if _is_number(item) else others)[key] = None
    return list(numbers), [key for key in others if key not in numbers]


def _is_number(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def _of_summary(point: Point, key: str) -> Any:  # noqa: ANN401
    """A number of a point's summary; None for anything else."""
    item = point.summary.get(key)
    return item if _is_number(item) else None


def value(item: Any) -> Any:  # noqa: ANN401
    """A value as JSON that JavaScript reads exactly: [text] stands for NaN and infinities."""
    if item is None or isinstance(item, bool):
        return item
    if isinstance(item, int):
        return item if abs(item) <= EXACT else str(item)
    if isinstance(item, float):
        if math.isfinite(item):
            return item
        return ["NaN" if math.isnan(item) else "Infinity" if item > 0 else "-Infinity"]
    return _cut(str(item), MOST_TEXT)


def _short(numbers: Sequence[float]) -> list[Any]:
    """Numbers of a curve, with six digits."""
    return _whole([float(f"{number:.6g}") for number in numbers])


def _whole(numbers: Sequence[float]) -> list[Any]:
    """Numbers, those without a fraction in few characters."""
    return [value(int(n) if abs(n) <= EXACT and n == int(n) else n) for n in numbers]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def link(path: Path, base: Path) -> str:
    """The address of a file relative to the folder of the page."""
    relative = os.path.relpath(path, base)
    # "./" keeps a name with a colon from being read as a scheme.
    return quote(os.fsencode(f"./{relative}"))


def as_script_text(data: Any) -> str:  # noqa: ANN401
    """Write JSON that is safe inside <script>: plain ASCII without <, > and &."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
