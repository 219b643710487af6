"""How regularly, how variably and how synchronously neurons fire."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.metrics.activity import pair_correlation
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Fewer intervals have no spread.
_LEAST_INTERVALS = 2


class Intervals(NamedTuple):
    """Times between consecutive spikes of a neuron in a trial, sorted by neuron.

    Attributes:
        length_ms: shape (interval,).
        unit: whose, 0 .. N - 1, shape (interval,).
    """

    length_ms: NDArray[np.float64]
    unit: NDArray[np.int64]


def firing_rates_hz(spikes: ArrayLike, *, dt_ms: float) -> NDArray[np.float64]:
    """Return the rate of each neuron over all time and trials, shape (N,).

    Args:
        spikes: 0 or 1, shape (T, B, N), as everywhere in this file.
        dt_ms: length of a time step, as everywhere in this file.

    Raises:
        ValueError: the spikes have not the axes (T, B, N), as everywhere in this file.
    """
    raster = _raster(spikes)
    return raster.mean(axis=(0, 1), dtype=np.float64) * (MS_PER_S / dt_ms)


def interspike_intervals(spikes: ArrayLike, *, dt_ms: float) -> Intervals:
    """Measure the intervals between consecutive spikes; none spans two trials."""
    raster = _raster(spikes)
    unit, trial, step = np.nonzero(raster.transpose(2, 1, 0))
    same = (np.diff(unit) == 0) & (np.diff(trial) == 0)
    return Intervals(np.diff(step)[same] * float(dt_ms), unit[1:][same])


def interval_cv(spikes: ArrayLike) -> NDArray[np.float64]:
    """Return each neuron's coefficient of variation of its intervals, shape (N,).

    CV = standard deviation / mean, intervals of all trials pooled: 0 for a clock, 1 for a Poisson
    process in continuous time, sqrt(1 - p) for one of probability p a step. NaN for neurons with
    fewer than two intervals. Intervals longer than a trial cannot be seen, which makes the CV of
    slow neurons in short trials too small.
    """
    length, unit = interspike_intervals(spikes, dt_ms=1.0)
    n_units = np.shape(spikes)[2]
    count = np.bincount(unit, minlength=n_units)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(unit, length, n_units) / count
        variance = np.bincount(unit, (length - mean[unit]) ** 2, n_units) / count
        cv = np.sqrt(variance) / mean
    return np.where(count >= _LEAST_INTERVALS, cv, np.nan)


def interval_histogram(
    spikes: ArrayLike, edges_ms: ArrayLike, *, dt_ms: float
) -> NDArray[np.int64]:
    """Count the intervals of all neurons between each two edges.

    Args:
        spikes: 0 or 1, shape (T, B, N).
        edges_ms: K + 1 rising edges; a bin holds its lower edge, the last one both. Intervals are
            whole multiples of dt, so edges halfway between two multiples are safest.
        dt_ms: length of a time step.

    Returns:
        Counts, shape (K,).
    """
    length_ms = interspike_intervals(spikes, dt_ms=dt_ms).length_ms
    return np.histogram(length_ms, np.asarray(edges_ms, dtype=np.float64))[0].astype(np.int64)


def fano_factors(spikes: ArrayLike, *, window_ms: float, dt_ms: float) -> NDArray[np.float64]:
    """Return each neuron's variance over mean of spike counts in windows, shape (N,).

    Windows of all trials are pooled; the variance is the unbiased one; steps after the last full
    window are left out. 1 for a Poisson process, 0 for a clock whose interval divides the window.
    NaN for silent neurons.

    Raises:
        ValueError: a window is shorter than a step, or there are fewer than two.
    """
    counts = _window_counts(spikes, window_ms=window_ms, dt_ms=dt_ms)
    counts = counts.reshape(-1, counts.shape[2])
    if len(counts) < 2:
        msg = f"window_ms = {window_ms!r} leaves {len(counts)} windows; a variance needs two"
        raise ValueError(msg)
    mean = counts.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return counts.var(axis=0, ddof=1) / mean


def synchrony_chi(signal: ArrayLike) -> NDArray[np.float64]:
    """Return how far each trial's population fluctuates as one, shape (B,).

        chi^2 = Var_t(mean_i x_i) / mean_i Var_t(x_i)

    1: all neurons alike; about 1 / sqrt(N): independent. Golomb & Rinzel 1994,
    doi:10.1016/0167-2789(94)90214-3; Golomb 2007, doi:10.4249/scholarpedia.1347.

    Args:
        signal: potentials, or spikes filtered or counted in windows, shape (T, B, N).

    Returns:
        chi, 0 .. 1; NaN for trials in which nothing changes.
    """
    values = _raster(signal).astype(np.float64)
    together = values.mean(axis=2).var(axis=0)
    alone = values.var(axis=0).mean(axis=1)
    with np.errstate(invalid="ignore"):
        return np.sqrt(together / alone)


def pair_synchrony(spikes: ArrayLike, *, window_ms: float, dt_ms: float) -> float:
    """Return the mean correlation of spike counts over pairs of neurons.

    Pearson's correlation over the windows of all trials. Neurons whose count never changes
    correlate with nothing and do not count; NaN when fewer than two are left.

    Raises:
        ValueError: a window is shorter than a step or longer than the trial.
    """
    counts = _window_counts(spikes, window_ms=window_ms, dt_ms=dt_ms)
    return pair_correlation(counts.reshape(-1, counts.shape[2]).T)


def _window_counts(spikes: ArrayLike, *, window_ms: float, dt_ms: float) -> NDArray[np.int64]:
    """Count spikes in consecutive windows, shape (window, B, N)."""
    raster = _raster(spikes)
    n_steps = round(window_ms / dt_ms)
    if not 1 <= n_steps <= len(raster):
        msg = (
            f"window_ms = {window_ms!r} is {n_steps} steps of {dt_ms!r} ms; it must be between one "
            f"and the trial's {len(raster)}"
        )
        raise ValueError(msg)
    n_windows = len(raster) // n_steps
    windows = raster[: n_windows * n_steps].reshape(n_windows, n_steps, *raster.shape[1:])
    return windows.sum(axis=1, dtype=np.int64)


def _raster(values: ArrayLike) -> NDArray:
    raster = np.asarray(values)
    if raster.ndim != 3 or not raster.size:
        msg = f"an array of shape {raster.shape} was given; it must be (T, B, N), none of them zero"
        raise ValueError(msg)
    return raster
