"""Backend "loop": one step after the other by autograd; slow, and the definition of correct."""

from __future__ import annotations

import torch

from neuro.spiking.problem import Problem, Run
from neuro.spiking.surrogate import spike


def run(problem: Problem) -> Run:
    """Step through a problem."""
    neuron, constants = problem.neuron, problem.constants
    depth = problem.history.shape[0]
    outside = problem.outside(0, problem.n_steps)
    nothing = problem.history.new_zeros(problem.n_trials, neuron.n_channels * problem.n_units)
    state, spikes, potentials = problem.start, list(problem.history), []
    for step in range(problem.n_steps):
        x = nothing if outside is None else outside[step]
        for one in problem.recurrent:
            x = x + one.propagate(spikes[depth + step - one.delay])
        state = neuron.integrate(state, spikes[-1], x, constants)
        excess = neuron.excess(state, constants)
        spikes.append(spike(excess, neuron.surrogate, smooth=problem.smooth))
        potentials.append(state[0])
    potential = torch.stack(potentials) if problem.record_potential else None
    return Run(torch.stack(spikes[depth:]), potential, state)
