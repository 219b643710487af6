"""Networks that the tests of NIR share, and how they go through a file."""

from __future__ import annotations

import snntorch
from populations import current_model, sparse_edges, spike_trains, uniform

from neuro.spiking import Network, Projection

N_UNITS, N_INPUTS, N_STEPS, N_TRIALS, DT_MS = 16, 9, 60, 3, 1.0
NEURONS = {
    "unit": {"gain": "unit"},
    "normalized": {"gain": "normalized", "v_rest": 0.1},
    "unit, synapse": {"gain": "unit", "tau_syn_ms": 4.0, "v_reset": -0.1},
    "normalized, synapse": {"gain": "normalized", "tau_syn_ms": 4.0, "v_rest": 0.1},
    "exact": {"gain": "exact", "tau_syn_ms": 4.0},
}
# What a spike must bring to make a neuron fire in some of every ten steps.
STRENGTH = {
    "unit": 0.7,
    "normalized": 7.0,
    "unit, synapse": 0.12,
    "normalized, synapse": 9.0,
    "exact": 3.0,
}


def make_neuron(kind):
    return current_model(N_UNITS, **{"reset": "zero", **NEURONS[kind]})


def make_network(kind, *, delays=(0, 1), sparse=False, dt_ms=DT_MS):
    """A recurrent population with one input; its thresholds and time constants differ."""
    strength = STRENGTH[kind]
    wires = {}
    if sparse:
        edges, order = sparse_edges(N_UNITS, N_UNITS, seed=3)
        wires = {"edges": (edges.pre, edges.post)}
        n_weights = (len(order),)
    else:
        n_weights = (N_UNITS, N_UNITS)
    recurrent = Projection(
        n_pre=N_UNITS,
        n_post=N_UNITS,
        weights=strength * uniform(-0.3, 0.3, *n_weights, seed=5),
        delay_steps=delays[1],
        **wires,
    )
    stimulus = Projection(
        n_pre=N_INPUTS,
        n_post=N_UNITS,
        weights=strength * uniform(0, 0.6, N_INPUTS, N_UNITS, seed=6),
        delay_steps=delays[0],
    )
    return Network(
        make_neuron(kind),
        {"stimulus": stimulus, "recurrent": recurrent},
        n_units=N_UNITS,
        dt_ms=dt_ms,
        recurrent=["recurrent"],
    )


def stimulus(n_inputs=N_INPUTS):
    return spike_trains(0.2, N_STEPS, N_TRIALS, n_inputs, seed=7)


def through_file(graph, folder):
    import nir

    nir.write(folder / "network.nir", graph)
    return nir.read(folder / "network.nir")


def snntorch_node(module):
    """Values of the node that snntorch 1.0.0 writes for a module, after its export_nir.py."""
    dt, beta = 1e-4, module.beta.numpy()
    values = {"r": 1 / (1 - beta), "v_threshold": module.threshold.numpy()}
    if isinstance(module, snntorch.Leaky):
        return {**values, "tau": dt / (1 - beta)}
    alpha = module.alpha.numpy()
    tau_syn = dt / (1 - alpha)
    return {**values, "tau_mem": dt / (1 - beta), "tau_syn": tau_syn, "w_in": tau_syn / dt}
