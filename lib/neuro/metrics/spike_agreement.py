"""How well spike trains agree with those they are a guess of, unit by unit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuro.spiking.spike_trains import SpikeTrains


def coincidence(guess: SpikeTrains, true: SpikeTrains, *, window_ms: float, dt_ms: float) -> float:
    """Return the share of spikes that have a partner in the other train, at most a window away.

        2 * pairs / (guessed spikes + true spikes)

    As many pairs as possible are made, each spike in one at most, within a unit and a trial. It is
    the harmonic mean of the share of true spikes that were found and of guessed ones that are true.
    Unlike the coincidence factor of Kistler et al. 1997 (doi:10.1162/neco.1997.9.5.1015) it does
    not take off what chance gives: show a control beside it.

    Args:
        guess: spikes, as everywhere in this file.
        true: spikes of as many steps, trials and units, as everywhere in this file.
        window_ms: largest distance of two spikes that count as the same, >= 0.
        dt_ms: length of a time step.

    Returns:
        0 .. 1; NaN when there is no spike at all.

    Raises:
        ValueError: steps, trials or units differ, as everywhere in this file; or the window is
            negative.
    """
    _check(guess, true)
    if not window_ms >= 0:
        msg = f"window_ms = {window_ms!r} must be >= 0"
        raise ValueError(msg)
    n_spikes = len(guess.unit) + len(true.unit)
    if not n_spikes:
        return math.nan
    # 5 ms in steps of 0.1 ms are 50 steps, whatever the division leaves.
    window = math.floor(window_ms / dt_ms + 1e-9)
    return (
        2 * _count_pairs(_on_one_axis(guess, window), _on_one_axis(true, window), window) / n_spikes
    )


def rate_correlation(guess: SpikeTrains, true: SpikeTrains) -> float:
    """Return Pearson's correlation, over units, of how often each fired in all trials.

    Returns:
        -1 .. 1; NaN where either has the same number of spikes in all units.
    """
    _check(guess, true)
    counts = [trains.counts().sum(axis=0) for trains in (guess, true)]
    if min(np.ptp(count) for count in counts) == 0:
        return math.nan
    return float(np.corrcoef(*counts)[0, 1])


def count_differing(first: SpikeTrains, second: SpikeTrains) -> int:
    """Return how many spikes, each at its step, only one of both has."""
    _check(first, second)
    return len(np.setxor1d(first.places(), second.places(), assume_unique=True))


def _on_one_axis(trains: SpikeTrains, window: int) -> NDArray[np.int64]:
    """Return all spikes on one axis of time, where trains lie too far apart to be paired."""
    step = np.repeat(np.arange(trains.n_steps), np.diff(trains.offsets))
    train = trains.unit.astype(np.int64) * trains.n_trials + trains.trial
    return np.sort(train * (trains.n_steps + window + 1) + step)


def _count_pairs(first: NDArray[np.int64], second: NDArray[np.int64], window: int) -> int:
    """Pair two rising sequences from the left, which no other way to pair outnumbers."""
    left, right = first.tolist(), second.tolist()
    i = j = pairs = 0
    while i < len(left) and j < len(right):
        distance = left[i] - right[j]
        pairs += abs(distance) <= window
        i, j = i + (distance <= window), j + (distance >= -window)
    return pairs


def _check(first: SpikeTrains, second: SpikeTrains) -> None:
    sizes = [(one.n_steps, one.n_trials, one.n_units) for one in (first, second)]
    if sizes[0] != sizes[1]:
        msg = f"spike trains of (steps, trials, units) = {sizes[0]} and {sizes[1]} must be alike"
        raise ValueError(msg)
