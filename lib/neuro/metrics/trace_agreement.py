"""How well traces of a student follow those of its teacher, and learned values the true ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def trace_correlation(student: ArrayLike, teacher: ArrayLike) -> NDArray[np.float64]:
    """Return Pearson's correlation of each unit's traces, over time and trials.

    Args:
        student: traces, shape (T, B, N).
        teacher: the same shape, as everywhere in this file.

    Returns:
        -1 .. 1, NaN for units whose trace is constant in either, shape (N,).

    Raises:
        ValueError: the shapes differ or are not (T, B, N), as everywhere in this file.
    """
    mine, theirs = _pair(student, teacher)
    centered = [one - one.mean(axis=(0, 1)) for one in (mine, theirs)]
    spread = np.sqrt(np.prod([(one**2).sum(axis=(0, 1)) for one in centered], axis=0))
    product = (centered[0] * centered[1]).sum(axis=(0, 1))
    return np.divide(product, spread, out=np.full(len(product), np.nan), where=spread > 0)


def group_mse(
    student: ArrayLike, teacher: ArrayLike, group: ArrayLike, names: Sequence[str]
) -> dict[str, float]:
    """Return the mean squared difference over time, trials and units of each group.

    Args:
        student: traces, shape (T, B, N).
        teacher: the same shape.
        group: of each unit, a number, shape (N,).
        names: of the groups.

    Returns:
        By name; NaN for a group without units.
    """
    mine, theirs = _pair(student, teacher)
    error, number = ((mine - theirs) ** 2).mean(axis=(0, 1)), np.asarray(group)
    chosen = (error[number == rank] for rank in range(len(names)))
    return {
        name: float(own.mean()) if own.size else math.nan
        for name, own in zip(names, chosen, strict=True)
    }


def value_recovery(found: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Compare learned with true values, such as biases, time constants or weights.

    Args:
        found: any shape.
        true: the same shape.

    Returns:
        "correlation", Pearson's; NaN where all values of either are equal. "relative_error", the
        root of the mean squared difference over the standard deviation of the true values: 0 where
        all are recovered, 1 for who knows their mean alone, 1.41 for a permutation of them; NaN
        where all true values are equal.

    Raises:
        ValueError: the shapes differ, or are empty.
    """
    mine, theirs = (np.asarray(one, dtype=np.float64).ravel() for one in (found, true))
    if mine.shape != theirs.shape or not mine.size:
        msg = f"found {mine.shape} and true {theirs.shape} must have one shape, not empty"
        raise ValueError(msg)
    spread = float(theirs.std())
    error = math.sqrt(float(((mine - theirs) ** 2).mean()))
    flat = not spread or not np.ptp(mine)
    return {
        "correlation": math.nan if flat else float(np.corrcoef(mine, theirs)[0, 1]),
        "relative_error": error / spread if spread else math.nan,
    }


def _pair(student: ArrayLike, teacher: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    mine, theirs = (np.asarray(one, dtype=np.float64) for one in (student, teacher))
    if mine.ndim != 3 or mine.shape != theirs.shape:
        msg = f"student {mine.shape} and teacher {theirs.shape} must both be (T, B, N)"
        raise ValueError(msg)
    return mine, theirs
