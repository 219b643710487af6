"""Backend "loop": one step after the other by autograd; slow, and the definition of correct."""

from __future__ import annotations

import torch

from neuro.spiking.neurons.neuron import Values
from neuro.spiking.problem import Problem, Run
from neuro.spiking.surrogate import spike


def run(problem: Problem) -> Run:
    """Step through a problem.

    Raises:
        ValueError: spikes shall be smooth, and the neuron makes them itself.
    """
    neuron = problem.neuron
    if problem.smooth and hasattr(neuron, "step"):
        msg = f"{type(neuron).__name__} makes its spikes itself; it cannot make them smooth"
        raise ValueError(msg)
    depth = problem.history.shape[0]
    outside = problem.outside(0, problem.n_steps, differentiable=True)
    nothing = problem.history.new_zeros(problem.n_trials, neuron.n_channels * problem.n_units)
    state, spikes, potentials = problem.start, list(problem.history), []
    for step in range(problem.n_steps):
        x = nothing if outside is None else outside[step]
        for one in problem.recurrent:
            x = x + one.propagate(spikes[depth + step - one.delay])
        fired, state = _step(problem, state, spikes[-1], x)
        spikes.append(fired)
        potentials.append(state[0])
    potential = torch.stack(potentials) if problem.record_potential else None
    return Run(torch.stack(spikes[depth:]), potential, state)


def _step(
    problem: Problem, state: Values, spikes: torch.Tensor, x: torch.Tensor
) -> tuple[torch.Tensor, Values]:
    """Return spikes and state after a step; a neuron with a method `step` takes it itself."""
    neuron, constants = problem.neuron, problem.constants
    if hasattr(neuron, "step"):
        return neuron.step(state, x)
    state = neuron.integrate(state, spikes, x, constants)
    excess = neuron.excess(state, constants)
    return spike(excess, neuron.surrogate, smooth=problem.smooth), state
