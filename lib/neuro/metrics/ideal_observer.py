"""The best that any reader of receptor spike counts could do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuro.spiking.odor_trials import OdorLaw

N_DURATIONS = 44


def ideal_observer_decisions(
    counts: NDArray[np.int64], law: OdorLaw, response: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Name the odor of each trial by maximum likelihood, knowing all rates but not the duration.

    Reads how often each neuron fired during the trial, not when. Counts are Poisson given odor and
    duration; the likelihood is maximal over odor and 44 durations jointly. Neurons with equal
    responses to all odors are merged, which loses nothing.

    Args:
        counts: spikes in the whole trial, shape (trial, N).
        law: rates and times.
        response: of each neuron to each odor, shape (C, N).

    Returns:
        Classes, 0 .. C - 1, shape (trial,); of equals the smallest.
    """
    columns, member = np.unique(response, axis=1, return_inverse=True)
    group = np.eye(columns.shape[1])[member.ravel()]
    merged = counts @ group
    size = group.sum(axis=0)
    driven_hz = law.driven_hz(columns)
    grid_s = np.linspace(law.duration_min_ms, law.duration_end_ms, N_DURATIONS) / 1000
    best = np.full((len(counts), len(response)), -np.inf)
    for duration_s in grid_s:
        expected = size * (law.baseline_hz * law.trial_ms / 1000 + driven_hz * duration_s)
        likelihood = merged @ np.log(expected).T - expected.sum(axis=1)
        np.maximum(best, likelihood, out=best)
    return best.argmax(axis=1)
