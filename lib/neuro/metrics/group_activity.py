"""How active, sparse and separate the responses of each group of units are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.metrics.activity import sparseness
from neuro.metrics.estimate import Estimate, clustered_mean, mean_of
from neuro.metrics.similarity import mean_by_odor, odor_pair_correlation, participation_ratio
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


class GroupActivity(NamedTuple):
    """The responses of one group, such as a cell class or type.

    Attributes:
        group: its name.
        n_units: of it.
        n_trials: that were presented.
        active_fraction: of unit and trial pairs with a spike; mean over trials, error over odors.
        rate_hz: spikes a second in the whole trial; mean over trials, error over odors.
        lifetime_sparseness: mean and error over units that ever respond, of their mean responses.
        population_sparseness: mean and error over odors, of mean responses.
        odor_correlation: of mean responses to two odors.
        participation_ratio: of mean responses.
    """

    group: str
    n_units: int
    n_trials: int
    active_fraction: Estimate
    rate_hz: Estimate
    lifetime_sparseness: Estimate
    population_sparseness: Estimate
    odor_correlation: Estimate
    participation_ratio: Estimate


def measure_group(
    group: str, counts: NDArray, label: ArrayLike, *, trial_ms: float
) -> GroupActivity:
    """Measure all units of `counts` as one group.

    Sparseness, correlation and participation ratio are those of the mean response to each odor;
    means of few trials still hold noise, which makes odors look more different than they are.

    Args:
        group: its name.
        counts: spikes in a trial, shape (trial, unit).
        label: odor of each trial, shape (trial,).
        trial_ms: length of a trial.
    """
    means = mean_by_odor(counts, label).response
    return GroupActivity(
        group,
        counts.shape[1],
        len(counts),
        clustered_mean((counts > 0).mean(axis=1), label),
        clustered_mean(counts.mean(axis=1) * (MS_PER_S / trial_ms), label),
        mean_of(sparseness(means, axis=0)),
        mean_of(sparseness(means, axis=1)),
        odor_pair_correlation(means),
        participation_ratio(means),
    )


def measure_groups(
    counts: NDArray, label: ArrayLike, groups: Sequence[str], *, trial_ms: float
) -> list[GroupActivity]:
    """Measure the units of each group, in alphabetical order of the groups.

    Args:
        counts: spikes in a trial, shape (trial, N).
        label: odor of each trial, shape (trial,).
        groups: of each unit, shape (N,).
        trial_ms: length of a trial.

    Raises:
        ValueError: there is not one group a unit.
    """
    member = np.asarray(groups, dtype=str)
    if member.shape != counts.shape[1:]:
        msg = f"groups names {member.size} units, counts has {counts.shape[1]}"
        raise ValueError(msg)
    return [
        measure_group(name, counts[:, member == name], label, trial_ms=trial_ms)
        for name in np.unique(member).tolist()
    ]
