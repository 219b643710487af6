"""SPIKE-synchronization: the share of coincident spikes, by windows that adapt to the rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class _Trains(NamedTuple):
    """Spikes by train, then by step; intervals to the neighbors in a train, the lesser of both."""

    train: NDArray[np.int64]
    step: NDArray[np.int64]
    interval: NDArray[np.int64]


def spike_synchrony(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return SPIKE-synchronization of each unit, over all its trials.

        coincident spikes of both trains / spikes of both trains

    Two spikes are coincident when they are less than tau apart, half of the least of the intervals
    to the spikes before and after them in their trains. At the ends of a train, where there is no
    such interval, the duration of the trial takes its place, as in PySpike. No window is to be
    chosen, and a spike is coincident with one other at most. Kreuz, Mulansky & Bozanic 2015,
    doi:10.1152/jn.00848.2014.

    Args:
        first: spikes, 0 or 1, shape (T, B, N).
        second: the same shape.

    Returns:
        0 .. 1, NaN for units that never spike in either, shape (N,).

    Raises:
        ValueError: the shapes differ or are not (T, B, N).
    """
    one, other = require_pair(first, second)
    n_steps, _, n_units = one.shape
    mine, theirs = _trains(one, n_steps), _trains(other, n_steps)
    unit = mine.train[_coincident(mine, theirs, n_steps)] % n_units
    both = np.bincount(unit, minlength=n_units) * 2.0
    total = one.sum(axis=(0, 1)) + other.sum(axis=(0, 1))
    return np.divide(both, total, out=np.full(n_units, np.nan), where=total > 0)


def require_pair(
    first: ArrayLike, second: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both rasters as booleans.

    Raises:
        ValueError: the shapes differ or are not (T, B, N).
    """
    one, other = np.asarray(first) > 0, np.asarray(second) > 0
    if one.ndim != 3 or one.shape != other.shape:
        msg = f"rasters of shape {one.shape} and {other.shape} must both be (T, B, N)"
        raise ValueError(msg)
    return one, other


def _trains(raster: NDArray[np.bool_], n_steps: int) -> _Trains:
    train, step = np.nonzero(raster.reshape(n_steps, -1).T)
    gap = np.where(train[1:] == train[:-1], np.diff(step), n_steps)
    interval = np.minimum(np.append(n_steps, gap), np.append(gap, n_steps))
    return _Trains(train, step, interval[: len(step)])


def _coincident(mine: _Trains, theirs: _Trains, n_steps: int) -> NDArray[np.bool_]:
    """Return which spikes have a coincident one, which can only be a neighbor in time."""
    found = np.zeros(len(mine.step), dtype=bool)
    if not len(theirs.step):
        return found
    keys = (one.train * n_steps + one.step for one in (mine, theirs))
    after = np.searchsorted(*reversed(tuple(keys)))
    for place in (after - 1, after):
        near = np.clip(place, 0, len(theirs.step) - 1)
        distance = np.abs(theirs.step[near] - mine.step)
        window = np.minimum(mine.interval, theirs.interval[near])
        found |= (theirs.train[near] == mine.train) & (2 * distance < window)
    return found
