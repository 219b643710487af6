"""The coincidence factor gamma: spikes reproduced within a precision, less what chance gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.metrics.spike_synchrony import require_pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def gamma_coincidence(
    model: ArrayLike, data: ArrayLike, *, precision_ms: float, dt_ms: float
) -> NDArray[np.float64]:
    """Return gamma of each unit, over all its trials.

        gamma = (N_coinc - <N_coinc>) / ((N_data + N_model) / 2) / (1 - 2 nu Delta)
        <N_coinc> = 2 nu Delta N_data

    N_coinc is the number of pairs of a spike of the model and one of the data, at most
    `precision_ms` apart and each in one pair; <N_coinc> is what a Poisson process of the model's
    rate nu would give where nu is low. 1 is perfect, 0 is chance; at high rates chance is a little
    below 0, as a spike makes one pair at most. Kistler, Gerstner & van Hemmen 1997,
    doi:10.1162/neco.1997.9.5.1015; Jolivet et al. 2006, doi:10.1007/s10827-006-7074-5.

    In steps of dt, spikes at most w steps apart fall into a window of 2 w + 1 steps: that is
    2 Delta here, so that chance is what chance gives in steps too.

    Args:
        model: spikes, 0 or 1, shape (T, B, N).
        data: spikes to be reproduced, the same shape.
        precision_ms: >= 0; commonly 2 to 5.
        dt_ms: length of a step.

    Returns:
        Shape (N,); NaN for units that never spike in either, or spike so often that a window holds
        a spike by chance (2 nu Delta >= 1).

    Raises:
        ValueError: the shapes differ or are not (T, B, N), or the precision is negative.
    """
    mine, theirs = require_pair(model, data)
    if not precision_ms >= 0:
        msg = f"precision_ms = {precision_ms!r} must be >= 0"
        raise ValueError(msg)
    # 4 ms in steps of 0.1 ms are 40 steps, whatever the division leaves.
    window = int(precision_ms / dt_ms + 1e-9)
    n_steps, n_trials, n_units = mine.shape
    n_model, n_data = (one.sum(axis=(0, 1)).astype(float) for one in (mine, theirs))
    chance = n_model / (n_steps * n_trials) * (2 * window + 1)
    excess = _count_pairs(mine, theirs, window) - chance * n_data
    scale = (n_data + n_model) / 2 * (1 - chance)
    defined = (n_data + n_model > 0) & (chance < 1)
    return np.divide(excess, scale, out=np.full(n_units, np.nan), where=defined)


def _count_pairs(
    first: NDArray[np.bool_], second: NDArray[np.bool_], window: int
) -> NDArray[np.int64]:
    """Pair the spikes of each train from the left, which no other way to pair outnumbers; (N,)."""
    n_steps, _, n_units = first.shape
    # Trains one after the other on one axis of time, too far apart to be paired.
    length = n_steps + window + 1
    left, right = (
        (train * length + step).tolist()
        for train, step in (np.nonzero(one.reshape(n_steps, -1).T) for one in (first, second))
    )
    paired: list[int] = []
    i = j = 0
    while i < len(left) and j < len(right):
        distance = left[i] - right[j]
        if abs(distance) <= window:
            paired.append(left[i])
        i, j = i + (distance <= window), j + (distance >= -window)
    return np.bincount(np.array(paired, dtype=np.int64) // length % n_units, minlength=n_units)
