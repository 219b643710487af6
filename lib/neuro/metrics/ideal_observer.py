"""The best that any reader of receptor spikes could do."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from neuro.spiking.odor_samples import OdorSamples
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
        law: rates and times, with a baseline above 0 Hz.
        response: of each neuron to each odor, shape (C, N).

    Returns:
        Classes, 0 .. C - 1, shape (trial,); of equals the smallest.

    Raises:
        ValueError: there is no baseline, or the numbers of neurons differ.
    """
    if counts.ndim != 2 or counts.shape[1] != response.shape[1]:
        msg = f"counts has shape {counts.shape}, response {response.shape}; both end with neurons"
        raise ValueError(msg)
    merged = _merge(law, response)
    grid_s = np.linspace(law.duration_min_ms, law.duration_end_ms, N_DURATIONS) / MS_PER_S
    driven_hz = law.driven_hz(merged.response)
    seen = np.stack([np.bincount(merged.member, row, len(merged.size)) for row in counts])
    best = np.full((len(counts), len(response)), -np.inf)
    for duration_s in grid_s:
        expected = merged.size * (
            law.baseline_hz * law.trial_ms / MS_PER_S + driven_hz * duration_s
        )
        likelihood = seen @ np.log(expected).T - expected.sum(axis=1)
        np.maximum(best, likelihood, out=best)
    return best.argmax(axis=1)


def ideal_observer_accuracy(samples: OdorSamples, ids: ArrayLike) -> float:
    """Return which share of these trials a reader of counts names right.

    Given the trials of a network, this is what its accuracy is to be compared with: both read the
    same spikes.

    Args:
        samples: all of them.
        ids: numbers of the trials, shape (n,).
    """
    decided = ideal_observer_decisions(samples.total_counts(ids), samples.law, samples.response)
    return float((decided == samples.label(ids)).mean())


def timed_observer_decisions(samples: OdorSamples, ids: ArrayLike) -> NDArray[np.int64]:
    """Name the odor of each trial from the times of all spikes, as well as can be done at all.

    It takes the odor with the highest probability given the spikes, all odors and durations being
    equally likely before: the rule with the highest accuracy there is (Bayes). Who reads counts
    only cannot tell a strong odor from a long one as well, so a network, which sees the times, may
    in principle do better than `ideal_observer_decisions`; better than this one only by luck.

    With p of a step of 1 ms with odor and p0 without, and K(d) the spikes of a neuron before d:

        log P(spikes | odor, d) = const + sum over neurons of K(d) w + d v
        bernoulli: w = log(p (1 - p0) / (p0 (1 - p))), v = log((1 - p) / (1 - p0))
        poisson:   w = log(p / p0),                    v = p0 - p

    Args:
        samples: all of them; the law has a baseline above 0 Hz.
        ids: numbers of the trials, shape (n,).

    Returns:
        Classes, 0 .. C - 1, shape (n,); of equals the smallest.

    Raises:
        ValueError: there is no baseline.
    """
    law = samples.law
    merged = _merge(law, samples.response)
    hazard, hazard_off = law.hazard(merged.response), law.hazard(np.zeros(1))
    if law.counts == "bernoulli":
        weight = np.log(np.expm1(hazard) / np.expm1(hazard_off))
    else:
        weight = np.log(hazard / hazard_off)
    silence = ((hazard_off - hazard) * merged.size).sum(axis=1)
    durations_ms = np.arange(law.duration_min_ms, law.duration_end_ms)
    shape = (law.trial_ms, len(merged.size))
    decided = []
    for k in np.asarray(ids, dtype=np.int64).tolist():
        time_ms, neuron = samples.spikes(k)
        cells = time_ms * shape[1] + merged.member[neuron]
        seen = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).cumsum(axis=0)
        # What was seen before d ends with step d - 1; nothing was seen before 0.
        before = np.where(durations_ms[:, None] > 0, seen[durations_ms - 1], 0)
        likelihood = before @ weight.T + durations_ms[:, None] * silence
        highest = likelihood.max(axis=0)
        decided.append((highest + np.log(np.exp(likelihood - highest).sum(axis=0))).argmax())
    return np.array(decided, dtype=np.int64)


class _Merged(NamedTuple):
    """Neurons with equal responses as one.

    Attributes:
        response: of each group to each odor, shape (C, G).
        member: the group of each neuron, shape (N,).
        size: neurons in each group, shape (G,).
    """

    response: NDArray[np.float64]
    member: NDArray[np.int64]
    size: NDArray[np.int64]


def _merge(law: OdorLaw, response: NDArray[np.float64]) -> _Merged:
    if not law.baseline_hz > 0:
        msg = (
            f"baseline_hz = {law.baseline_hz!r}: without a baseline one spike of a neuron that an "
            "odor does not drive rules the odor out; the ideal observer is made for rates above 0"
        )
        raise ValueError(msg)
    columns, member, size = np.unique(response, axis=1, return_inverse=True, return_counts=True)
    return _Merged(columns, member.ravel(), size)
