"""How memory goes to native/event.cpp and back."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from neuro.spiking import native
from neuro.spiking.compact_edges import compact_post
from neuro.spiking.neurons.adaptive import AdaptiveLIF
from neuro.spiking.neurons.conductance import ConductanceLIF
from neuro.spiking.neurons.currents import CurrentLIF
from neuro.spiking.neurons.lif import LIF, RESETS
from neuro.spiking.problem import Problem
from neuro.spiking.surrogate import ATan, FastSigmoid, Triangle

# In the order of the enumerations of event.cpp and neuron.h.
MODELS = (LIF, AdaptiveLIF, ConductanceLIF, CurrentLIF)
SURROGATES = {FastSigmoid: "slope", ATan: "alpha", Triangle: "width"}
REALS = {torch.float32: "float", torch.float64: "double"}

# The constants of LIF whose gradients the compiled code sums itself: membrane, gain, offset.
N_SUMMED = 3

# Of a state: a tensor for each variable, None where the model has no such one.
State = list[torch.Tensor | None]


@functools.cache
def compiled(dtype: torch.dtype) -> ctypes.CDLL:
    """Return the compiled sources for a floating type.

    Raises:
        CompilerMissing: there is no compiler.
        CompileFailed: it does not compile the sources.
    """
    library = native.library("event.cpp", REAL=REALS[dtype])
    library.event_lanes.restype = ctypes.c_int64
    for function in (library.event_forward, library.event_backward):
        function.argtypes = [ctypes.c_void_p]
        function.restype = None
    return library


@functools.cache
def not_compiled(dtype: torch.dtype) -> str | None:
    """Return why there is no compiled code, None where there is; tried once a process."""
    try:
        compiled(dtype)
    except (native.CompilerMissing, native.CompileFailed) as error:
        return str(error)
    return None


class Kept(NamedTuple):
    """What is kept of each step of a segment, (steps, B, ...); None where nobody asks.

    Attributes:
        states: real variables of the state after the step, three at most.
        countdown: refractory count.
        x: inputs.
        free: potential without the reset of a spike.
        total: conductance that acted in the step; for adaptive neurons the excess.
        held: bits 0 and 1: whether the potential was held, and the current silenced; uint8.
    """

    states: tuple[Any, ...] = (None, None, None)
    countdown: torch.Tensor | None = None
    x: torch.Tensor | None = None
    free: torch.Tensor | None = None
    total: torch.Tensor | None = None
    held: torch.Tensor | None = None

    def flat(self) -> State:
        """Return the tensors in a row."""
        return [*self.states, *self[1:]]

    @classmethod
    def of(cls, flat: State) -> Kept:
        """Return what `flat` was made from."""
        return cls(tuple(flat[:3]), *flat[3:])


class _Synapses(ctypes.Structure):
    """`Synapses` of synapses.h."""

    _fields_ = [
        *[
            (name, ctypes.c_void_p)
            for name in ("weights", "post", "offsets", "source", "weights_grad", "source_grad")
        ],
        *[(name, ctypes.c_int64) for name in ("n_pre", "delay", "is_sparse", "is_outside")],
    ]


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:  # noqa: ANN401
    return [(name, kind) for name in names.split()]


class _Call(ctypes.Structure):
    """`Call` of neuron.h."""

    _fields_ = [
        *_fields(ctypes.c_int64, "n_steps first last n_trials n_units n_channels depth n_sets"),
        *_fields(ctypes.c_int64, "model surrogate smooth replay"),
        *_fields(ctypes.c_int64, "reset detach_reset silence_current n_kinds"),
        ("surrogate_parameter", ctypes.c_double),
        *_fields(ctypes.c_void_p, "channels sets history drive spikes"),
        ("constants", ctypes.c_void_p * 9),
        ("refractory", ctypes.c_void_p),
        ("state", ctypes.c_void_p * 3),
        ("count", ctypes.c_void_p),
        ("kept_state", ctypes.c_void_p * 3),
        *_fields(ctypes.c_void_p, "kept_countdown kept_x kept_free kept_total kept_held"),
        *_fields(ctypes.c_void_p, "start_potential grad_spikes grad_potential"),
        ("grad_state", ctypes.c_void_p * 3),
        *_fields(ctypes.c_void_p, "carry grad_x grad_x_by_unit"),
        *_fields(ctypes.c_int64, "ring_steps chunk_steps padded_trials"),
        ("kept_grad_state", ctypes.c_void_p * 3),
        ("kept_grad_excess", ctypes.c_void_p),
        ("constants_part", ctypes.c_void_p * N_SUMMED),
        ("constants_total", ctypes.c_void_p * N_SUMMED),
    ]


class Caller:
    """A problem in the form that the compiled code takes, for any of its segments."""

    def __init__(self, problem: Problem) -> None:
        """Lay out what does not change from call to call.

        Args:
            problem: from `Problem.detached`.
        """
        self.problem = problem
        self.library = compiled(problem.history.dtype)
        neuron: Any = problem.neuron
        # Held here because the compiled code is given no more than their addresses.
        drive, history, *constants = (
            None if one is None else one.contiguous()
            for one in (problem.drive, problem.history, *problem.constants)
        )
        self._sets = [
            (one.weights.contiguous(), None if one.source is None else one.source.contiguous())
            for one in (*problem.recurrent, *problem.inputs)
        ]
        channels = neuron.channels if isinstance(neuron, (ConductanceLIF, CurrentLIF)) else [0]
        in_c = (ctypes.c_int64 * len(channels))(*channels)
        self._held = (drive, history, constants, in_c)
        self._common: dict[str, Any] = {
            "n_steps": problem.n_steps,
            "n_trials": problem.n_trials,
            "n_units": problem.n_units,
            "n_channels": neuron.n_channels,
            "depth": len(problem.history),
            "n_sets": len(self._sets),
            "model": MODELS.index(type(neuron)),
            "surrogate": list(SURROGATES).index(type(neuron.surrogate)),
            "surrogate_parameter": getattr(neuron.surrogate, SURROGATES[type(neuron.surrogate)]),
            "smooth": problem.smooth,
            "reset": RESETS.index(neuron.reset) if isinstance(neuron, LIF) else 0,
            "detach_reset": neuron.detach_reset,
            "silence_current": isinstance(neuron, LIF) and neuron.silence_current,
            "n_kinds": len(channels),
            "channels": ctypes.addressof(in_c),
            "history": pointer(history),
            "drive": pointer(drive),
            "constants": pointers(constants[:-1], 9),
            "refractory": pointer(constants[-1]),
        }

    def forward(
        self,
        span: tuple[int, int],
        spikes: torch.Tensor,
        state: State,
        kept: Kept,
        *,
        replay: bool = False,
    ) -> None:
        """Take the steps of a segment.

        Args:
            span: first step, and the one after the last.
            spikes: (T, B, N), written, or with `replay` read.
            state: before the segment; overwritten with that after it.
            kept: written.
            replay: whether the spikes are known.
        """
        call = self._call(span, spikes, kept, replay=int(replay))
        call.state = pointers(state[:-1])
        call.count = pointer(state[-1])
        sets = self._synapses(None, None)
        call.sets = ctypes.addressof(sets)
        self.library.event_forward(ctypes.addressof(call))

    def backward(
        self,
        span: tuple[int, int],
        spikes: torch.Tensor,
        kept: Kept,
        grads: tuple[State, State],
        **fields: Any,  # noqa: ANN401
    ) -> None:
        """Walk the steps of a segment in reverse; `grads`: of weights, and of sources."""
        call = self._call(span, spikes, kept, **fields)
        sets = self._synapses(*grads)
        call.sets = ctypes.addressof(sets)
        self.library.event_backward(ctypes.addressof(call))

    def _call(
        self,
        span: tuple[int, int],
        spikes: torch.Tensor,
        kept: Kept,
        **fields: Any,  # noqa: ANN401
    ) -> _Call:
        return _Call(
            first=span[0],
            last=span[1],
            spikes=pointer(spikes),
            kept_state=pointers(kept.states),
            **{f"kept_{name}": pointer(getattr(kept, name)) for name in Kept._fields[1:]},
            **fields,
            **self._common,
        )

    def _synapses(
        self,
        weights_grads: State | None,
        source_grads: State | None,
    ) -> ctypes.Array[_Synapses]:
        problem, n_recurrent = self.problem, len(self.problem.recurrent)
        sets = (_Synapses * max(len(self._sets), 1))()
        for index, one in enumerate((*problem.recurrent, *problem.inputs)):
            weights, source = self._sets[index]
            entry = sets[index]
            entry.weights, entry.source = pointer(weights), pointer(source)
            if one.edges is not None:
                entry.post = pointer(compact_post(one.edges))
                entry.offsets = pointer(one.edges.offsets)
            if weights_grads is not None:
                entry.weights_grad = pointer(weights_grads[index])
            if source_grads is not None and source is not None:
                entry.source_grad = pointer(source_grads[index - n_recurrent])
            entry.n_pre, entry.delay = one.n_pre, one.delay
            entry.is_sparse, entry.is_outside = one.edges is not None, one.source is not None
        return sets

    def room(self, n_steps: int, potential: torch.Tensor | None = None) -> Kept:
        """Return memory for what the backward pass needs of a segment.

        Args:
            n_steps: of the segment.
            potential: memory for potentials, where there is some already.
        """
        problem = self.problem
        neuron: Any = problem.neuron
        like = problem.history
        shape = (n_steps, problem.n_trials, problem.n_units)
        trained = problem.trained_constants
        traced = trained and not sums_constants(problem)
        if potential is None:
            potential = like.new_empty(shape)
        states: State = [potential, None, None]
        if trained:
            for index, one in enumerate(problem.start[1:-1], start=1):
                states[index] = None if one is None else one.new_empty(n_steps, *one.shape)
        refractory = problem.constants[-1] is not None
        jumps = isinstance(neuron, (ConductanceLIF, CurrentLIF))
        jumps = jumps or (isinstance(neuron, LIF) and neuron.reset == "hold")
        wide = (*shape[:2], neuron.n_channels * problem.n_units)
        return Kept(
            states=tuple(states),
            countdown=like.new_empty(shape, dtype=torch.int32) if refractory and traced else None,
            x=like.new_empty(wide) if traced or (trained and states[1] is None) else None,
            free=like.new_empty(shape) if jumps and not neuron.detach_reset else None,
            total=None if isinstance(neuron, (LIF, CurrentLIF)) else like.new_empty(shape),
            held=like.new_empty(shape, dtype=torch.uint8) if refractory else None,
        )


def sums_constants(problem: Problem) -> bool:
    """Whether the compiled code sums all gradients of constants that are wanted."""
    others = problem.wanted[len(problem.wanted) - len(problem.constants) + N_SUMMED :]
    return problem.trained_constants and type(problem.neuron) is LIF and not any(others)


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Return the address of a contiguous tensor's values, null for None."""
    return None if tensor is None else tensor.data_ptr()


def pointers(tensors: Sequence[torch.Tensor | None], size: int = 3) -> Any:  # noqa: ANN401
    """Return addresses as an array of C."""
    return (ctypes.c_void_p * size)(*(pointer(one) for one in tensors))
