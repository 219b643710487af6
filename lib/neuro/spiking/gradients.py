"""Gradients of all that a population depends on, gathered segment by segment."""

from __future__ import annotations

import torch

from neuro.spiking.neurons.neuron import Values
from neuro.spiking.problem import Problem, rebuilt


class Gradients:
    """Sums over steps, in the order of `Problem.tensors`; None where nothing was asked for."""

    def __init__(self, problem: Problem) -> None:
        """Start from nothing.

        Args:
            problem: from `Problem.detached`.
        """
        self._problem = problem
        wanted = iter(problem.wanted)
        self._drive: list[torch.Tensor] | None = [] if next(wanted) else None
        self._want_weights = [next(wanted) for _ in (*problem.recurrent, *problem.inputs)]
        self._sources: list[list[torch.Tensor] | None] = [
            [] if next(wanted) else None for _ in problem.inputs
        ]
        self._want_constants = list(wanted)
        self._weights: list[torch.Tensor | None] = [None] * len(self._want_weights)
        self._constants: list[torch.Tensor | None] = [None] * len(self._want_constants)

    def add_inputs(self, trail: torch.Tensor, grad_xs: torch.Tensor, span: tuple[int, int]) -> None:
        """Add what a segment says of weights, sources and drive; segments come last first.

        Args:
            trail: spikes of the population, shape (D + T, B, N).
            grad_xs: gradient of the inputs x, shape (steps, B, C * N).
            span: first step of the segment, and the one after its last.
        """
        problem, flat = self._problem, grad_xs.flatten(0, 1)
        depth, (first, last) = len(problem.history), span
        if self._drive is not None:
            self._drive.append(grad_xs)
        for index, one in enumerate((*problem.recurrent, *problem.inputs)):
            if not self._want_weights[index]:
                continue
            source, start = (trail, depth) if one.source is None else (one.source, 0)
            spikes = source[start + first - one.delay : start + last - one.delay].flatten(0, 1)
            self._weights[index] = _sum(self._weights[index], one.weights_grad(spikes, flat))
        for parts, one in zip(self._sources, problem.inputs, strict=True):
            if parts is not None:
                parts.append(one.back_propagate(flat).unflatten(0, grad_xs.shape[:2]))

    def add_constants(
        self,
        before: tuple[Values, torch.Tensor, torch.Tensor],
        grad_state: Values,
        grad_excess: torch.Tensor,
    ) -> None:
        """Add what a segment says of the neuron's own values.

        `integrate` is elementwise, so autograd takes all steps of a segment at once.

        Args:
            before: states, spikes and x, as given to `integrate`, with steps as a first axis.
            grad_state: of the states after each step.
            grad_excess: of the excess after each step; already part of `grad_state`.
        """
        neuron = self._problem.neuron
        constants = tuple(
            one.clone().requires_grad_() if want else one
            for one, want in zip(self._problem.constants, self._want_constants, strict=True)
        )
        asked = [one for one, want in zip(constants, self._want_constants, strict=True) if want]
        with torch.enable_grad():
            after = neuron.integrate(*before, constants)
            held = [None if one is None else one.detach() for one in after]
            excess = neuron.excess(rebuilt(after, held), constants)
            pairs = [(one, g) for one, g in zip(after, grad_state, strict=True) if g is not None]
            pairs.append((excess, grad_excess))
            pairs = [(one, g) for one, g in pairs if one.requires_grad]
            found = torch.autograd.grad(
                [one for one, _ in pairs], asked, [g for _, g in pairs], allow_unused=True
            )
        grads = iter(found)
        for index, want in enumerate(self._want_constants):
            grad = next(grads) if want else None
            if grad is not None:
                self._constants[index] = _sum(self._constants[index], grad)

    def in_order(self) -> list[torch.Tensor | None]:
        """Return the gradients in the order of `Problem.tensors`."""
        lists = [self._drive, *self._sources]
        drive, *sources = [None if one is None else torch.cat(one[::-1]) for one in lists]
        return [drive, *self._weights, *sources, *self._constants]


def _sum(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    return more if total is None else total + more
