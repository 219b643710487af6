"""How well two simulations of one network agree."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class SpikeCountAgreement(NamedTuple):
    """Of the spike counts of all units in all trials.

    Attributes:
        correlation: Pearson's; NaN where either has the same count everywhere.
        equal_fraction: share of counts that are the same.
        spikes, other_spikes: of either.
    """

    correlation: float
    equal_fraction: float
    spikes: int
    other_spikes: int


def compare_spike_counts(spikes: ArrayLike, others: ArrayLike) -> SpikeCountAgreement:
    """Compare the rasters of two simulations with the same input.

    Args:
        spikes: of one, shape (T, B, N).
        others: of the other, the same shape.

    Raises:
        ValueError: shapes differ.
    """
    rasters = [np.asarray(one) for one in (spikes, others)]
    if rasters[0].shape != rasters[1].shape or rasters[0].ndim != 3:
        msg = f"rasters have shapes {rasters[0].shape} and {rasters[1].shape}; both are (T, B, N)"
        raise ValueError(msg)
    first, second = (one.sum(axis=0, dtype=np.float64).reshape(-1) for one in rasters)
    varied = min(np.ptp(first), np.ptp(second)) > 0 if first.size else False
    return SpikeCountAgreement(
        correlation=float(np.corrcoef(first, second)[0, 1]) if varied else math.nan,
        equal_fraction=float(np.mean(first == second)) if first.size else math.nan,
        spikes=int(first.sum()),
        other_spikes=int(second.sum()),
    )
