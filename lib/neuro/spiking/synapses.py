"""Sets of synapses, as the simulators take them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from neuro.spiking.edges import Edges


class Synapses(NamedTuple):
    """Synapses of one source and one delay: x[t] += source[t - delay] W.

    Attributes:
        weights: dense W, shape (P, C * N), presynaptic units first; or with `edges` the values on
            them, shape (E,).
        edges: fixed sparse connectivity from P to C * N, None for dense.
        delay: in steps; at least 1 within a population, at least 0 from outside.
        source: spikes of the presynaptic units, shape (T, B, P); None for the population itself.
    """

    weights: torch.Tensor
    edges: Edges | None = None
    delay: int = 1
    source: torch.Tensor | None = None

    @property
    def n_pre(self) -> int:
        """Presynaptic units P."""
        return self.weights.shape[0] if self.edges is None else self.edges.n_pre

    @property
    def n_post(self) -> int:
        """What the synapses reach, C * N."""
        return self.weights.shape[1] if self.edges is None else self.edges.n_post

    @property
    def outside(self) -> torch.Tensor:
        """The spikes of a source outside the population, shape (T, B, P).

        Raises:
            ValueError: the source is the population itself.
        """
        if self.source is None:
            msg = "these synapses come from the population itself; they have no source outside"
            raise ValueError(msg)
        return self.source

    def propagate(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return spikes W, differentiable, shape (..., C * N)."""
        if self.edges is None:
            return spikes @ self.weights
        return self.edges.propagate(spikes, self.weights)

    def propagate_active(self, spikes: torch.Tensor) -> torch.Tensor:
        """Return spikes W for spikes of shape (B, P), not differentiable, cheap for few spikes."""
        if self.edges is None:
            return spikes @ self.weights
        return self.edges.propagate_active(spikes, self.weights)

    def back_propagate(self, grad: torch.Tensor) -> torch.Tensor:
        """Return the gradient of spikes (B, P), given that of x, shape (B, C * N)."""
        if self.edges is None:
            return grad @ self.weights.T
        return self.edges.back_propagate(grad, self.weights)

    def weights_grad(self, spikes: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the weights, given spikes (B, P) and that of x, (B, C * N)."""
        if self.edges is None:
            return spikes.T @ grad
        return self.edges.values_grad(spikes, grad)
