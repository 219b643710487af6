"""Backend "event": compiled code that visits only the synapses of units that spike; for CPUs.

native/event.cpp steps through the sequence and back; this file says what it may run and fits it
into autograd. Of each step it keeps the potential and at most two numbers a neuron besides, from
which the backward pass needs no second forward pass; with segments it keeps only the states at
their starts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from neuro.spiking.compact_edges import compact_post
from neuro.spiking.event_call import (
    MODELS,
    N_SUMMED,
    REALS,
    SURROGATES,
    Caller,
    Kept,
    State,
    pointer,
    pointers,
    sums_constants,
)
from neuro.spiking.gradients import Gradients
from neuro.spiking.neurons.neuron import Values
from neuro.spiking.problem import Problem, Run, rebuilt

# Gradients of x gathered before they go to the weights: as many as stay in a cache.
CHUNK_BYTES = 1 << 20
MAX_CHUNK_STEPS = 64
KEPT = len(Kept().flat())


def obstacle(problem: Problem) -> str | None:
    """Return why the compiled code cannot run a problem, compiler aside; None where it can."""
    neuron, history = problem.neuron, problem.history
    if history.device.type != "cpu":
        return f"it runs on a CPU, and the tensors are on {str(history.device)!r}"
    if history.dtype not in REALS:
        return f"it computes in float32 or float64, not in {history.dtype}"
    if type(neuron) not in MODELS:
        known = ", ".join(model.__name__ for model in MODELS)
        return f"it knows the neurons {known}, not {type(neuron).__name__}"
    if type(neuron.surrogate) not in SURROGATES:
        return f"it does not know the surrogate {type(neuron.surrogate).__name__}"
    edges = [one.edges for one in (*problem.recurrent, *problem.inputs) if one.edges is not None]
    if any(compact_post(one) is None for one in edges):
        return "its edges must be sorted by pre, then post, with no pair twice: use make_edges"
    return None


def run(problem: Problem) -> Run:
    """Step through a problem.

    Raises:
        CompilerMissing: there is no compiler.
        CompileFailed: it does not compile the sources.
    """
    detached = problem.detached()
    if torch.is_grad_enabled() and any(detached.wanted):
        spikes, potential, *state = _Event.apply(detached, *problem.tensors())
        return Run(spikes, potential, rebuilt(problem.start, state))
    spikes, kept, _, last = _forward(Caller(detached), keep=False)
    return Run(spikes, kept.states[0], rebuilt(problem.start, last))


class _Event(torch.autograd.Function):
    """Of `Problem.tensors`; the state that it returns carries no gradient."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, *tensors: torch.Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        caller = Caller(problem)
        one_segment = len(problem.segments()) == 1
        spikes, kept, starts, state = _forward(caller, keep=one_segment)
        ctx.caller, ctx.one_segment = caller, one_segment
        whole = kept.flat() if one_segment else [None] * KEPT
        # Weights and sources are saved so that autograd refuses them once they have changed.
        ctx.save_for_backward(spikes, *whole, *(one for start in starts for one in start), *tensors)
        ctx.mark_non_differentiable(*(one for one in state if one is not None))
        ctx.set_materialize_grads(False)
        return spikes, kept.states[0] if problem.record_potential else None, *state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        caller: Caller = ctx.caller
        spikes, *saved = ctx.saved_tensors
        kept = Kept.of(saved[:KEPT]) if ctx.one_segment else None
        segments, width = caller.problem.segments(), len(caller.problem.start)
        starts = [saved[KEPT + i * width :][:width] for i in range(len(segments))]
        back = _Backward(caller, spikes, grads[0], grads[1])
        for start, span in reversed(list(zip(starts, segments, strict=True))):
            back.segment(start, span, kept)
        return None, *back.in_order()


def _forward(caller: Caller, *, keep: bool) -> tuple[torch.Tensor, Kept, list[State], State]:
    """Return spikes, what is kept, states at the starts of segments, and the last state."""
    problem = caller.problem
    shape = (problem.n_steps, problem.n_trials, problem.n_units)
    spikes = problem.history.new_empty(shape)
    potential = torch.empty_like(spikes) if problem.record_potential else None
    kept = caller.room(problem.n_steps, potential) if keep else Kept((potential, None, None))
    state = _copy(problem.start)
    starts = []
    for first, last in problem.segments():
        starts.append(_copy(state))
        part = kept
        if not keep and potential is not None:
            part = Kept((potential[first:last], None, None))
        caller.forward((first, last), spikes, state, part)
    return spikes, kept, starts, state


class _Backward:
    """Gradients of a problem, segment by segment, the last one first."""

    def __init__(
        self,
        caller: Caller,
        spikes: torch.Tensor,
        grad_spikes: torch.Tensor | None,
        grad_potential: torch.Tensor | None,
    ) -> None:
        problem = caller.problem
        self._caller, self._problem, self._spikes = caller, problem, spikes
        wanted = iter(problem.wanted)
        wants_drive = next(wanted)
        sets = (*problem.recurrent, *problem.inputs)
        self._weights = [_room(one.weights) if next(wanted) else None for one in sets]
        self._sources = [_room(one.source) if next(wanted) else None for one in problem.inputs]
        self._grads = [
            None if one is None else one.contiguous() for one in (grad_spikes, grad_potential)
        ]
        self._state = [None if one is None else torch.zeros_like(one) for one in problem.start[:-1]]
        self._carry = torch.zeros_like(problem.history[0])
        self._fields = self._rooms_of_x(wants_drive) | {
            "grad_spikes": pointer(self._grads[0]),
            "grad_potential": pointer(self._grads[1]),
            "grad_state": pointers(self._state),
            "carry": pointer(self._carry),
        }
        before = (False,) * (len(problem.wanted) - len(problem.constants))
        only = before + problem.wanted[len(before) :]
        self._constants = Gradients(problem._replace(wanted=only))
        self._summed = sums_constants(problem)
        asked = only[len(before) :][:N_SUMMED] if self._summed else (False,) * N_SUMMED
        like = problem.history.new_zeros(problem.n_units)
        self._parts = [torch.zeros_like(like) if want else None for want in asked]
        totals = (torch.zeros_like(like, dtype=torch.float64) for _ in asked)
        self._totals = [one if want else None for one, want in zip(totals, asked, strict=True)]
        self._fields |= {
            "constants_part": pointers(self._parts, N_SUMMED),
            "constants_total": pointers(self._totals, N_SUMMED),
        }

    def _rooms_of_x(self, wants_drive: bool) -> dict[str, Any]:
        """Make room for gradients of x: of all steps, or in turn for those that are needed."""
        problem, like = self._problem, self._problem.history
        n_wide = problem.neuron.n_channels * problem.n_units
        chunk = CHUNK_BYTES // (problem.n_trials * n_wide * like.element_size() or 1)
        chunk = min(max(chunk, 1), MAX_CHUNK_STEPS)
        # The gradient of the drive is that of x.
        ring = problem.n_steps if wants_drive else max(chunk, len(problem.history) + 1)
        self._grad_x = like.new_empty(ring, problem.n_trials, n_wide)
        self._drive = self._grad_x if wants_drive else None
        padded = self._padded_trials()
        self._by_unit = like.new_empty(ring, n_wide, padded) if padded else None
        return {
            "grad_x": pointer(self._grad_x),
            "grad_x_by_unit": pointer(self._by_unit),
            "ring_steps": ring,
            "chunk_steps": chunk,
            "padded_trials": padded,
        }

    def _padded_trials(self) -> int:
        """Return how many trials sparse products read side by side; 0 where there are none."""
        pairs = [(one, True) for one in self._problem.recurrent]
        pairs += zip(self._problem.inputs, (one is not None for one in self._sources), strict=True)
        n_trials, lanes = self._problem.n_trials, self._caller.library.event_lanes()
        if n_trials == 1 or not any(one.edges is not None and back for one, back in pairs):
            return 0
        return lanes // 2 if n_trials <= lanes // 2 else -(-n_trials // lanes) * lanes

    def segment(self, start: State, span: tuple[int, int], kept: Kept | None) -> None:
        """Add what a segment brings.

        Args:
            start: state before it.
            span: first step, and the one after the last.
            kept: of the segment; None to compute it again.
        """
        caller = self._caller
        traced = self._problem.trained_constants and not self._summed
        if kept is None:
            kept = caller.room(span[1] - span[0])
            caller.forward(span, self._spikes, _copy(start), kept, replay=True)
        fields = self._fields | {"start_potential": pointer(start[0])}
        excess: torch.Tensor | None = None
        trace: State = [None, None, None]
        if traced:
            excess = torch.empty_like(kept.states[0])
            trace = [None if one is None else torch.empty_like(one) for one in kept.states]
            fields["kept_grad_excess"] = pointer(excess)
            fields["kept_grad_state"] = pointers(trace)
        caller.backward(span, self._spikes, kept, (self._weights, self._sources), **fields)
        if excess is not None:
            after = rebuilt(self._problem.start, [*trace[: len(start) - 1], None])
            self._constants.add_constants(self._before(start, span, kept), after, excess)

    def _before(
        self, start: State, span: tuple[int, int], kept: Kept
    ) -> tuple[Values, torch.Tensor, Any]:
        """Return states before the steps of a segment, spikes before them, and what arrived."""
        after = [*kept.states[: len(start) - 1], kept.countdown]
        before = [
            None if at is None or one is None else torch.cat([at[None], one[:-1]])
            for at, one in zip(start, after, strict=True)
        ]
        spikes = self._spikes.detach()[max(span[0] - 1, 0) : span[1] - 1]
        if span[0] == 0:
            spikes = torch.cat([self._problem.history[-1:], spikes])
        return rebuilt(self._problem.start, before), spikes, kept.x

    def in_order(self) -> list[torch.Tensor | None]:
        """Return the gradients in the order of `Problem.tensors`."""
        constants = self._constants.in_order()[-len(self._problem.constants) :]
        if self._summed:
            dtype = self._problem.history.dtype
            totals = [None if one is None else one.to(dtype) for one in self._totals]
            constants[:N_SUMMED] = totals
        return [self._drive, *self._weights, *self._sources, *constants]


def _room(like: torch.Tensor | None) -> torch.Tensor | None:
    """Return memory for a gradient, all of which will be written."""
    return None if like is None else torch.empty_like(like, memory_format=torch.contiguous_format)


def _copy(state: Any) -> State:  # noqa: ANN401
    return [
        None if one is None else one.clone(memory_format=torch.contiguous_format) for one in state
    ]
