"""Measured values with their standard error and how many observations are behind them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Estimate(NamedTuple):
    """A measured value.

    Attributes:
        value: NaN where nothing could be measured.
        error: standard error; NaN where there are fewer than two observations.
        n: independent observations: trials, odors, units or seeds, as each function says.
    """

    value: float
    error: float
    n: int


NOTHING = Estimate(math.nan, math.nan, 0)


def share(hits: ArrayLike) -> Estimate:
    """Return the share of hits among independent trials, with its binomial standard error.

    Args:
        hits: true or false, shape (trial,); n counts the trials.
    """
    found = np.asarray(hits, dtype=bool)
    if not found.size:
        return NOTHING
    value = float(found.mean())
    return Estimate(value, math.sqrt(value * (1 - value) / found.size), found.size)


def mean_of(values: ArrayLike) -> Estimate:
    """Return the mean of independent observations and its standard error.

        s / sqrt(n), s with n - 1 degrees of freedom

    Args:
        values: shape (observation,); NaN is left out and not counted.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return NOTHING
    n = numbers.size
    error = float(numbers.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(numbers.mean()), error, n)


def clustered_mean(values: ArrayLike, cluster: ArrayLike) -> Estimate:
    """Return the mean over all trials; those of one cluster, such as an odor, are not independent.

    With G clusters and deviations from the mean summed in each,

        error^2 = G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2 / N^2

    With one trial a cluster it is the usual error of a mean. Liang and Zeger 1986,
    doi:10.1093/biomet/73.1.13.

    Args:
        values: shape (trial,).
        cluster: whole numbers >= 0, shape (trial,); n counts the clusters.
    """
    numbers, member = np.asarray(values, dtype=np.float64), np.asarray(cluster)
    if not numbers.size:
        return NOTHING
    value = float(numbers.mean())
    present, code = np.unique(member, return_inverse=True)
    n = len(present)
    if n < 2:
        return Estimate(value, math.nan, n)
    summed = np.bincount(code, numbers - value, minlength=n)
    error = math.sqrt(n / (n - 1) * float((summed**2).sum())) / numbers.size
    return Estimate(value, error, n)


def jackknife(value: float, without: ArrayLike) -> Estimate:
    """Return a statistic with the standard error that leaving out each observation gives.

        error^2 = (n - 1) / n * sum_i (t_i - mean)^2

    Efron and Stein 1981, doi:10.1214/aos/1176345462.

    Args:
        value: the statistic of all observations.
        without: the statistic without each observation, shape (n,).
    """
    left = np.asarray(without, dtype=np.float64)
    n = left.size
    if n < 2 or not np.isfinite(left).all():
        return Estimate(value, math.nan, n)
    return Estimate(value, math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum())), n)
