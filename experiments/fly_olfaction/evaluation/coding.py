"""Measures of the population code that only the comparison with publications needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.activity import as_json
from evaluation.responses import layer_counts
from neuro.metrics.estimate import Estimate, jackknife, share
from neuro.metrics.similarity import mean_by_odor, odor_pair_correlation

if TYPE_CHECKING:
    from evaluation.responses import Responses

ENSEMBLE = 25  # Kenyon cells
ENSEMBLE_DRAWS = 2000
MOST_TUNING_CURVES = 1000


def measure_coding(responses: Responses, generator: np.random.Generator) -> dict[str, Any]:
    """Measure how constant, how informative and how redundant the codes are.

    Returns:
        kc_variation and pn_variation: coefficient of variation, over odors, of the share of active
        cells; kc_ensemble: trials in which 25 Kenyon cells tell two odors apart; kc_tuning and,
        where there are any, mbon_tuning: mean correlation of the tuning curves of two cells.
    """
    counts = layer_counts(responses)
    found = {
        "kc_variation": as_json(variation(counts["KC"], responses.label)),
        "pn_variation": as_json(variation(counts["ALPN"], responses.label)),
        "kc_ensemble": as_json(tell_apart(counts["KC"], responses.label, generator)),
        "kc_tuning": as_json(tuning_correlation(counts["KC"], responses.label)),
    }
    if "MBON" in counts:
        found["mbon_tuning"] = as_json(tuning_correlation(counts["MBON"], responses.label))
    return found


def variation(counts: np.ndarray, label: np.ndarray) -> Estimate:
    """Return the coefficient of variation, over odors, of the mean share of active cells.

    The error leaves out each odor in turn; n counts the odors.
    """
    active = mean_by_odor((counts > 0).mean(axis=1, keepdims=True), label).response[:, 0]
    if len(active) < 3 or not active.any():
        return Estimate(math.nan, math.nan, len(active))

    def coefficient(values: np.ndarray) -> float:
        return float(values.std(ddof=1) / values.mean()) if values.any() else math.nan

    without = [coefficient(np.delete(active, odor)) for odor in range(len(active))]
    return jackknife(coefficient(active), without)


def tell_apart(counts: np.ndarray, label: np.ndarray, generator: np.random.Generator) -> Estimate:
    """Return how often 25 random cells tell which of two random odors a trial presented.

    The trial is compared with the mean of the odor's other trials and that of as many trials of the
    other odor, since a mean of more trials would be nearer to everything; a tie is decided by
    chance. Draws share trials, so the binomial error is somewhat too small.

    Args:
        counts: spikes, shape (trial, cell).
        label: odor of each trial; odors of a single trial are left out.
        generator: of cells, odors, trials and ties.
    """
    odors, times = np.unique(label, return_counts=True)
    odors = odors[times > 1]
    if len(odors) < 2 or counts.shape[1] < ENSEMBLE:
        return Estimate(math.nan, math.nan, 0)
    trials = {int(odor): np.flatnonzero(label == odor) for odor in odors}
    right = []
    for _ in range(ENSEMBLE_DRAWS):
        cells = generator.choice(counts.shape[1], ENSEMBLE, replace=False)
        first, second = (trials[int(odor)] for odor in generator.choice(odors, 2, replace=False))
        first, second = generator.permutation(first), generator.permutation(second)
        n_trials = min(len(first), len(second)) - 1
        seen = first[-1]
        means = [counts[np.ix_(rows[:n_trials], cells)].mean(axis=0) for rows in (first, second)]
        own, other = (float(((counts[seen, cells] - mean) ** 2).sum()) for mean in means)
        right.append(own < other if own != other else generator.random() < 0.5)
    return share(right)


def tuning_correlation(counts: np.ndarray, label: np.ndarray) -> Estimate:
    """Return the mean correlation, over pairs of cells, of their mean responses to all odors.

    The error leaves out each cell in turn; n counts the cells that respond differently to different
    odors, of which at most about a thousand, evenly spaced, are taken.
    """
    means = mean_by_odor(counts, label).response
    step = -(-means.shape[1] // MOST_TUNING_CURVES)
    return odor_pair_correlation(means[:, :: max(step, 1)].T)
