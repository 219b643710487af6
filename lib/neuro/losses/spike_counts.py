"""Bounds on how often neurons spike in a trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SpikeCountBounds:
    """Both bounds as one loss; values as published for the fly's olfactory network.

        loss = lower_strength * lower_bound_l2 + upper_strength * upper_bound_l1

    Attributes:
        lower: spikes that a neuron should have in each trial at least.
        lower_strength: factor, >= 0.
        upper: spikes a neuron that a population should have in each trial at most, on average.
        upper_strength: factor, >= 0.
    """

    lower: float = 1e-3
    lower_strength: float = 100.0
    upper: float = 500.0
    upper_strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse bounds that leave no room.

        Raises:
            ValueError: the lower bound is above the upper one, or a strength is negative.
        """
        if not 0 <= self.lower <= self.upper:
            msg = f"bounds must be 0 <= lower <= upper, not {self.lower!r} and {self.upper!r}"
            raise ValueError(msg)
        if min(self.lower_strength, self.upper_strength) < 0:
            msg = f"strengths {self.lower_strength!r}, {self.upper_strength!r} must be >= 0"
            raise ValueError(msg)

    def __call__(
        self, counts: torch.Tensor, population: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss, shape (); the arguments are those of `upper_bound_l1`."""
        low = lower_bound_l2(counts, self.lower)
        high = upper_bound_l1(counts, self.upper, population)
        return self.lower_strength * low + self.upper_strength * high


def lower_bound_l2(counts: torch.Tensor, bound: float) -> torch.Tensor:
    """Return the mean over trials and neurons of max(0, bound - n)^2.

    With a bound far below one spike it wakes neurons that are silent in a trial and leaves all
    others alone. After Rossbroich et al. 2022, doi:10.1088/2634-4386/ac97bb.

    Args:
        counts: spikes n of each neuron in each trial, shape (B, N), with their gradient.
        bound: in spikes.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the counts have not the axes (B, N).
    """
    _require_counts(counts)
    return (bound - counts).relu().square().mean()


def upper_bound_l1(
    counts: torch.Tensor, bound: float, population: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean over trials and populations of max(0, m - bound).

    m is the mean count of a population's neurons in a trial: the bound holds for the population,
    while single neurons may go beyond. After Rossbroich et al. 2022, doi:10.1088/2634-4386/ac97bb.

    Args:
        counts: spikes of each neuron in each trial, shape (B, N), with their gradient.
        bound: in spikes a neuron.
        population: of each neuron, numbers from 0 up without gaps, shape (N,); None makes all
            neurons one.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the counts have not the axes (B, N), or the populations do not fit them.
    """
    _require_counts(counts)
    mean = counts.mean(dim=1) if population is None else _population_means(counts, population)
    return (mean - bound).relu().mean()


def _population_means(counts: torch.Tensor, population: torch.Tensor) -> torch.Tensor:
    """Return the mean count of each population's neurons in each trial, shape (B, populations)."""
    if population.shape != counts.shape[1:]:
        msg = (
            f"population has shape {tuple(population.shape)}; give one number for each of the "
            f"{counts.shape[1]} neurons"
        )
        raise ValueError(msg)
    size = population.bincount().to(counts.dtype)
    if not size.all():
        missing = int((size == 0).nonzero()[0])
        msg = f"population {missing!r} has no neuron; number them from 0 up without gaps"
        raise ValueError(msg)
    sums = counts.new_zeros(counts.shape[0], len(size)).index_add(1, population, counts)
    return sums / size


def _require_counts(counts: torch.Tensor) -> None:
    if counts.ndim != 2 or not counts.numel():
        msg = f"counts has shape {tuple(counts.shape)}; it must be (B, N), none of them zero"
        raise ValueError(msg)
