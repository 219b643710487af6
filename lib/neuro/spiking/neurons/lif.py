"""Leaky integrate-and-fire neurons driven by currents."""

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
from neuro.spiking.surrogate import FastSigmoid, Surrogate

RESETS = ("subtract", "zero", "hold")
GAINS = ("unit", "normalized", "exact")


class LIFState(NamedTuple):
    """Of each trial and unit, shape (B, N); None where the model has no such variable.

    Attributes:
        potential: before reset.
        current: of the synapse.
        refractory: steps until the next spike is possible, int32.
    """

    potential: torch.Tensor
    current: torch.Tensor | None
    refractory: torch.Tensor | None


class LIFConstants(NamedTuple):
    """Of each unit, shape (N,); see `LIF` for the symbols."""

    membrane: torch.Tensor  # b
    gain: torch.Tensor | None  # k, None for 1
    offset: torch.Tensor | None  # k bias + (1 - b) v_rest, None for 0
    threshold: torch.Tensor
    reset: torch.Tensor
    synapse: torch.Tensor | None  # a
    synapse_gain: torch.Tensor | None  # k_syn, None for 1
    refractory: torch.Tensor | None  # steps, int32


@dataclass(frozen=True)
class LIF:
    """Leaky integrate-and-fire, optionally with a synaptic current.

        I[t] = a I[t-1] + k_syn x[t]                    a = exp(-dt / tau_syn)
        V[t] = b V*[t-1] + (1 - b) v_rest + k (I[t] + bias)      b = exp(-dt / tau_mem)
        spike where V[t] > threshold

    Without `tau_syn_ms` the input is the current, I = x. V* is V after the reset of a spike:

        "subtract": V loses threshold after it leaked, b V - threshold (snntorch's default)
        "zero":     V* = v_reset (the "zero" of snntorch's Leaky)
        "hold":     V[t] = v_reset in the step after a spike, its input lost (the "zero" of
                    snntorch's Synaptic, RLeaky and RSynaptic)

    The gains are k = k_syn = 1 ("unit"), k = 1 - b and k_syn = 1 - a ("normalized": a constant
    input x moves V by x), or k_syn = 1 and the exact solution of both equations over a step
    ("exact": tau_mem dV/dt = v_rest - V + I, k = (b - a) tau_syn / (tau_mem - tau_syn)).

    Within `refractory_ms` of a spike V stays at v_reset. With `silence_current` I is reset too and
    what arrives within that time is lost, up to and including the step in which it may spike again
    (Shiu et al. 2024, doi:10.1038/s41586-024-07763-9).

    Attributes:
        tau_mem_ms: membrane time constant, one value or (N,); may require gradients, as may all
            values that can be tensors.
        tau_syn_ms: time constant of the synaptic current.
        threshold, v_rest, v_reset: in the unit of the inputs.
        bias: constant current.
        reset: "subtract", "zero" or "hold".
        gain: "unit", "normalized" or "exact".
        refractory_ms: least time between two spikes.
        silence_current: whether a spike ends the synaptic current.
        surrogate: stands in for dS/dV.
        detach_reset: whether no gradient passes through the reset.
    """

    tau_mem_ms: float | torch.Tensor
    tau_syn_ms: float | torch.Tensor | None = None
    threshold: float | torch.Tensor = 1.0
    v_rest: float | torch.Tensor = 0.0
    v_reset: float | torch.Tensor = 0.0
    bias: float | torch.Tensor = 0.0
    reset: str = "subtract"
    gain: str = "unit"
    refractory_ms: float | torch.Tensor = 0.0
    silence_current: bool = False
    surrogate: Surrogate = field(default_factory=FastSigmoid)
    detach_reset: bool = True

    n_channels = 1

    def __post_init__(self) -> None:
        """Refuse what is no model.

        Raises:
            ValueError: an unknown reset or gain, a time that is not positive, or options that
                contradict each other.
        """
        for name, value, allowed in (("reset", self.reset, RESETS), ("gain", self.gain, GAINS)):
            if value not in allowed:
                msg = f"{name} = {value!r} is none of {', '.join(map(repr, allowed))}"
                raise ValueError(msg)
        check_positive(self.tau_mem_ms, "tau_mem_ms")
        check_refractory(self.refractory_ms)
        if self.tau_syn_ms is not None:
            check_positive(self.tau_syn_ms, "tau_syn_ms")
        if self.tau_syn_ms is None and (self.silence_current or self.gain == "exact"):
            what = "silence_current" if self.silence_current else "gain = 'exact'"
            msg = f"{what} needs a synaptic current: give tau_syn_ms"
            raise ValueError(msg)

    def constants(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> LIFConstants:
        """Return decays, gains and potentials for steps of `dt_ms`."""

        def units(name: str) -> torch.Tensor:
            return per_unit(getattr(self, name), n_units, like, name)

        b = torch.exp(-dt_ms / units("tau_mem_ms"))
        a = None if self.tau_syn_ms is None else torch.exp(-dt_ms / units("tau_syn_ms"))
        gain = synapse_gain = None
        if self.gain == "normalized":
            gain, synapse_gain = 1 - b, None if a is None else 1 - a
        elif self.gain == "exact" and a is not None:
            gain = _exact_gain(units("tau_mem_ms"), units("tau_syn_ms"), dt_ms)
        drive = units("bias") if gain is None else gain * units("bias")
        offset = drive + (1 - b) * units("v_rest")
        trained = offset.requires_grad or bool((offset != 0).any())
        return LIFConstants(
            membrane=b,
            gain=gain,
            offset=offset if trained else None,
            threshold=units("threshold"),
            reset=units("v_reset"),
            synapse=a,
            synapse_gain=synapse_gain,
            refractory=self._refractory(dt_ms=dt_ms, n_units=n_units, like=like),
        )

    def _refractory(self, *, dt_ms: float, n_units: int, like: torch.Tensor) -> torch.Tensor | None:
        steps = refractory_steps(self.refractory_ms, dt_ms=dt_ms, n_units=n_units, like=like)
        if steps is None and self.silence_current:
            steps = torch.zeros(n_units, dtype=torch.int32, device=like.device)
        return steps.clamp_min(1) if steps is not None and self.silence_current else steps

    def rest(self, n_trials: int, n_units: int, constants: Values) -> LIFState:
        """Return potentials at v_rest, no current, nobody refractory."""
        like: torch.Tensor = constants[0].detach()
        zeros = like.new_zeros(n_trials, n_units)
        count = torch.zeros_like(zeros, dtype=torch.int32)
        v_rest = per_unit(self.v_rest, n_units, like, "v_rest").detach()
        return LIFState(
            potential=v_rest.expand(n_trials, n_units).clone(),
            current=None if self.tau_syn_ms is None else zeros,
            refractory=None if constants[7] is None else count,
        )

    def integrate(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values
    ) -> LIFState:
        """Take one step: see the class."""
        state, c = LIFState(*state), LIFConstants(*constants)
        count = count_down(state.refractory, spikes, c.refractory)
        current, drive = self._arriving(state, x, c, count)
        v = state.potential
        s = spikes.detach() if self.detach_reset else spikes
        if self.reset == "subtract":
            potential = torch.addcmul(drive, c.membrane, v) - s * c.threshold
        elif self.reset == "zero":
            potential = torch.addcmul(drive, c.membrane, torch.lerp(v, c.reset, s))
        else:
            free = torch.addcmul(drive, c.membrane, v)
            potential = torch.lerp(free, c.reset, s)
        if count is not None:
            potential = torch.where(count > 1, c.reset, potential)
        return LIFState(potential, current if c.synapse is not None else None, count)

    def _arriving(
        self, state: LIFState, x: torch.Tensor, c: LIFConstants, count: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the current of this step, and what it adds to the potential."""
        current = x
        if c.synapse is not None and state.current is not None:
            arriving = x if c.synapse_gain is None else c.synapse_gain * x
            current = torch.addcmul(arriving, c.synapse, state.current)
            if self.silence_current and count is not None:
                current = current.masked_fill(count > 0, 0)
        drive = current if c.gain is None else c.gain * current
        return current, drive if c.offset is None else drive + c.offset

    def integrate_vjp(
        self, state: Values, spikes: torch.Tensor, x: torch.Tensor, constants: Values, grad: Values
    ) -> Adjoint:
        """Multiply the gradient of the state after a step with the Jacobian of `integrate`."""
        state, c, g = LIFState(*state), LIFConstants(*constants), LIFState(*grad)
        count = count_down(state.refractory, spikes, c.refractory)
        free = g.potential if count is None else g.potential.masked_fill(count > 1, 0)
        after_reset = free if self.reset == "subtract" else free * (1 - spikes)
        drive = after_reset if self.reset == "hold" else free
        current = drive if c.gain is None else c.gain * drive
        if g.current is not None:
            current = current + g.current
            if self.silence_current and count is not None:
                current = current.masked_fill(count > 0, 0)
        return Adjoint(
            state=LIFState(
                potential=c.membrane * after_reset,
                current=None if c.synapse is None else c.synapse * current,
                refractory=None,
            ),
            x=current if c.synapse_gain is None else c.synapse_gain * current,
            spikes=None if self.detach_reset else free * self._jump(state, x, c, count),
        )

    def _jump(
        self, state: LIFState, x: torch.Tensor, c: LIFConstants, count: torch.Tensor | None
    ) -> torch.Tensor:
        """Return how much less potential there is in the step after a spike, negative."""
        if self.reset == "subtract":
            return -c.threshold
        if self.reset == "zero":
            return c.membrane * (c.reset - state.potential)
        drive = self._arriving(state, x, c, count)[1]
        return c.reset - torch.addcmul(drive, c.membrane, state.potential)

    def excess(self, state: Values, constants: Values) -> torch.Tensor:
        """Return potential minus threshold, shape (B, N)."""
        return state[0] - LIFConstants(*constants).threshold

    def add_excess_grad(self, grad: Values, excess: torch.Tensor, constants: Values) -> LIFState:
        """Add to the gradient of a state what the gradient of its excess brings."""
        del constants
        g = LIFState(*grad)
        return g._replace(potential=g.potential + excess)


def _exact_gain(tau_mem: torch.Tensor, tau_syn: torch.Tensor, dt_ms: float) -> torch.Tensor:
    """Return k of gain "exact"; for equal time constants its limit, dt / tau exp(-dt / tau)."""
    same = tau_mem == tau_syn
    apart = torch.where(same, tau_mem + 1, tau_mem)
    decays = torch.exp(-dt_ms / apart) - torch.exp(-dt_ms / tau_syn)
    limit = dt_ms / tau_syn * torch.exp(-dt_ms / tau_syn)
    return torch.where(same, limit, decays * tau_syn / (apart - tau_syn))
