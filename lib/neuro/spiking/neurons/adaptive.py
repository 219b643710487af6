"""Leaky integrate-and-fire neurons whose threshold rises with every spike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from neuro.spiking.neurons.neuron import (
    Adjoint,
    Values,
    check_positive,
    check_refractory,
    count_down,
    per_unit,
    refractory_steps,
)
from neuro.spiking.surrogate import Surrogate, Triangle


class AdaptiveState(NamedTuple):
    """Of each trial and unit, shape (B, N).

    Attributes:
        potential: before reset.
        adaptation: trace of the unit's own spikes.
        refractory: steps until the next spike is possible, int32; None without refractoriness.
    """

    potential: torch.Tensor
    adaptation: torch.Tensor
    refractory: torch.Tensor | None


class AdaptiveConstants(NamedTuple):
    """Of each unit, shape (N,); see `AdaptiveLIF` for the symbols."""

    membrane: torch.Tensor  # alpha
    adaptation: torch.Tensor  # rho
    strength: torch.Tensor  # beta
    threshold: torch.Tensor
    refractory: torch.Tensor | None  # steps, int32


@dataclass(frozen=True)
class AdaptiveLIF:
    """Leaky integrate-and-fire with an adaptive threshold (ALIF).

        V[t] = alpha V[t-1] + x[t] - threshold s[t-1]      alpha = exp(-dt / tau_mem)
        a[t] = rho a[t-1] + s[t-1]                         rho = exp(-dt / tau_adapt)
        spike where V[t] > threshold + beta a[t]

    Bellec et al. 2020, doi:10.1038/s41467-020-17236-y, equations 6 to 9. Unlike there, V is held at
    0 within `refractory_ms` of a spike. The gradient through a is always kept: it carries the slow
    memory that the model exists for.

    Attributes:
        tau_mem_ms, tau_adapt_ms: time constants, one value or (N,); may require gradients.
        strength: beta, rise of the threshold by one spike.
        threshold: in the unit of the inputs.
        refractory_ms: least time between two spikes.
        surrogate: stands in for dS/dV.
        detach_reset: whether no gradient passes through the reset.
    """

    tau_mem_ms: float | torch.Tensor
    tau_adapt_ms: float | torch.Tensor
    strength: float | torch.Tensor
    threshold: float | torch.Tensor = 1.0
    refractory_ms: float | torch.Tensor = 0.0
    surrogate: Surrogate = field(default_factory=Triangle)
    detach_reset: bool = True

    n_channels = 1

    def __post_init__(self) -> None:
        """Refuse what is no model.

        Raises:
            ValueError: a time is not positive.
        """
        for name in ("tau_mem_ms", "tau_adapt_ms"):
            check_positive(getattr(self, name), name)
        check_refractory(self.refractory_ms)

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> AdaptiveConstants:
        """Return decays and thresholds for steps of `dt_ms`."""

        def units(name: str) -> torch.Tensor:
            return per_unit(getattr(self, name), n_units, like, name)

        return AdaptiveConstants(
            membrane=torch.exp(-dt_ms / units("tau_mem_ms")),
            adaptation=torch.exp(-dt_ms / units("tau_adapt_ms")),
            strength=units("strength"),
            threshold=units("threshold"),
            refractory=refractory_steps(
                self.refractory_ms, dt_ms=dt_ms, n_units=n_units, like=like
            ),
        )

    def rest(self, n_trials: int, n_units: int, constants: Values) -> AdaptiveState:
        """Return potentials at 0 and thresholds at their lowest."""
        c = AdaptiveConstants(*constants)
        zeros = c.membrane.detach().new_zeros(n_trials, n_units)
        count = None if c.refractory is None else torch.zeros_like(zeros, dtype=torch.int32)
        return AdaptiveState(zeros, zeros, count)

    def integrate(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values
    ) -> AdaptiveState:
        """Take one step: see the class."""
        state, c = AdaptiveState(*state), AdaptiveConstants(*constants)
        reset = spikes.detach() if self.detach_reset else spikes
        potential = torch.addcmul(x, c.membrane, state.potential) - c.threshold * reset
        count = count_down(state.refractory, spikes, c.refractory)
        if count is not None:
            potential = potential.masked_fill(count > 1, 0)
        return AdaptiveState(
            potential, torch.addcmul(spikes, c.adaptation, state.adaptation), count
        )

    def integrate_vjp(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values, grad: Values
    ) -> Adjoint:
        """Multiply the gradient of the state after a step with the Jacobian of `integrate`."""
        del x
        state, c, g = AdaptiveState(*state), AdaptiveConstants(*constants), AdaptiveState(*grad)
        count = count_down(state.refractory, spikes, c.refractory)
        free = g.potential if count is None else g.potential.masked_fill(count > 1, 0)
        through_reset = 0 if self.detach_reset else c.threshold * free
        return Adjoint(
            state=AdaptiveState(c.membrane * free, c.adaptation * g.adaptation, None),
            x=free,
            spikes=g.adaptation - through_reset,
        )

    def excess(self, state: Values, constants: Values) -> torch.Tensor:
        """Return potential minus the risen threshold, shape (B, N)."""
        c = AdaptiveConstants(*constants)
        return state[0] - c.threshold - c.strength * state[1]

    def add_excess_grad(
        self, grad: Values, excess: torch.Tensor, constants: Values
    ) -> AdaptiveState:
        """Add to the gradient of a state what the gradient of its excess brings."""
        g, c = AdaptiveState(*grad), AdaptiveConstants(*constants)
        return g._replace(
            potential=g.potential + excess, adaptation=g.adaptation - c.strength * excess
        )
