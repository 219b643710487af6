"""Two layers of leaky integrate-and-fire neurons that name the digit in an image."""

from __future__ import annotations

from typing import NamedTuple

import snntorch
import torch
from snntorch import surrogate
from torch import nn

from neuro.spiking.neurons import decay_per_step


class DigitsResponse(NamedTuple):
    """Spikes of a presentation, 0 or 1: hidden, shape (T, B, H); output, shape (T, B, C)."""

    hidden: torch.Tensor
    output: torch.Tensor

    @property
    def spike_count(self) -> torch.Tensor:
        """Spikes of each output unit, shape (B, C); the largest count names the class."""
        return self.output.sum(dim=0)


class DigitsClassifier(nn.Module):
    """Input spikes -> H hidden LIF units -> C output LIF units, decided by spike count.

    Each layer steps (snntorch.Leaky, reset by subtraction, threshold 1):

        U[t] = beta U[t-1] + W S_in[t] + b - S[t-1]        beta = exp(-dt / tau_mem)
        S[t] = 1 if U[t] > 1 else 0

    In the backward pass dS/dU is replaced by the fast sigmoid's 1 / (1 + k |U - 1|)^2 with slope k
    (Zenke & Ganguli 2018, SuperSpike; review in Neftci, Mostafa & Zenke 2019).
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_hidden: int,
        n_classes: int,
        dt_ms: float,
        tau_mem_ms: float,
        surrogate_slope: float,
    ) -> None:
        """Draw the weights from PyTorch's global random stream.

        Args:
            n_inputs: input units N.
            n_hidden: hidden units H.
            n_classes: output units C, one a class.
            dt_ms: length of a time step in ms.
            tau_mem_ms: membrane time constant of both layers in ms.
            surrogate_slope: slope k of the surrogate gradient, per unit of threshold.
        """
        super().__init__()
        beta = decay_per_step(dt_ms=dt_ms, tau_ms=tau_mem_ms)
        gradient = surrogate.fast_sigmoid(slope=surrogate_slope)
        self.input_to_hidden = nn.Linear(n_inputs, n_hidden)
        self.hidden = snntorch.Leaky(beta=beta, spike_grad=gradient)
        self.hidden_to_output = nn.Linear(n_hidden, n_classes)
        self.output = snntorch.Leaky(beta=beta, spike_grad=gradient)

    def forward(self, spikes: torch.Tensor) -> DigitsResponse:
        """Present spike trains from rest.

        Args:
            spikes: input spikes, 0 or 1, shape (T, B, N).

        Returns:
            The spikes of both layers.
        """
        # Nothing feeds back, so one product serves all time steps; only potentials need the loop.
        hidden = _integrate(self.hidden, self.input_to_hidden(spikes))
        output = _integrate(self.output, self.hidden_to_output(hidden))
        return DigitsResponse(hidden, output)


def _integrate(layer: snntorch.Leaky, current: torch.Tensor) -> torch.Tensor:
    """Step one layer from rest over its input, shape (T, B, units), and return its spikes."""
    potential = torch.zeros_like(current[0])
    spikes = []
    for now in current.unbind(dim=0):
        fired, potential = layer(now, potential)
        spikes.append(fired)
    return torch.stack(spikes)
