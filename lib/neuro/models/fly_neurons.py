"""The neurons of the fly model: integrate-and-fire with a synaptic current, one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class LIFState(NamedTuple):
    """What a population carries from step to step, each of shape (B, N); threshold is 1."""

    current: torch.Tensor
    potential: torch.Tensor


class LIFDecay(NamedTuple):
    """What a step leaves, exp(-dt / tau), of current and of potential; broadcast to N."""

    synapse: torch.Tensor | float
    membrane: torch.Tensor | float


def rest(n_trials: int, n_units: int, *, like: torch.Tensor) -> LIFState:
    """Return a population at rest, in the type and on the device of `like`."""
    return LIFState(like.new_zeros(n_trials, n_units), like.new_zeros(n_trials, n_units))


def step(
    state: LIFState,
    drive: torch.Tensor,
    *,
    decay: LIFDecay,
    bias: torch.Tensor | float,
    spike: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, LIFState]:
    """Take one time step.

        I' = a I + (1 - a) drive            a = exp(-dt / tau_syn)
        U' = b U + (1 - b) (I' + bias)      b = exp(-dt / tau_mem)
        spike where U' > 1, then U' = 0; no gradient passes through the reset

    Args:
        state: before the step.
        drive: input to the synapse, in units of threshold, shape (B, N).
        decay: a and b.
        bias: constant current, in units of threshold.
        spike: maps U' - 1 to 0 or 1, with a surrogate gradient.

    Returns:
        The spikes, shape (B, N), and the state after the step.
    """
    current = decay.synapse * state.current + (1 - decay.synapse) * drive
    potential = decay.membrane * state.potential + (1 - decay.membrane) * (current + bias)
    # snntorch's surrogates answer in single precision whatever they are asked in.
    fired = spike(potential - 1).to(potential.dtype)
    return fired, LIFState(current, potential * (1 - fired.detach()))
