"""Leaky integrate-and-fire neurons with a current for each kind of synapse, in natural units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from neuro.spiking.neurons.channels import check_channels, heard, heard_vjp
from neuro.spiking.neurons.neuron import (
    Adjoint,
    Values,
    check_positive,
    check_refractory,
    count_down,
    per_unit,
    refractory_steps,
)
from neuro.spiking.surrogate import FastSigmoid, Surrogate


@dataclass(frozen=True)
class CurrentSynapse:
    """A kind of synapse: a spike of weight w adds w to a current that decays.

    Attributes:
        name: for messages and figures.
        channel: which block of a neuron's input it listens to; several kinds may share one.
        tau_syn_ms: time constant, > 0.
        sign: +1 or -1, what the current does to the potential.
    """

    name: str
    channel: int
    tau_syn_ms: float
    sign: int

    def __post_init__(self) -> None:
        """Refuse what is no synapse.

        Raises:
            ValueError: the time constant is not positive, or the sign neither +1 nor -1.
        """
        check_positive(self.tau_syn_ms, f"tau_syn_ms of synapse {self.name!r}")
        if self.sign not in (1, -1):
            msg = f"the sign of synapse {self.name!r} is {self.sign!r}; it must be +1 or -1"
            raise ValueError(msg)


class CurrentsState(NamedTuple):
    """Of each trial and unit; S kinds of synapses.

    Attributes:
        potential: before reset, in units of the threshold, shape (B, N).
        current: >= 0, shape (B, S * N), one block of N after the other.
        refractory: steps until the next spike is possible, int32, shape (B, N).
    """

    potential: torch.Tensor
    current: torch.Tensor
    refractory: torch.Tensor | None


class CurrentsConstants(NamedTuple):
    """Of each unit, shape (N,), or of each kind of synapse, shape (S, 1)."""

    membrane: torch.Tensor  # exp(-dt / tau_mem)
    decay: torch.Tensor  # exp(-dt / tau_syn)
    sign: torch.Tensor
    refractory: torch.Tensor | None


@dataclass(frozen=True)
class CurrentLIF:
    """Leaky integrate-and-fire with a current for each kind of synapse, in natural units.

        I_k' = exp(-dt / tau_syn_k) I_k + x_c(k)
        V'   = exp(-dt / tau_mem) V + sum_k sign_k I_k'
        V'   = 0 in the step after a spike
        spike where V' > 1

    The current-based variant of connectome-snns (github.com/rory-bedford/connectome-snns, 06bd03d):
    no resistance, no factor 1 - exp(-dt / tau_mem), so that weights mean something for one dt only.

    Attributes:
        tau_mem_ms: membrane time constant, one value or (N,).
        synapses: kinds of synapses S.
        refractory_ms: V stays at 0 until this time after a spike.
        surrogate: stands in for dS/dV, with V in units of the threshold.
        detach_reset: whether no gradient passes through the reset.
    """

    tau_mem_ms: float | torch.Tensor
    synapses: Sequence[CurrentSynapse]
    refractory_ms: float | torch.Tensor = 0.0
    surrogate: Surrogate = field(default_factory=FastSigmoid)
    detach_reset: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no model.

        Raises:
            ValueError: a time is not positive, there are no synapses, or a channel is left out.
        """
        check_positive(self.tau_mem_ms, "tau_mem_ms")
        check_refractory(self.refractory_ms)
        check_channels(self.channels)

    @property
    def n_channels(self) -> int:
        """Blocks of input C that the synapses tell apart."""
        return 1 + max(self.channels)

    @property
    def channels(self) -> list[int]:
        """The channel of each kind of synapse."""
        return [synapse.channel for synapse in self.synapses]

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> CurrentsConstants:
        """Return decays and signs for steps of `dt_ms`."""
        tau_mem = per_unit(self.tau_mem_ms, n_units, like, "tau_mem_ms")
        tau_syn = like.new_tensor([kind.tau_syn_ms for kind in self.synapses])[:, None]
        return CurrentsConstants(
            membrane=torch.exp(-dt_ms / tau_mem),
            decay=torch.exp(-dt_ms / tau_syn),
            sign=like.new_tensor([kind.sign for kind in self.synapses])[:, None],
            refractory=refractory_steps(
                self.refractory_ms, dt_ms=dt_ms, n_units=n_units, like=like
            ),
        )

    def rest(self, n_trials: int, n_units: int, constants: Values) -> CurrentsState:
        """Return potentials of 0 and no currents."""
        c = CurrentsConstants(*constants)
        v = c.membrane.new_zeros(n_trials, n_units)
        current = v.new_zeros(n_trials, len(self.synapses) * n_units)
        count = None if c.refractory is None else torch.zeros_like(v, dtype=torch.int32)
        return CurrentsState(v, current, count)

    def integrate(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values
    ) -> CurrentsState:
        """Take one step: see the class."""
        state, c = CurrentsState(*state), CurrentsConstants(*constants)
        current, free = self._without_reset(state, x, c)
        s = spikes.detach() if self.detach_reset else spikes
        potential = free - s * free
        count = count_down(state.refractory, spikes, c.refractory)
        if count is not None:
            potential = potential.masked_fill(count > 1, 0)
        return CurrentsState(potential, current.flatten(-2), count)

    def integrate_vjp(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values, grad: Values
    ) -> Adjoint:
        """Multiply the gradient of the state after a step with the Jacobian of `integrate`."""
        state, c = CurrentsState(*state), CurrentsConstants(*constants)
        g, n_units = CurrentsState(*grad), state.potential.shape[-1]
        count = count_down(state.refractory, spikes, c.refractory)
        held = g.potential if count is None else g.potential.masked_fill(count > 1, 0)
        free = held * (1 - spikes)
        grad_current = self._kinds(g.current, n_units) + c.sign * free[..., None, :]
        return Adjoint(
            state=CurrentsState(c.membrane * free, (c.decay * grad_current).flatten(-2), None),
            x=heard_vjp(grad_current, self.channels),
            spikes=None if self.detach_reset else -held * self._without_reset(state, x, c)[1],
        )

    def _without_reset(
        self, state: CurrentsState, x: torch.Tensor, c: CurrentsConstants
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return currents of this step, (..., S, N), and the potential if there was no spike."""
        n_units = state.potential.shape[-1]
        arriving = heard(x, self.channels, n_units)
        current = c.decay * self._kinds(state.current, n_units) + arriving
        return current, c.membrane * state.potential + (c.sign * current).sum(-2)

    def _kinds(self, flat: torch.Tensor, n_units: int) -> torch.Tensor:
        return flat.unflatten(-1, (len(self.synapses), n_units))

    def excess(self, state: Values, constants: Values) -> torch.Tensor:
        """Return potential minus threshold, shape (B, N)."""
        del constants
        return state[0] - 1

    def add_excess_grad(
        self, grad: Values, excess: torch.Tensor, constants: Values
    ) -> CurrentsState:
        """Add to the gradient of a state what the gradient of its excess brings."""
        del constants
        g = CurrentsState(*grad)
        return g._replace(potential=g.potential + excess)
