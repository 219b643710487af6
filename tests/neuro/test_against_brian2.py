"""Spike for spike what Brian2 simulated: 2,000 neurons, refractory targets, delays.

The rasters and the program that made them are in tests/golden/spiking. Brian2 knows nothing of this
library: it integrates its own equations, in SI units, in its own order of a step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neuro.spiking.edges import make_edges
from neuro.spiking.native.compiler import CompilerMissing, compiler
from neuro.spiking.neurons import LIF, ConductanceLIF, Synapse
from neuro.spiking.simulate import BACKENDS, simulate
from neuro.spiking.synapses import Synapses

GOLDEN = Path(__file__).parents[1] / "golden" / "spiking"
N = 2000


@pytest.fixture(params=["loop", "sequence", "event"])
def backend(request):
    if request.param not in BACKENDS:
        pytest.skip(f"there is no backend {request.param!r}")
    if request.param == "event":
        try:
            compiler()
        except CompilerMissing as missing:
            pytest.skip(str(missing))
    return request.param


def load(name):
    with np.load(GOLDEN / name) as stored:
        return dict(stored)


def ends(net, prefix=""):
    offsets = net[prefix + "offsets"]
    pre = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return pre, net[prefix + "post"].astype(np.int64)


def synapses(pre, post, weights, *, n_pre, n_post=N, dtype, **more):
    edges, order = make_edges(pre, post, n_pre=n_pre, n_post=n_post)
    return Synapses(torch.as_tensor(weights)[order].to(dtype), edges, **more)


def source_spikes(net, dtype):
    """Return the sources' spikes, shape (T, 1, P)."""
    spikes = torch.zeros(int(net["n_steps"]), 1, len(net["source_offsets"]) - 1, dtype=dtype)
    step, source = torch.as_tensor(net["source_events"].astype(np.int64)).T
    spikes[step, 0, source] = 1
    return spikes


def pairs(spikes):
    """Return (step, neuron) of all spikes of one trial, by step and neuron."""
    return spikes[:, 0].nonzero().numpy()


def simulate_lif(net, *, backend, dtype=torch.float64, own_delays=False, silence_current=True):
    pre, post = ends(net)
    weights = net["count"] * float(net["weight_mv"])
    # Brian2 adds what arrives at the end of a step, and it acts in the next; here it acts at once.
    later = 1
    common = round(float(net["delay_ms"] / net["dt_ms"]))
    delays = 1 + 4 * ((7 * pre + 13 * post) % 8) if own_delays else np.full(len(pre), common)
    sets = [
        synapses(
            *(part[delays == d] for part in (pre, post, weights)), n_pre=N, dtype=dtype
        )._replace(delay=int(d) + later)
        for d in np.unique(delays)
    ]
    source = source_spikes(net, dtype)
    drive = synapses(
        *ends(net, "source_"),
        net["source_count"] * float(net["weight_mv"]),
        n_pre=source.shape[2],
        dtype=dtype,
        delay=common + later,
        source=source,
    )
    neuron = LIF(
        tau_mem_ms=float(net["tau_mem_ms"]),
        tau_syn_ms=float(net["tau_syn_ms"]),
        threshold=float(net["v_threshold_mv"]),
        v_rest=float(net["v_rest_mv"]),
        v_reset=float(net["v_reset_mv"]),
        reset="zero",
        gain="exact",
        refractory_ms=float(net["refractory_ms"]),
        silence_current=silence_current,
    )
    dt_ms = float(net["dt_ms"])
    return simulate(neuron, [*sets, drive], n_units=N, dt_ms=dt_ms, backend=backend)


def simulate_conductance(net, *, backend, dtype=torch.float64):
    excitatory = np.arange(N) < net["n_excitatory"]

    def each(name):
        return torch.as_tensor(np.where(excitatory, *net[name]))

    # Channel 0 opens AMPA and NMDA, channel 1 GABA_A.
    pre, post = ends(net)
    recurrent = synapses(
        pre,
        post + N * ~excitatory[pre],
        net["count"] * float(net["weight"]),
        n_pre=N,
        n_post=2 * N,
        dtype=dtype,
        delay=int(net["delay_steps"]),
    )
    source = source_spikes(net, dtype)
    drive = synapses(
        *ends(net, "source_"),
        net["source_count"] * float(net["weight"]),
        n_pre=source.shape[2],
        n_post=2 * N,
        dtype=dtype,
        delay=0,
        source=source,
    )
    names = ("g_ns", "e_rev_mv", "tau_rise_ms", "tau_decay_ms")
    kinds = [
        Synapse(name, channel, *(float(net[value][k]) for value in names))
        for k, (name, channel) in enumerate([("AMPA", 0), ("NMDA", 0), ("GABA_A", 1)])
    ]
    neuron = ConductanceLIF(
        tau_mem_ms=each("tau_mem_ms"),
        g_leak_ns=each("g_leak_ns"),
        threshold_mv=each("v_threshold_mv"),
        v_reset_mv=each("v_reset_mv"),
        e_leak_mv=each("e_leak_mv"),
        synapses=kinds,
        refractory_ms=float(net["refractory_ms"]),
    )
    dt_ms = float(net["dt_ms"])
    return simulate(neuron, [recurrent, drive], n_units=N, dt_ms=dt_ms, backend=backend)


@pytest.mark.parametrize("raster", ["spikes", "spikes_delays"])
def test_current_based_neurons_spike_as_in_brian2(raster, backend):
    net = load("lif.npz")
    own_delays = raster == "spikes_delays"
    made = simulate_lif(net, backend=backend, own_delays=own_delays)
    assert made.backend == backend
    assert len(net[raster]) > 8000
    np.testing.assert_array_equal(pairs(made.spikes), net[raster])


def test_conductance_based_neurons_spike_as_in_brian2(backend):
    net = load("conductance.npz")
    made = simulate_conductance(net, backend=backend)
    assert made.backend == backend
    assert len(net["spikes"]) == 7000
    np.testing.assert_array_equal(pairs(made.spikes), net["spikes"])


def test_single_precision_gives_nearly_as_many_spikes(backend):
    # Rounding moves single spikes across a step, and these move others: counts, not equality.
    for name, run in (("lif.npz", simulate_lif), ("conductance.npz", simulate_conductance)):
        net = load(name)
        count = int(run(net, backend=backend, dtype=torch.float32).spikes.sum())
        print(f"{name}: {count} spikes in single, {len(net['spikes'])} in double precision")
        assert count == pytest.approx(len(net["spikes"]), rel=0.02)


def test_many_arrivals_of_the_rasters_meet_refractory_targets():
    # Else the comparisons above could not fail on what refractory neurons hear.
    net = load("lif.npz")
    pre, post = ends(net)
    refractory = np.zeros((N, int(net["n_steps"]) + 60), bool)
    for step, neuron in net["spikes"].astype(int):
        refractory[neuron, step : step + 22] = True
    lost = sum(
        np.count_nonzero(refractory[post[pre == neuron], step + 18])
        for step, neuron in net["spikes"].astype(int)[::10]
    )
    assert lost > 1000


def test_neurons_that_hear_while_refractory_are_not_those_of_brian2():
    net = load("lif.npz")
    made = simulate_lif(net, backend="sequence", silence_current=False)
    assert len(pairs(made.spikes)) > 1.05 * len(net["spikes"])
