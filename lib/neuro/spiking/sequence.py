"""Backend "sequence": one autograd function over all steps, with a backward pass of its own.

The forward pass hoists what comes from outside into one product for all steps and keeps, besides
the spikes, only states of the neurons. The backward pass walks the steps in reverse with the
neuron's `integrate_vjp` and gathers the gradient of the weights in one product a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from neuro.spiking.gradients import Gradients
from neuro.spiking.neurons.neuron import Values
from neuro.spiking.problem import Problem, Run, rebuilt


def can_run(problem: Problem) -> bool:
    """Return whether the neuron brings a backward pass."""
    return hasattr(problem.neuron, "integrate_vjp")


def run(problem: Problem) -> Run:
    """Step through a problem.

    Raises:
        ValueError: the neuron brings no backward pass.
    """
    if not can_run(problem):
        msg = f"{type(problem.neuron).__name__} has no backward pass of its own; use backend 'loop'"
        raise ValueError(msg)
    spikes, potential, *state = _Sequence.apply(problem.detached(), *problem.tensors())
    return Run(spikes, potential, rebuilt(problem.start, state))


class Kept(NamedTuple):
    """States of a segment: `states[k]` before its step k, one more at the end; its inputs x."""

    states: list[Values]
    xs: list[torch.Tensor]

    def flat(self) -> list[torch.Tensor | None]:
        """Return the tensors in a row."""
        return [*(one for state in self.states for one in state), *self.xs]

    @classmethod
    def of(cls, flat: Sequence[torch.Tensor | None], start: Values) -> Kept:
        """Return what `flat` was made from; `start` is a state like those within."""
        width = len(start)
        n_steps = (len(flat) - width) // (width + 1)
        cuts = range(0, (n_steps + 1) * width, width)
        xs: Any = flat[(n_steps + 1) * width :]
        return cls([rebuilt(start, flat[cut : cut + width]) for cut in cuts], list(xs))


class _Sequence(torch.autograd.Function):
    """Of `Problem.tensors`; the state that it returns carries no gradient."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, *tensors: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        depth, n_steps = len(problem.history), problem.n_steps
        trail = problem.history.new_empty(depth + n_steps, *problem.history.shape[1:])
        trail[:depth] = problem.history
        starts, state, kept = [], problem.start, None
        potentials: list[torch.Tensor] = []
        for first, last in problem.segments():
            starts.append(state)
            kept = _advance(problem, state, trail, (first, last), spiking=True)
            state = kept.states[-1]
            if problem.record_potential:
                potentials += [one[0] for one in kept.states[1:]]
        ctx.problem, ctx.starts = problem, starts
        flat = kept.flat() if kept is not None and len(starts) == 1 else []
        ctx.n_kept = len(flat)
        spikes = trail[depth:]
        # Weights and sources are saved so that autograd refuses them once they have changed; states
        # so that they are freed after the backward pass.
        ctx.save_for_backward(trail, *flat, *tensors)
        potential = torch.stack(potentials) if problem.record_potential else None
        last_state = tuple(None if one is None else one.clone() for one in state)
        ctx.mark_non_differentiable(*(one for one in last_state if one is not None))
        ctx.set_materialize_grads(False)
        return spikes.clone(), potential, *last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        problem: Problem = ctx.problem
        trail, *saved = ctx.saved_tensors
        whole = Kept.of(saved[: ctx.n_kept], problem.start) if ctx.n_kept else None
        depth = len(problem.history)
        grad_trail = torch.zeros_like(trail)
        if grads[0] is not None:
            grad_trail[depth:] = grads[0]
        total = Gradients(problem)
        grad_state = tuple(
            None if one is None or not one.is_floating_point() else torch.zeros_like(one)
            for one in problem.start
        )
        for start, span in reversed(list(zip(ctx.starts, problem.segments(), strict=True))):
            kept = whole or _advance(problem, start, trail, span, spiking=False)
            grad_state = _retreat(
                problem, kept, (trail, grad_trail), span, grad_state, grads[1], total
            )
        return None, *total.in_order()


def _advance(
    problem: Problem, state: Values, trail: torch.Tensor, span: tuple[int, int], *, spiking: bool
) -> Kept:
    """Take the steps of a segment; write their spikes into `trail`, or take them from there."""
    neuron, depth = problem.neuron, len(problem.history)
    outside = problem.outside(*span, differentiable=False)
    nothing = trail.new_zeros(problem.n_trials, neuron.n_channels * problem.n_units)
    kept = Kept([state], [])
    for step in range(*span):
        x = nothing if outside is None else outside[step - span[0]]
        for one in problem.recurrent:
            x = x + one.propagate_active(trail[depth + step - one.delay])
        state = neuron.integrate(state, trail[depth + step - 1], x, problem.constants)
        if spiking:
            excess = neuron.excess(state, problem.constants)
            trail[depth + step] = (
                neuron.surrogate.primitive(excess) if problem.smooth else excess > 0
            )
        kept.states.append(state)
        kept.xs.append(x)
    return kept


def _retreat(
    problem: Problem,
    kept: Kept,
    trails: tuple[torch.Tensor, torch.Tensor],
    span: tuple[int, int],
    grad_state: Values,
    grad_potential: torch.Tensor | None,
    total: Gradients,
) -> Values:
    """Walk a segment in reverse; return the gradient of the state before it."""
    neuron, constants, depth = problem.neuron, problem.constants, len(problem.history)
    trail, grad_trail = trails
    first, last = span
    grad_xs = trail.new_empty(last - first, *kept.xs[0].shape)
    grad_states, grad_excesses = [], []
    for step in reversed(range(first, last)):
        before, after = kept.states[step - first], kept.states[step - first + 1]
        derivative = neuron.surrogate.derivative(neuron.excess(after, constants))
        grad_excess = grad_trail[depth + step] * derivative
        if grad_potential is not None:
            grad_state = rebuilt(after, [grad_state[0] + grad_potential[step], *grad_state[1:]])
        grad_state = neuron.add_excess_grad(grad_state, grad_excess, constants)
        grad_states.append(grad_state)
        grad_excesses.append(grad_excess)
        adjoint = neuron.integrate_vjp(
            before, trail[depth + step - 1], kept.xs[step - first], constants, grad_state
        )
        grad_state = adjoint.state
        grad_xs[step - first] = adjoint.x
        for one in problem.recurrent:
            if step >= one.delay:
                grad_trail[depth + step - one.delay] += one.back_propagate(adjoint.x)
        if adjoint.spikes is not None and step > 0:
            grad_trail[depth + step - 1] += adjoint.spikes
    total.add_inputs(trail, grad_xs, span)
    if problem.trained_constants:
        before = (
            _stacked(kept.states[:-1]),
            trail[depth + first - 1 : depth + last - 1],
            torch.stack(kept.xs),
        )
        total.add_constants(before, _stacked(grad_states[::-1]), torch.stack(grad_excesses[::-1]))
    return grad_state


def _stacked(states: list[Values]) -> Values:
    """Return states with steps as a first axis."""
    variables = zip(*states, strict=True)
    return rebuilt(states[0], [None if one[0] is None else torch.stack(one) for one in variables])
