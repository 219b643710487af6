"""How active, how sparse and how separate the responses of a population are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def active_fraction(counts: ArrayLike) -> float:
    """Return the share of cells of `counts`, shape (trial, unit), with at least one spike."""
    return float((np.asarray(counts) > 0).mean())


def lifetime_sparseness(counts: ArrayLike) -> float:
    """Return the mean over units of Treves and Rolls' sparseness over stimuli.

        S = 1 - <r>^2 / <r^2>

    0: equal response to all; near 1: a response to one.

    Args:
        counts: responses >= 0, shape (stimulus, unit). Units that never respond have no S and do
            not count.

    Returns:
        The mean, or NaN when no unit responds.
    """
    rates = np.asarray(counts, dtype=np.float64)
    rates = rates[:, rates.any(axis=0)]
    if not rates.size:
        return math.nan
    return float(np.mean(1 - rates.mean(axis=0) ** 2 / (rates**2).mean(axis=0)))


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
