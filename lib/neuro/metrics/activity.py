"""How active, how sparse and how separate the responses of a population are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def active_fraction(counts: ArrayLike) -> float:
    """Return the share of cells of `counts`, shape (trial, unit), with at least one spike."""
    return float((np.asarray(counts) > 0).mean())


def sparseness(rates: ArrayLike, *, axis: int) -> NDArray[np.float64]:
    """Return Treves and Rolls' sparseness along an axis.

        S = 1 - <r>^2 / <r^2>

    0: equal responses; near 1: one response alone. Treves and Rolls 1991,
    doi:10.1088/0954-898X_2_4_004, whose a is 1 - S.

    Args:
        rates: responses >= 0, shape (stimulus, unit).
        axis: 0: lifetime sparseness of each unit, over stimuli; 1: population sparseness of each
            stimulus, over units.

    Returns:
        One value for each place of the other axis; NaN where there is no response at all.
    """
    values = np.asarray(rates, dtype=np.float64)
    squared = (values**2).mean(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - values.mean(axis=axis) ** 2 / squared


def lifetime_sparseness(counts: ArrayLike) -> float:
    """Return the mean over units of their `sparseness` over stimuli.

    Args:
        counts: responses >= 0, shape (stimulus, unit). Units that never respond have no S and do
            not count.

    Returns:
        The mean, or NaN when no unit responds.
    """
    return _mean_of_defined(sparseness(counts, axis=0))


def population_sparseness(counts: ArrayLike) -> float:
    """Return the mean over stimuli of their `sparseness` over units.

    Args:
        counts: responses >= 0, shape (stimulus, unit). Stimuli without any response do not count.

    Returns:
        The mean, or NaN when nothing responds.
    """
    return _mean_of_defined(sparseness(counts, axis=1))


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def pair_correlation(counts: ArrayLike) -> float:
    """Return the mean correlation between the population vectors of two different stimuli.

    Args:
        counts: responses, shape (stimulus, unit). Stimuli to which all units respond alike, as by
            silence, correlate with nothing and do not count.

    Returns:
        The mean over pairs, or NaN when there is none.
    """
    rates = np.asarray(counts, dtype=np.float64)
    centered = rates - rates.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centered, axis=1, keepdims=True)
    unit = centered[norm[:, 0] > 0] / norm[norm[:, 0] > 0]
    n = len(unit)
    return float(((unit @ unit.T).sum() - n) / (n * (n - 1))) if n > 1 else math.nan


def standard_error(share: float, n: int) -> float:
    """Return the binomial standard error of a share of n independent trials."""
    return math.sqrt(share * (1 - share) / n)
