"""Forward simulation of a whole brain's leaky integrate-and-fire neurons, driven by events.

The model of Shiu et al. 2024 (doi:10.1038/s41586-024-07763-9): a spike raises a synaptic input g of
its targets after a delay; a neuron that spikes is silent and deaf for its refractory time. In every
step of dt, in this order:

    v <- v_rest + (v - v_rest) e_m + k g,  g <- g e_s     where not refractory: the exact solution
         of tau_mem dv/dt = v_rest - v + g,  tau_syn dg/dt = -g
    spike where v > v_threshold
    g <- g + weights of the spikes of `delay` ago, v <- v + kicks     where not refractory
    v <- v_reset, g <- 0 where a spike is, and for refractory_ms from then on

No gradients, one thread. What costs time are the spikes and the neurons that are not at rest.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.spiking import native
from neuro.spiking.whole_brain_engines import Plan, run_native, run_numpy
from neuro.spiking.whole_brain_kicks import GivenKicks, PoissonKicks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "GivenKicks",
    "PoissonKicks",
    "WholeBrainLIF",
    "WholeBrainRaster",
    "Wiring",
    "simulate_whole_brain",
    "wire",
]

MODES = ("all", "active", "auto")
ENGINES = ("auto", "native", "numpy")

# Steps of a delay that the compiled code can count beside a neuron's place in its block.
MOST_STEPS = 2**20

# Share of a block's neurons away from rest below which "auto" keeps only those, and above which it
# keeps all: measured, see benchmarks/spiking_whole_brain.py.
SPARSE_BELOW, DENSE_ABOVE = 0.6, 0.75


@dataclass(frozen=True)
class WholeBrainLIF:
    """Constants of all neurons; the defaults are those of Shiu et al. 2024.

    Attributes:
        dt_ms: step.
        v_rest_mv, v_reset_mv, v_threshold_mv: potentials; the first two lie below the third.
        tau_mem_ms, tau_syn_ms: time constants of v and g.
        refractory_ms: one value or one for each neuron, shape (N,), whole numbers of steps.
        delay_ms: from a spike to its effect on g, 1 .. 2^20 - 1 whole steps.
        floor_mv: a neuron whose v - v_rest and g are both within this of 0 is set to exact rest, in
            all modes, once every `delay_ms`. None is half a unit in the last place of v_rest, the
            error that v itself would have if it were stored instead of v - v_rest; 0 leaves all.
    """

    dt_ms: float = 0.1
    v_rest_mv: float = -52.0
    v_reset_mv: float = -52.0
    v_threshold_mv: float = -45.0
    tau_mem_ms: float = 20.0
    tau_syn_ms: float = 5.0
    refractory_ms: float | NDArray[np.float64] = 2.2
    delay_ms: float = 1.8
    floor_mv: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no model.

        Raises:
            ValueError: a time is not positive, or a neuron would spike from rest or reset.
        """
        for name in ("dt_ms", "tau_mem_ms", "tau_syn_ms", "delay_ms"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                msg = f"{name} = {value!r} is not a positive number of ms"
                raise ValueError(msg)
        if not max(self.v_rest_mv, self.v_reset_mv) < self.v_threshold_mv:
            msg = (
                f"v_threshold_mv = {self.v_threshold_mv!r} must lie above v_rest_mv = "
                f"{self.v_rest_mv!r} and v_reset_mv = {self.v_reset_mv!r}"
            )
            raise ValueError(msg)

    @property
    def gain(self) -> float:
        """What g at the start of a step adds to v within it: k."""
        apart = self.dt_ms / self.tau_mem_ms - self.dt_ms / self.tau_syn_ms
        ratio = math.expm1(apart) / apart if apart else 1.0
        return self.dt_ms / self.tau_mem_ms * math.exp(-self.dt_ms / self.tau_mem_ms) * ratio


@dataclass(frozen=True, eq=False)
class Wiring:
    """Synapses by presynaptic neuron: i reaches targets[offsets[i] : offsets[i + 1]].

    Attributes:
        offsets: int64, shape (N + 1,).
        targets: int32, shape (E,), in 0 .. N - 1.
        weights_mv: what a spike adds to g, float32 or float64, shape (E,). Their type is the type
            of the whole simulation.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    weights_mv: NDArray[np.floating]

    def __post_init__(self) -> None:
        """Refuse what is no wiring; done once because there may be many edges.

        Raises:
            ValueError: a type, the offsets or a target is wrong.
        """
        if self.weights_mv.dtype not in (np.float32, np.float64):
            msg = f"weights_mv has type {self.weights_mv.dtype}; give float32 or float64"
            raise ValueError(msg)
        n_edges = len(self.targets)
        spans = len(self.offsets) > 1 and self.offsets[0] == 0 and self.offsets[-1] == n_edges
        if not spans or len(self.weights_mv) != n_edges or (np.diff(self.offsets) < 0).any():
            msg = (
                f"offsets must rise from 0 to the number of edges; there are {n_edges} targets and "
                f"{len(self.weights_mv)} weights"
            )
            raise ValueError(msg)
        if not np.isfinite(self.weights_mv).all():
            msg = "weights_mv holds values that are not finite"
            raise ValueError(msg)
        _check_neurons("targets", self.targets, self.n_neurons)

    @property
    def n_neurons(self) -> int:
        """Neurons N."""
        return len(self.offsets) - 1


class WholeBrainRaster(NamedTuple):
    """Spikes, by step and then by neuron.

    Attributes:
        steps: int64, shape (S,); the time is steps * dt_ms.
        neurons: int32, shape (S,).
        active_fraction: neurons away from rest, mean over time.
        dense_fraction: neurons in blocks that were updated as a whole, mean over time.
        engine: "native" or "numpy".
    """

    steps: NDArray[np.int64]
    neurons: NDArray[np.int32]
    active_fraction: float
    dense_fraction: float
    engine: str


def wire(
    pre: ArrayLike, post: ArrayLike, weights_mv: NDArray[np.floating], *, n_neurons: int
) -> Wiring:
    """Sort edges by presynaptic neuron; the edges of one neuron keep their order.

    Args:
        pre: presynaptic neuron of each edge, shape (E,).
        post: postsynaptic neuron, shape (E,).
        weights_mv: float32 or float64, shape (E,).
        n_neurons: N.

    Raises:
        ValueError: shapes differ or a neuron is outside 0 .. N - 1.
    """
    pre, post = np.asarray(pre), np.asarray(post)
    if not pre.shape == post.shape == weights_mv.shape or pre.ndim != 1:
        msg = (
            f"pre, post and weights_mv have shapes {pre.shape}, {post.shape} and "
            f"{weights_mv.shape}; all must be (E,)"
        )
        raise ValueError(msg)
    _check_neurons("pre", pre, n_neurons)
    order = np.argsort(pre, kind="stable")
    offsets = np.zeros(n_neurons + 1, np.int64)
    np.cumsum(np.bincount(pre, minlength=n_neurons), out=offsets[1:])
    return Wiring(offsets, post[order].astype(np.int32), weights_mv[order])


def simulate_whole_brain(
    wiring: Wiring,
    kicks: PoissonKicks | GivenKicks,
    *,
    n_steps: int,
    model: WholeBrainLIF | None = None,
    mode: str = "auto",
    engine: str = "auto",
) -> WholeBrainRaster:
    """Simulate from rest.

    Args:
        wiring: who reaches whom; the type of its weights is that of the simulation.
        kicks: what drives the network.
        n_steps: T.
        model: constants; those of Shiu et al. 2024 if None.
        mode: which neurons are updated: "all", "active" those that are not at rest, "auto" changes
            between the two, for each block of 4,096 neurons, by the share of its neurons that are
            active. The spikes are the same.
        engine: "native" is compiled code, "numpy" needs no compiler and knows no active set, "auto"
            is the first that works. The spikes are the same.

    Returns:
        The spikes.

    Raises:
        ValueError: a value is out of range, or a mode or engine is unknown.
        neuro.spiking.native.CompilerMissing, CompileFailed: engine "native" without a compiler
            that works.
        MemoryError: there is no room for the spikes.

    Warns:
        RuntimeWarning: engine "auto" found no compiler that works.
    """
    for name, value, allowed in (("mode", mode, MODES), ("engine", engine, ENGINES)):
        if value not in allowed:
            msg = f"{name} = {value!r} is none of {', '.join(map(repr, allowed))}"
            raise ValueError(msg)
    if n_steps < 0:
        msg = f"n_steps = {n_steps!r} is negative"
        raise ValueError(msg)
    plan = _plan(wiring, kicks, model or WholeBrainLIF(), n_steps)
    if engine != "numpy":
        try:
            found = run_native(plan, mode=mode, sparse_below=SPARSE_BELOW, dense_above=DENSE_ABOVE)
        except (native.CompilerMissing, native.CompileFailed) as missing:
            if engine == "native":
                raise
            text = f"the whole brain is simulated by numpy, several times slower: {missing}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        else:
            return WholeBrainRaster(*found, engine="native")
    return WholeBrainRaster(*run_numpy(plan), engine="numpy")


def _plan(
    wiring: Wiring, kicks: PoissonKicks | GivenKicks, model: WholeBrainLIF, n_steps: int
) -> Plan:
    n_neurons = wiring.n_neurons
    kicked = np.ascontiguousarray(kicks.neurons, np.int32)
    _check_neurons("the kicked neurons", kicked, n_neurons)
    refractory_ms = np.broadcast_to(np.asarray(model.refractory_ms, float), n_neurons).copy()
    if kicks.refractory_ms is not None:
        refractory_ms[kicked] = kicks.refractory_ms
    floor = model.floor_mv
    if floor is None:
        floor = float(np.spacing(wiring.weights_mv.dtype.type(abs(model.v_rest_mv)))) / 2
    return Plan(
        offsets=np.ascontiguousarray(wiring.offsets, np.int64),
        targets=np.ascontiguousarray(wiring.targets, np.int32),
        weights=np.ascontiguousarray(wiring.weights_mv),
        n_steps=n_steps,
        refractory_steps=_whole_steps("refractory_ms", refractory_ms, model.dt_ms, least=0),
        delay_steps=int(_whole_steps("delay_ms", model.delay_ms, model.dt_ms, least=1)),
        membrane=math.exp(-model.dt_ms / model.tau_mem_ms),
        synapse=math.exp(-model.dt_ms / model.tau_syn_ms),
        gain=model.gain,
        threshold=model.v_threshold_mv - model.v_rest_mv,
        reset=model.v_reset_mv - model.v_rest_mv,
        floor=floor,
        kick=kicks.kick_mv,
        schedule=kicks.schedule(kicked, dt_ms=model.dt_ms, n_steps=n_steps),
    )


def _check_neurons(name: str, neurons: NDArray, n_neurons: int) -> None:
    if len(neurons) and not 0 <= neurons.min() <= neurons.max() < n_neurons:
        msg = f"{name}: {neurons.min()} .. {neurons.max()} lie outside 0 .. {n_neurons - 1}"
        raise ValueError(msg)


def _whole_steps(
    name: str, value_ms: float | NDArray, dt_ms: float, *, least: int
) -> NDArray[np.int32]:
    steps = np.round(np.asarray(value_ms) / dt_ms)
    whole = np.abs(value_ms - steps * dt_ms) <= 1e-6 * dt_ms
    if not (whole & (steps >= least) & (steps < MOST_STEPS)).all():
        msg = (
            f"{name} = {value_ms!r} must be whole steps of {dt_ms!r} ms, {least} .. "
            f"{MOST_STEPS - 1} of them"
        )
        raise ValueError(msg)
    return steps.astype(np.int32)
