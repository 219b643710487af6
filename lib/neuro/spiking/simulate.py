"""One operation that all spiking networks here are made of: a population over a sequence."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from neuro.spiking import event, loop, sequence
from neuro.spiking.event_call import not_compiled
from neuro.spiking.neurons.neuron import Neuron
from neuro.spiking.problem import Carry, Problem, Run
from neuro.spiking.synapses import Synapses

BACKENDS: dict[str, Callable[[Problem], Run]] = {
    "loop": loop.run,
    "sequence": sequence.run,
    "event": event.run,
}


class NotCompiledWarning(UserWarning):
    """A slower backend stands in, because compiled code cannot be had."""


class Simulation(NamedTuple):
    """What a population did.

    Attributes:
        spikes: 0 or 1, shape (T, B, N); with a surrogate gradient.
        potential: before reset, shape (T, B, N); None unless it was asked for.
        carry: what the next chunk starts from; detached.
        backend: name of the backend that ran.
    """

    spikes: torch.Tensor
    potential: torch.Tensor | None
    carry: Carry
    backend: str


def simulate(
    neuron: Neuron,
    synapses: Sequence[Synapses],
    *,
    n_units: int,
    dt_ms: float,
    drive: torch.Tensor | None = None,
    carry: Carry | None = None,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    segment_steps: int | None = None,
    record_potential: bool = False,
    smooth: bool = False,
) -> Simulation:
    """Run a population through a sequence of steps.

        x[t]     = sum_k source_k[t - delay_k] W_k + drive[t]
        state[t] = integrate(state[t-1], s[t-1], x[t])          see `neuron`
        s[t]     = 1 if excess(state[t]) > 0 else 0

    Gradients reach weights, sources, `drive` and the neuron's own values by backpropagation through
    time; what `carry` holds is where the history ends.

    Args:
        neuron: model of all units; values may differ from unit to unit.
        synapses: from inside and outside the population.
        n_units: N.
        dt_ms: length of a step in ms, > 0.
        drive: further input, shape (T, B, C * N).
        carry: of the chunk before; None starts at rest.
        size: (T, B), needed only where neither a source nor a drive says it.
        backend: "loop" is the plain step loop, the definition of correct; "sequence" one function
            over the whole sequence with a backward pass of its own; "event" the same in compiled
            code that visits only the synapses of units that spike; "auto" the fastest that can run
            the case: "event" on a CPU with a compiler, else "sequence".
        segment_steps: keep the states of that many steps only and compute those of other segments
            again in the backward pass: memory for time. None keeps all.
        record_potential: whether to return potentials, with their gradient.
        smooth: replace spikes by the surrogate's primitive, whose gradient is exact: a check.

    Returns:
        Spikes, potentials, and what the next chunk starts from.

    Raises:
        ValueError: shapes, types or devices disagree; a delay is too short; the backend is unknown
            or cannot run this.
    """
    problem = Problem.make(
        neuron,
        synapses,
        n_units=n_units,
        dt_ms=dt_ms,
        drive=drive,
        carry=carry,
        size=size,
        segment_steps=segment_steps,
        record_potential=record_potential,
        smooth=smooth,
    )
    name = choose(backend, problem)
    run = BACKENDS[name](problem)
    return Simulation(run.spikes, run.potential, problem.next_carry(run), name)


def choose(backend: str, problem: Problem) -> str:
    """Return the name of the backend that runs a problem.

    Raises:
        ValueError: the backend is unknown or cannot run this.
    """
    if backend == "auto":
        return _fastest(problem)
    if backend not in BACKENDS:
        msg = f"backend = {backend!r} is none of 'auto', {', '.join(map(repr, BACKENDS))}"
        raise ValueError(msg)
    if backend == "event":
        reason = event.obstacle(problem) or not_compiled(problem.history.dtype)
        if reason is not None:
            msg = f"backend 'event' cannot run this: {reason}; backend 'auto' finds one that can"
            raise ValueError(msg)
    return backend


def _fastest(problem: Problem) -> str:
    if event.obstacle(problem) is None:
        reason = not_compiled(problem.history.dtype)
        if reason is None:
            return "event"
        _warn_once(reason)
    return "sequence" if sequence.can_run(problem) else "loop"


@functools.cache
def _warn_once(reason: str) -> None:
    msg = f"spiking networks run in PyTorch, several times slower than compiled: {reason}"
    # The caller of simulate, past choose and _fastest.
    warnings.warn(msg, NotCompiledWarning, stacklevel=5)
