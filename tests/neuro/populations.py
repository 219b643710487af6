"""Populations that tests of the spiking core share: every neuron model, every kind of synapse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from neuro.spiking.edges import make_edges
from neuro.spiking.native import compiler
from neuro.spiking.neurons import LIF, AdaptiveLIF, ConductanceLIF, Synapse
from neuro.spiking.simulate import BACKENDS, simulate
from neuro.spiking.surrogate import ATan, FastSigmoid, Triangle
from neuro.spiking.synapses import Synapses

AMPA = Synapse("AMPA", 0, 4.177, 0.0, 0.1, 5.0)
NMDA = Synapse("NMDA", 0, 0.448, 0.0, 10.0, 70.0)
GABA = Synapse("GABA", 1, 8.139, -70.0, 1.0, 6.0)
SILENT = 1e9  # a threshold that is never reached


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(low, high, *shape, seed, dtype=torch.float64):
    return low + (high - low) * torch.rand(*shape, generator=seeded(seed), dtype=dtype)


def spike_trains(probability, *shape, seed, dtype=torch.float64):
    return (torch.rand(*shape, generator=seeded(seed)) < probability).to(dtype)


def current_model(n_units, **options):
    """Values that differ from unit to unit; time constants, bias and threshold can be trained."""
    return LIF(
        **{
            "tau_mem_ms": uniform(5, 15, n_units, seed=1),
            "bias": uniform(0, 0.1, n_units, seed=2),
            "threshold": uniform(0.8, 1.0, n_units, seed=3),
            "surrogate": ATan(2.0),
            **options,
        }
    )


def conductance_model(n_units, **options):
    return ConductanceLIF(
        **{
            "tau_mem_ms": uniform(20, 40, n_units, seed=1),
            "g_leak_ns": uniform(1.0, 1.5, n_units, seed=2),
            "threshold_mv": uniform(-50, -45, n_units, seed=3),
            "v_reset_mv": -60.0,
            "e_leak_mv": -60.0,
            "synapses": (AMPA, NMDA, GABA),
            "surrogate": FastSigmoid(0.5),
            **options,
        }
    )


def adaptive_model(n_units, **options):
    return AdaptiveLIF(
        **{
            "tau_mem_ms": uniform(5, 15, n_units, seed=1),
            "tau_adapt_ms": uniform(20, 60, n_units, seed=4),
            "strength": uniform(0.1, 0.3, n_units, seed=2),
            "threshold": uniform(0.8, 1.0, n_units, seed=3),
            "surrogate": Triangle(1.0),
            **options,
        }
    )


def _current(**options):
    return lambda n_units: current_model(n_units, **options)


SYNAPSE = {"tau_syn_ms": 4.0, "gain": "normalized", "v_rest": 0.05}
MODELS = {
    "subtract": _current(reset="subtract"),
    "zero": _current(reset="zero", v_reset=0.1, v_rest=0.05),
    "hold": _current(reset="hold", v_reset=0.1, surrogate=FastSigmoid(2.0)),
    "subtract, synapse": _current(reset="subtract", **SYNAPSE),
    "zero, synapse": _current(reset="zero", v_reset=-0.1, **SYNAPSE),
    "hold, synapse": _current(reset="hold", v_reset=-0.1, **SYNAPSE),
    "exact": _current(reset="zero", tau_syn_ms=4.0, gain="exact"),
    "refractory": _current(reset="zero", refractory_ms=3.0),
    "refractory, subtract": _current(reset="subtract", refractory_ms=3.0, v_reset=0.1),
    "silenced": _current(
        reset="zero", tau_syn_ms=4.0, gain="exact", refractory_ms=3.0, silence_current=True
    ),
    "silenced, hold": _current(
        reset="hold", tau_syn_ms=4.0, refractory_ms=3.0, silence_current=True
    ),
    "adaptive": adaptive_model,
    "adaptive, refractory": lambda n: adaptive_model(n, refractory_ms=2.0),
    "conductance": conductance_model,
    "conductance, refractory": lambda n: conductance_model(n, refractory_ms=4.0),
}
# Values of each kind of model that may require gradients.
TRAINABLE = {
    LIF: ("tau_mem_ms", "tau_syn_ms", "threshold", "v_rest", "v_reset", "bias"),
    AdaptiveLIF: ("tau_mem_ms", "tau_adapt_ms", "strength", "threshold"),
    ConductanceLIF: ("tau_mem_ms", "g_leak_ns", "threshold_mv", "v_reset_mv", "e_leak_mv"),
}


def trained(neuron, n_units):
    """The same neuron with every value that can be trained as a leaf of shape (N,)."""
    leaves = {
        name: torch.as_tensor(getattr(neuron, name), dtype=torch.float64)
        .expand(n_units)
        .clone()
        .requires_grad_()
        for name in TRAINABLE[type(neuron)]
        if getattr(neuron, name) is not None
    }
    return replace(neuron, **leaves), list(leaves.values())


@dataclass
class Population:
    """A neuron model with a dense and a sparse recurrent set, two inputs and a drive."""

    neuron: object
    n_units: int
    dense: torch.Tensor
    sparse: torch.Tensor
    edges: object
    feedforward: torch.Tensor
    late: torch.Tensor
    source: torch.Tensor
    drive: torch.Tensor
    delays: tuple[int, int, int]

    def leaves(self):
        return [self.dense, self.sparse, self.feedforward, self.late, self.source, self.drive]

    def synapses(self, first=0, last=None):
        dense, sparse, late = self.delays
        source = self.source[first:last]
        return [
            Synapses(self.dense, delay=dense),
            Synapses(self.sparse, self.edges, delay=sparse),
            Synapses(self.feedforward, delay=0, source=source),
            Synapses(self.late, delay=late, source=source),
        ]

    def run(self, *, first=0, last=None, neuron=None, **options):
        return simulate(
            neuron or self.neuron,
            self.synapses(first, last),
            n_units=self.n_units,
            dt_ms=options.pop("dt_ms", 1.0),
            drive=self.drive[first:last],
            record_potential=True,
            **options,
        )


def population(
    name, *, n_units=12, n_inputs=5, n_steps=30, n_trials=3, seed=0, rate=0.3, delays=(1, 3, 2)
):
    """A population that fires, of one of MODELS, in double precision."""
    neuron = MODELS[name](n_units)
    reached = neuron.n_channels * n_units
    strength = _strength(neuron)
    edges, order = sparse_edges(n_units, reached, seed=seed + 10)
    sign = -1.0 if neuron.n_channels == 1 else 0.0
    return Population(
        neuron=neuron,
        n_units=n_units,
        dense=strength * uniform(sign * 0.3, 0.3, n_units, reached, seed=seed + 11),
        sparse=strength * uniform(sign * 0.4, 0.4, len(order), seed=seed + 12)[order],
        edges=edges,
        feedforward=strength * uniform(0, 0.6, n_inputs, reached, seed=seed + 13),
        late=strength * uniform(sign * 0.3, 0.3, n_inputs, reached, seed=seed + 14),
        source=spike_trains(rate, n_steps, n_trials, n_inputs, seed=seed + 15),
        drive=uniform(0, 0.1, n_steps, n_trials, reached, seed=seed + 16),
        delays=delays,
    )


def _strength(neuron):
    """What makes a model fire in some of every ten steps."""
    if isinstance(neuron, ConductanceLIF):
        return 0.7
    # A normalized gain is about dt / tau_mem times dt / tau_syn of the unit gain.
    return 12.0 if getattr(neuron, "gain", "unit") == "normalized" else 0.7


def sparse_edges(n_pre, n_post, *, seed, share=0.2):
    """A fifth of all pairs, unsorted."""
    n_edges = max(1, int(share * n_pre * n_post))
    pairs = torch.randperm(n_pre * n_post, generator=seeded(seed))[:n_edges]
    return make_edges(pairs // n_post, pairs % n_post, n_pre=n_pre, n_post=n_post)


def drive(values, n_units=1, n_trials=1):
    """The same current for all units and trials, shape (T, B, N)."""
    steps = torch.as_tensor(values, dtype=torch.float64)
    return steps[:, None, None].expand(-1, n_trials, n_units).clone()


def run_driven(neuron, current, *, backend, dt_ms=1.0):
    """Neurons without synapses, driven by a current of shape (T, B, C * N)."""
    return simulate(
        neuron,
        [],
        n_units=current.shape[2] // neuron.n_channels,
        dt_ms=dt_ms,
        drive=current,
        record_potential=True,
        backend=backend,
    )


def potential(neuron, current, **options):
    """Potentials of the first trial, shape (T, N) or, of one unit, (T,)."""
    return run_driven(neuron, current, **options).potential[:, 0].squeeze(-1).numpy()


def inputs_of(made, spikes):
    """x of every step, from the spikes that happened, shape (T, B, C * N)."""
    spikes, source = spikes.detach().numpy(), made.source.numpy()
    sparse = np.zeros((made.n_units, made.edges.n_post))
    sparse[made.edges.pre, made.edges.post] = made.sparse.numpy()
    x = made.drive.numpy() + source @ made.feedforward.numpy()
    for trains, weights, delay in (
        (spikes, made.dense.numpy(), made.delays[0]),
        (spikes, sparse, made.delays[1]),
        (source, made.late.numpy(), made.delays[2]),
    ):
        x[delay:] += (trains @ weights)[:-delay]
    return x


def quiet(*kinds, **options):
    """One neuron with kinds of synapses on channel 0 that never spikes."""
    synapses = tuple(replace(kind, channel=0) for kind in kinds)
    return ConductanceLIF(
        **{
            "tau_mem_ms": 85.0,
            "g_leak_ns": 1.35,
            "threshold_mv": SILENT,
            "v_reset_mv": -60.0,
            "e_leak_mv": -60.0,
            "synapses": synapses,
            **options,
        }
    )


def backends():
    """Names of all backends that this machine can use: compiled code needs a compiler."""
    try:
        compiler.compiler()
    except compiler.CompilerMissing:
        return [name for name in BACKENDS if name != "event"]
    return list(BACKENDS)
