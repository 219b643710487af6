"""Firing statistics of spike trains that are kept as events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuro.spiking.spike_trains import SpikeTrains

_LEAST_INTERVALS = 2


def train_rates_hz(trains: SpikeTrains, *, dt_ms: float) -> NDArray[np.float64]:
    """Return the rate of each unit over all time and trials, shape (N,)."""
    duration_s = trains.n_trials * trains.n_steps * dt_ms / MS_PER_S
    return trains.counts().sum(axis=0) / duration_s


def train_window_counts(
    trains: SpikeTrains, *, window_ms: float, dt_ms: float
) -> NDArray[np.int64]:
    """Count spikes in consecutive windows; steps after the last full one are left out.

    With steps of a window, the counts are what metrics.firing takes for spikes.

    Returns:
        Counts, shape (window, B, N).

    Raises:
        ValueError: a window is shorter than a step or longer than the trains.
    """
    n_steps = round(window_ms / dt_ms)
    if not 1 <= n_steps <= trains.n_steps:
        msg = (
            f"window_ms = {window_ms!r} is {n_steps} steps of {dt_ms!r} ms; it must be between one "
            f"and the {trains.n_steps} of the trains"
        )
        raise ValueError(msg)
    firsts = range(0, trains.n_steps - n_steps + 1, n_steps)
    return np.stack([trains.span(first, first + n_steps).counts() for first in firsts])


def train_cv(trains: SpikeTrains) -> NDArray[np.float64]:
    """Return each unit's coefficient of variation of its intervals, shape (N,).

    As metrics.firing.interval_cv: intervals within trials, pooled; NaN for fewer than two.
    """
    step = np.repeat(np.arange(trains.n_steps), np.diff(trains.offsets))
    order = np.lexsort((step, trains.trial, trains.unit))
    step, trial, unit = step[order], trains.trial[order], trains.unit[order]
    same = (np.diff(unit) == 0) & (np.diff(trial) == 0)
    length, unit = np.diff(step)[same].astype(float), unit[1:][same]
    count = np.bincount(unit, minlength=trains.n_units)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(unit, length, trains.n_units) / count
        variance = np.bincount(unit, (length - mean[unit]) ** 2, trains.n_units) / count
        cv = np.sqrt(variance) / mean
    return np.where(count >= _LEAST_INTERVALS, cv, np.nan)
