"""Two engines for the whole-brain simulation: compiled code, and numpy; their spikes are the same.

Both do the same operations in the same order, with the same rounding. Potentials are relative to
rest here. The model and the meaning of the constants are in `whole_brain`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.spiking import native
from neuro.spiking.whole_brain_kicks import Schedule, kicked_neurons

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODE_NUMBERS = {"all": 0, "active": 1, "auto": 2}


class Plan(NamedTuple):
    """All that an engine needs to know; arrays are contiguous.

    Attributes:
        offsets, targets, weights: edges by presynaptic neuron, int64, int32, float32 or float64.
        n_steps: T.
        refractory_steps: int32, shape (N,).
        delay_steps: >= 1.
        membrane, synapse, gain: v' = membrane v + gain g, g' = synapse g.
        threshold, reset: relative to rest.
        floor: at or below which both |v| and |g| are set to 0 after every `delay_steps`.
        kick: added to v.
        schedule: who is kicked, and when.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    weights: NDArray[np.floating]
    n_steps: int
    refractory_steps: NDArray[np.int32]
    delay_steps: int
    membrane: float
    synapse: float
    gain: float
    threshold: float
    reset: float
    floor: float
    kick: float
    schedule: Schedule

    @property
    def n_neurons(self) -> int:
        """Neurons N."""
        return len(self.offsets) - 1


class Spikes(NamedTuple):
    """What an engine returns; see `whole_brain.WholeBrainRaster`."""

    steps: NDArray[np.int64]
    neurons: NDArray[np.int32]
    active_fraction: float
    dense_fraction: float


class _Problem(ctypes.Structure):
    """WholeBrainProblem of whole_brain.cpp, field for field."""

    _fields_ = [
        ("n_neurons", ctypes.c_int64),
        ("n_steps", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("refractory_steps", ctypes.c_void_p),
        ("delay_steps", ctypes.c_int64),
        ("membrane", ctypes.c_double),
        ("synapse", ctypes.c_double),
        ("gain", ctypes.c_double),
        ("threshold", ctypes.c_double),
        ("reset", ctypes.c_double),
        ("floor", ctypes.c_double),
        ("mode", ctypes.c_int64),
        ("sparse_below", ctypes.c_double),
        ("dense_above", ctypes.c_double),
        ("kick", ctypes.c_double),
        ("n_inputs", ctypes.c_int64),
        ("inputs", ctypes.c_void_p),
        ("limits", ctypes.c_void_p),
        ("key", ctypes.c_uint64),
        ("n_events", ctypes.c_int64),
        ("event_steps", ctypes.c_void_p),
        ("event_neurons", ctypes.c_void_p),
    ]


def run_native(plan: Plan, *, mode: str, sparse_below: float, dense_above: float) -> Spikes:
    """Simulate with compiled code.

    Args:
        plan: what to simulate.
        mode: "all", "active" or "auto".
        sparse_below: active fraction at which "auto" makes a block sparse.
        dense_above: active fraction at which it makes one dense.

    Raises:
        neuro.spiking.native.CompilerMissing: there is no compiler.
        MemoryError: there is no room for the spikes.
    """
    library = native.library("whole_brain.cpp")
    run = getattr(library, _entry(plan))
    run.restype = ctypes.c_void_p
    library.whole_brain_count.restype = ctypes.c_int64
    problem = _problem(plan, mode, sparse_below, dense_above)
    result = run(ctypes.byref(problem))
    if not result:
        msg = f"no memory for the spikes of {plan.n_neurons} neurons in {plan.n_steps} steps"
        raise MemoryError(msg)
    handle = ctypes.c_void_p(result)
    try:
        count = library.whole_brain_count(handle)
        steps, neurons = np.empty(count, np.int64), np.empty(count, np.int32)
        fractions = np.empty(2)
        library.whole_brain_read(handle, *map(_pointer, (steps, neurons, fractions)))
    finally:
        library.whole_brain_free(handle)
    return Spikes(steps, neurons, float(fractions[0]), float(fractions[1]))


def _entry(plan: Plan) -> str:
    single = plan.weights.dtype == np.float32
    return "whole_brain_run_float" if single else "whole_brain_run_double"


def _problem(plan: Plan, mode: str, sparse_below: float, dense_above: float) -> _Problem:
    schedule = plan.schedule
    own = {
        "n_neurons": plan.n_neurons,
        "mode": MODE_NUMBERS[mode],
        "sparse_below": sparse_below,
        "dense_above": dense_above,
        "n_inputs": len(schedule.inputs),
        "n_events": len(schedule.event_steps),
    }
    values = plan._asdict() | schedule._asdict() | own
    taken = {field[0]: values[field[0]] for field in _Problem._fields_}
    return _Problem(
        **{k: _pointer(v) if isinstance(v, np.ndarray) else v for k, v in taken.items()}
    )


def _pointer(array: NDArray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def run_numpy(plan: Plan) -> Spikes:
    """Simulate with numpy: every neuron in every step, but only the edges of who spikes."""
    real = plan.weights.dtype.type
    membrane, synapse, gain = real(plan.membrane), real(plan.synapse), real(plan.gain)
    threshold, reset, kick = real(plan.threshold), real(plan.reset), real(plan.kick)
    v, g = np.zeros(plan.n_neurons, real), np.zeros(plan.n_neurons, real)
    hold_steps = np.maximum(plan.refractory_steps, 1)
    held_until = np.zeros(plan.n_neurons, np.int64)
    held = np.empty(0, np.int64)
    fired: list[NDArray[np.int64]] = []
    active = 0
    for step in range(plan.n_steps):
        v = membrane * v + gain * g
        g *= synapse
        fired.append(np.flatnonzero(v > threshold))
        if step >= plan.delay_steps:
            edges = _edges(plan, fired[step - plan.delay_steps])
            np.add.at(g, plan.targets[edges], plan.weights[edges])
        np.add.at(v, kicked_neurons(plan.schedule, step), kick)
        held_until[fired[step]] = step + hold_steps[fired[step]]
        held = np.concatenate([held, fired[step]])
        v[held], g[held] = reset, 0
        held = held[held_until[held] > step + 1]
        if (step + 1) % plan.delay_steps == 0:
            rests = (np.abs(v) <= real(plan.floor)) & (np.abs(g) <= real(plan.floor))
            v[rests] = g[rests] = 0
            active += plan.n_neurons - int(np.count_nonzero(rests))
    steps = np.repeat(np.arange(plan.n_steps), [len(some) for some in fired])
    neurons = np.concatenate([np.empty(0, np.int64), *fired]).astype(np.int32)
    windows = plan.n_steps // plan.delay_steps
    return Spikes(steps, neurons, active / (windows * plan.n_neurons) if windows else 0.0, 1.0)


def _edges(plan: Plan, neurons: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the edges of some neurons, one neuron after the other."""
    first = plan.offsets[neurons]
    count = plan.offsets[neurons + 1] - first
    before = np.cumsum(count) - count
    return np.arange(count.sum()) + np.repeat(first - before, count)
