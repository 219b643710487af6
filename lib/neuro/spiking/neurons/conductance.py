"""Leaky integrate-and-fire neurons driven by synaptic conductances."""

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
class Synapse:
    """A kind of synapse: how its conductance answers one spike of weight 1.

        g(t) = g_ns (exp(-t / tau_decay) - exp(-t / tau_rise)) / p,   so that its peak is g_ns
        p = r^(r / (1 - r)) - r^(1 / (1 - r)),   r = tau_rise / tau_decay

    Attributes:
        name: for messages and figures, as "AMPA".
        channel: which block of a neuron's input it listens to; several kinds may share one.
        g_ns: conductance at the peak, before dt makes it a little lower.
        e_rev_mv: reversal potential.
        tau_rise_ms, tau_decay_ms: time constants, tau_rise_ms < tau_decay_ms.
    """

    name: str
    channel: int
    g_ns: float
    e_rev_mv: float
    tau_rise_ms: float
    tau_decay_ms: float

    def __post_init__(self) -> None:
        """Refuse times that make no rise and decay.

        Raises:
            ValueError: a time is not positive, or the rise is not faster than the decay.
        """
        if not 0 < self.tau_rise_ms < self.tau_decay_ms:
            msg = (
                f"synapse {self.name!r}: tau_rise_ms = {self.tau_rise_ms!r} must be positive and "
                f"below tau_decay_ms = {self.tau_decay_ms!r}"
            )
            raise ValueError(msg)

    @property
    def jump_ns(self) -> float:
        """What a spike of weight 1 adds to the decaying part and takes from the rising part."""
        r = self.tau_rise_ms / self.tau_decay_ms
        return self.g_ns / (r ** (r / (1 - r)) - r ** (1 / (1 - r)))


class ConductanceState(NamedTuple):
    """Of each trial and unit; S kinds of synapses.

    Attributes:
        potential: before reset, in mV, shape (B, N).
        rise: <= 0, in nS, shape (B, S * N), one block of N after the other.
        decay: >= 0, in nS; rise + decay is the conductance.
        refractory: steps until the next spike is possible, int32, shape (B, N).
    """

    potential: torch.Tensor
    rise: torch.Tensor
    decay: torch.Tensor
    refractory: torch.Tensor | None


class ConductanceConstants(NamedTuple):
    """Of each unit, shape (N,), or of each kind of synapse, shape (S, 1)."""

    leak: torch.Tensor  # 1 - exp(-dt / tau_mem)
    dt_per_c: torch.Tensor  # dt / C, in ms / pF
    e_leak: torch.Tensor
    threshold: torch.Tensor
    reset: torch.Tensor
    rise: torch.Tensor
    decay: torch.Tensor
    jump: torch.Tensor
    e_rev: torch.Tensor
    refractory: torch.Tensor | None


@dataclass(frozen=True)
class ConductanceLIF:
    """Leaky integrate-and-fire with conductances that rise and decay.

        g_k = rise_k + decay_k
        V'  = V + (1 - exp(-dt / tau_mem)) (E_L - V) - dt / C sum_k g_k (V - E_k),   C = tau_mem g_L
        V'  = v_reset in the step after a spike
        rise_k'  = exp(-dt / tau_rise_k)  rise_k  - J_k x_c(k)          J_k: `Synapse.jump_ns`
        decay_k' = exp(-dt / tau_decay_k) decay_k + J_k x_c(k)
        spike where V' > threshold

    The leak is exact, the synapses act by an Euler step with the conductances of the step before;
    so a spike that arrives in step t opens them in step t + 1, when rise and decay no longer
    cancel, and moves V in step t + 2. Such a step overshoots the reversal potentials where
    dt sum_k g_k > C, and then inhibition can make a neuron fire: take a shorter one. C is in pF
    when times are in ms and conductances in nS. Cells adapted from Meissner-Bernard et al. 2025
    (Cell Reports 115330).

    Attributes:
        tau_mem_ms, g_leak_ns, threshold_mv, v_reset_mv, e_leak_mv: one value or (N,).
        synapses: kinds of synapses S.
        refractory_ms: V stays at v_reset until this time after a spike.
        surrogate: stands in for dS/dV, with V in mV.
        detach_reset: whether no gradient passes through the reset.
    """

    tau_mem_ms: float | torch.Tensor
    g_leak_ns: float | torch.Tensor
    threshold_mv: float | torch.Tensor
    v_reset_mv: float | torch.Tensor
    e_leak_mv: float | torch.Tensor
    synapses: Sequence[Synapse]
    refractory_ms: float | torch.Tensor = 0.0
    surrogate: Surrogate = field(default_factory=lambda: FastSigmoid(slope=0.5))
    detach_reset: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no model.

        Raises:
            ValueError: a time or the leak is not positive, there are no synapses, or a channel is
                left out.
        """
        check_positive(self.tau_mem_ms, "tau_mem_ms")
        check_refractory(self.refractory_ms)
        check_positive(self.g_leak_ns, "g_leak_ns")
        check_channels(self.channels)

    @property
    def n_channels(self) -> int:
        """Blocks of input C that the synapses tell apart."""
        return 1 + max(self.channels)

    @property
    def channels(self) -> list[int]:
        """The channel of each kind of synapse."""
        return [synapse.channel for synapse in self.synapses]

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> ConductanceConstants:
        """Return decays and jumps for steps of `dt_ms`."""

        def units(name: str) -> torch.Tensor:
            return per_unit(getattr(self, name), n_units, like, name)

        def kinds(name: str) -> torch.Tensor:
            return like.new_tensor([getattr(kind, name) for kind in self.synapses])[:, None]

        tau_mem = units("tau_mem_ms")
        return ConductanceConstants(
            leak=-torch.expm1(-dt_ms / tau_mem),
            dt_per_c=dt_ms / (tau_mem * units("g_leak_ns")),
            e_leak=units("e_leak_mv"),
            threshold=units("threshold_mv"),
            reset=units("v_reset_mv"),
            rise=torch.exp(-dt_ms / kinds("tau_rise_ms")),
            decay=torch.exp(-dt_ms / kinds("tau_decay_ms")),
            jump=kinds("jump_ns"),
            e_rev=kinds("e_rev_mv"),
            refractory=refractory_steps(
                self.refractory_ms, dt_ms=dt_ms, n_units=n_units, like=like
            ),
        )

    def rest(self, n_trials: int, n_units: int, constants: Values) -> ConductanceState:
        """Return potentials at v_reset and closed synapses."""
        c = ConductanceConstants(*constants)
        v = c.reset.detach().expand(n_trials, n_units).clone()
        closed = v.new_zeros(n_trials, len(self.synapses) * n_units)
        count = None if c.refractory is None else torch.zeros_like(v, dtype=torch.int32)
        return ConductanceState(v, closed, closed, count)

    def integrate(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values
    ) -> ConductanceState:
        """Take one step: see the class."""
        state, c = ConductanceState(*state), ConductanceConstants(*constants)
        n_units = state.potential.shape[-1]
        rise, decay = self._kinds(state.rise, n_units), self._kinds(state.decay, n_units)
        free = _without_reset(state.potential, rise + decay, c)
        s = spikes.detach() if self.detach_reset else spikes
        potential = torch.lerp(free, c.reset, s)
        count = count_down(state.refractory, spikes, c.refractory)
        if count is not None:
            potential = torch.where(count > 1, c.reset, potential)
        jump = c.jump * heard(x, self.channels, n_units)
        return ConductanceState(
            potential,
            (c.rise * rise - jump).flatten(-2),
            (c.decay * decay + jump).flatten(-2),
            count,
        )

    def integrate_vjp(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values, grad: Values
    ) -> Adjoint:
        """Multiply the gradient of the state after a step with the Jacobian of `integrate`."""
        del x
        state, c = ConductanceState(*state), ConductanceConstants(*constants)
        g = ConductanceState(*grad)
        v, n_units = state.potential, state.potential.shape[-1]
        conductance = self._kinds(state.rise + state.decay, n_units)
        count = count_down(state.refractory, spikes, c.refractory)
        held = g.potential if count is None else g.potential.masked_fill(count > 1, 0)
        free = held * (1 - spikes)
        grad_v = free * (1 - c.leak - c.dt_per_c * conductance.sum(-2))
        grad_g = (free * -c.dt_per_c)[..., None, :] * (v[..., None, :] - c.e_rev)
        rise, decay = self._kinds(g.rise, n_units), self._kinds(g.decay, n_units)
        through_reset = None
        if not self.detach_reset:
            through_reset = held * (c.reset - _without_reset(v, conductance, c))
        return Adjoint(
            state=ConductanceState(
                grad_v,
                (c.rise * rise + grad_g).flatten(-2),
                (c.decay * decay + grad_g).flatten(-2),
                None,
            ),
            x=heard_vjp(c.jump * (decay - rise), self.channels),
            spikes=through_reset,
        )

    def _kinds(self, flat: torch.Tensor, n_units: int) -> torch.Tensor:
        return flat.unflatten(-1, (len(self.synapses), n_units))

    def excess(self, state: Values, constants: Values) -> torch.Tensor:
        """Return potential minus threshold in mV, shape (B, N)."""
        return state[0] - ConductanceConstants(*constants).threshold

    def add_excess_grad(
        self, grad: Values, excess: torch.Tensor, constants: Values
    ) -> ConductanceState:
        """Add to the gradient of a state what the gradient of its excess brings."""
        del constants
        g = ConductanceState(*grad)
        return g._replace(potential=g.potential + excess)


def _without_reset(
    v: torch.Tensor, conductance: torch.Tensor, c: ConductanceConstants
) -> torch.Tensor:
    """Return the potential after a step, (..., N), if there was no spike; g has (..., S, N)."""
    # sum_k g_k (V - E_k), without a tensor of S blocks for V - E_k
    current = conductance.sum(-2) * v - (conductance * c.e_rev).sum(-2)
    return v + c.leak * (c.e_leak - v) - c.dt_per_c * current
