"""Integrate-and-fire neurons whose membrane time constant and bias are trained by cell type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from neuro.spiking.fixed import FixedModule
from neuro.spiking.neurons import LIF

if TYPE_CHECKING:
    from neuro.spiking.scaling import Labels
    from neuro.spiking.surrogate import Surrogate


@dataclass(frozen=True)
class NeuronSettings:
    """Values of neurons at first, and how far training may take them.

    Attributes:
        tau_syn_ms: synaptic time constant; fixed.
        tau_mem_ms: membrane time constant at first.
        tau_mem_least_ms, tau_mem_most_ms: its range.
        bias_most: the bias, 0 at first, stays within plus and minus this, in thresholds.
    """

    tau_syn_ms: float
    tau_mem_ms: float
    tau_mem_least_ms: float = 3.0
    tau_mem_most_ms: float = 200.0
    bias_most: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a start outside of the range.

        Raises:
            ValueError: it is, or a range is none.
        """
        if not self.bias_most >= 0:
            msg = f"bias_most = {self.bias_most!r} must be at least 0"
            raise ValueError(msg)
        if not 0 < self.tau_mem_least_ms <= self.tau_mem_ms <= self.tau_mem_most_ms:
            msg = (
                f"tau_mem_ms = {self.tau_mem_ms!r} must lie between tau_mem_least_ms = "
                f"{self.tau_mem_least_ms!r}, above 0, and tau_mem_most_ms = "
                f"{self.tau_mem_most_ms!r}"
            )
            raise ValueError(msg)


class TypedLIF(FixedModule):
    """Returns the LIF of a population, reset to zero, gains "normalized", threshold 1.

    Attributes:
        log_tau_mem_ms: logarithm of the time constant of each type, shape (types,); a parameter.
        bias: of each type, shape (types,); a parameter.
        names: of the types.
    """

    type_of_unit: torch.Tensor

    def __init__(self, types: Labels, settings: NeuronSettings, surrogate: Surrogate) -> None:
        """Start with equal values for all types."""
        super().__init__()
        self.names, self.settings, self.surrogate = types.names, settings, surrogate
        self.register_buffer("type_of_unit", types.ids.clone())
        start = math.log(settings.tau_mem_ms)
        self.log_tau_mem_ms = nn.Parameter(torch.full((len(types.names),), start))
        self.bias = nn.Parameter(torch.zeros(len(types.names)))

    @torch.no_grad()
    def clip(self) -> None:
        """Put values that left their ranges back to the ends; to be done after every update.

        A value beyond its range acts as the end of it, and gets no gradient that could bring it
        back; at the end it still gets one.
        """
        self.log_tau_mem_ms.clamp_(*self._log_tau_range)
        self.bias.clamp_(-self.settings.bias_most, self.settings.bias_most)

    def forward(self) -> LIF:
        """Return the neurons, with gradients to time constants and biases."""
        limits = self.settings
        # Limits of the logarithm, not of the time constant: rounding must not lead beyond them.
        tau_ms = self.log_tau_mem_ms.clamp(*self._log_tau_range).exp()
        bias = self.bias.clamp(-limits.bias_most, limits.bias_most)
        return LIF(
            tau_mem_ms=tau_ms[self.type_of_unit],
            tau_syn_ms=limits.tau_syn_ms,
            bias=bias[self.type_of_unit],
            reset="zero",
            gain="normalized",
            surrogate=self.surrogate,
        )

    @property
    def _log_tau_range(self) -> tuple[float, float]:
        return math.log(self.settings.tau_mem_least_ms), math.log(self.settings.tau_mem_most_ms)
