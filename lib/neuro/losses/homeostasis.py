"""What a network is asked for before it models anything: rates, irregularity, balance."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from neuro.losses.cv import cv_loss
from neuro.losses.firing_rate import SOFTENING_HZ, firing_rate_loss, mean_rate_hz
from neuro.losses.membrane_variance import membrane_variance_loss
from neuro.losses.silent import silent_neuron_loss
from neuro.losses.weight_ratio import weight_ratio_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neuro.spiking.simulate import Simulation


@dataclass(frozen=True)
class CellTargets:
    """What is asked of cells of a type.

    Attributes:
        rate_hz: mean rate, >= 0.
        silence_alpha_s: steepness of the penalty for silent cells, see `silent_neuron_loss`.
        membrane_ratio: fluctuation over distance to threshold, see `membrane_variance_loss`.
    """

    rate_hz: float
    silence_alpha_s: float
    membrane_ratio: float


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses in their sum; what has 0 is neither computed nor logged.

    Attributes:
        firing_rate: see `firing_rate_loss`.
        cv: see `cv_loss`; its target is 1.
        silent: see `silent_neuron_loss`.
        membrane_variance: see `membrane_variance_loss`.
        weight_ratio: see `weight_ratio_loss`.
    """

    firing_rate: float
    cv: float
    silent: float
    membrane_variance: float
    weight_ratio: float

    def __post_init__(self) -> None:
        """Refuse negative factors, which would reward what is to be avoided.

        Raises:
            ValueError: there is one.
        """
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                msg = f"the weight of loss {field.name} is {getattr(self, field.name)!r}, below 0"
                raise ValueError(msg)


def split_rate_loss(spikes: torch.Tensor, target_hz: torch.Tensor, *, dt_ms: float) -> torch.Tensor:
    """Return the mean over neurons of (r_a - r*) (r_b - r*) / (r* + 1 Hz), in Hz.

    r_a and r_b are the rates in the even and in the odd trials. Their chance errors are
    independent, so the expectation is that of `firing_rate_loss` for endless data. The square of
    one rate counts the variance of chance as error, F r / T for a Fano factor F and T seconds in
    all, which is least for neurons that fire too little: rates settle about F / (2 T) too low.

    Args:
        spikes: 0 or 1, shape (T, B, N), of at least two trials.
        target_hz: r*, shape (N,).
        dt_ms: length of a time step.

    Returns:
        The loss, shape (); by chance it may be below zero.

    Raises:
        ValueError: there is one trial only.
    """
    if spikes.shape[1] < 2:
        msg = f"spikes has shape {tuple(spikes.shape)}; to split trials there must be two"
        raise ValueError(msg)
    even, odd = (mean_rate_hz(spikes[:, half::2], dt_ms=dt_ms) - target_hz for half in (0, 1))
    return (even * odd / (target_hz + SOFTENING_HZ)).mean()


class HomeostaticLoss:
    """The losses of a chunk by name.

    Args:
        targets: by cell type.
        type_names: of the cell types, a type's id is its place.
        type_ids: of the cells, shape (N,).
        threshold: of the cells in the unit of potentials, shape (N,).
        weights: factors of the losses.
        weight_ratio: target of mean excitatory recurrent over mean feed-forward weight.
        dt_ms: length of a step.
        split_trials: see `split_rate_loss`.

    Raises:
        ValueError: a cell type has no targets, or targets are of no type.
    """

    def __init__(
        self,
        targets: Mapping[str, CellTargets],
        *,
        type_names: list[str],
        type_ids: torch.Tensor,
        threshold: torch.Tensor,
        weights: LossWeights,
        weight_ratio: float,
        dt_ms: float,
        split_trials: bool = False,
    ) -> None:
        """Spread the targets over the cells; see the class."""
        if sorted(targets) != sorted(type_names):
            msg = (
                f"there are targets for {sorted(targets)}; the cell types are {sorted(type_names)}"
            )
            raise ValueError(msg)
        rows = [targets[name] for name in type_names]
        self.weights, self.weight_ratio, self.dt_ms = weights, weight_ratio, dt_ms
        self.split_trials = split_trials
        self.rate_hz = torch.tensor([row.rate_hz for row in rows])[type_ids]
        self.alpha_s = torch.tensor([row.silence_alpha_s for row in rows])[type_ids]
        cells = [(type_ids == number).nonzero()[:, 0] for number in range(len(rows))]
        self._membrane = [
            (own, threshold[own], row.membrane_ratio)
            for own, row in zip(cells, rows, strict=True)
            if len(own)
        ]

    @property
    def needs_potential(self) -> bool:
        """Whether the simulation has to record potentials."""
        return self.weights.membrane_variance > 0

    def __call__(
        self, simulation: Simulation, *, recurrent: torch.Tensor, feedforward: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return each loss that has a weight, not yet multiplied by it.

        Args:
            simulation: of the chunk.
            recurrent: weights of excitatory synapses among cells, shape (E,).
            feedforward: weights of the inputs, shape (F,).
        """
        spikes, dt_ms = simulation.spikes, self.dt_ms
        losses = {
            "firing_rate": lambda: self._rate_error(spikes),
            "cv": lambda: cv_loss(spikes),
            "silent": lambda: silent_neuron_loss(spikes, self.alpha_s, dt_ms=dt_ms),
            "membrane_variance": lambda: self._fluctuation(simulation.potential),
            "weight_ratio": lambda: weight_ratio_loss(
                recurrent, feedforward, target=self.weight_ratio
            ),
        }
        return {name: loss() for name, loss in losses.items() if getattr(self.weights, name) > 0}

    def total(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum."""
        parts = [getattr(self.weights, name) * value for name, value in losses.items()]
        return torch.stack(parts).sum()

    def _rate_error(self, spikes: torch.Tensor) -> torch.Tensor:
        loss = split_rate_loss if self.split_trials else firing_rate_loss
        return loss(spikes, self.rate_hz, dt_ms=self.dt_ms)

    def _fluctuation(self, potential: torch.Tensor | None) -> torch.Tensor:
        """Return the mean over all cells, whose aims differ by type."""
        if potential is None:
            msg = "the membrane-variance loss needs potentials: simulate with record_potential"
            raise ValueError(msg)
        parts = [
            len(own) * membrane_variance_loss(potential[:, :, own], limit, ratio=ratio)
            for own, limit, ratio in self._membrane
        ]
        return torch.stack(parts).sum() / potential.shape[2]
