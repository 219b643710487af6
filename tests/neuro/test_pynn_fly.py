"""A cut of the fly's real olfactory pathway on NEST, driven by odors, beside our own simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pynn_networks import python_with_nest

from neuro.connectome.circuit import load_circuit
from neuro.connectome.odors import load_odors
from neuro.export import compare_spike_counts, run_pynn, write_pynn
from neuro.spiking import Network, Projection
from neuro.spiking.neurons import LIF
from neuro.spiking.odor_samples import OdorSamples
from neuro.spiking.odor_trials import OdorLaw

LAW = OdorLaw(192.0, 0.5, 8.0, 300, 200, 300, "bernoulli")
N_KENYON_CELLS, ODORS = 300, (40, 120)
# In thresholds, of all synapses of a class at 100 Hz: so that all kinds of cells fire.
GAINS = {
    "ORN->ALPN": 14.0,
    "ORN->ALLN": 8.0,
    "ALPN->KC": 10.0,
    "KC->APL": 100.0,
    "APL->KC": 3.0,
}


def projection(edges, kept_pre, kept_post, delay_steps):
    """The edges among neurons that are kept, renumbered; 10 is a bin of 10 ms in steps."""
    new_pre, new_post = np.cumsum(kept_pre) - 1, np.cumsum(kept_post) - 1
    inside = kept_pre[edges.pre] & kept_post[edges.post]
    gain = np.array([GAINS.get(name, 1.0) for name in edges.edge_classes])[edges.edge_class]
    return Projection(
        n_pre=int(kept_pre.sum()),
        n_post=int(kept_post.sum()),
        edges=(new_pre[edges.pre[inside]], new_post[edges.post[inside]]),
        weights=torch.from_numpy(10 * (gain * edges.weight)[inside]),
        delay_steps=delay_steps,
    )


@pytest.fixture(scope="module")
def cut(shared_data):
    """The left antennal lobe with some of its Kenyon cells and APL, and spikes of receptors."""
    circuit, odors = load_circuit(shared_data / "fly"), load_odors(shared_data / "fly")
    hidden = circuit.hidden
    left, kind = (hidden["side"] == "left").to_numpy(), hidden["cell_class"].to_numpy()
    kept = left & np.isin(kind, ["ALPN", "ALLN", "APL", "KC"])
    kept[np.flatnonzero(kept & (kind == "KC"))[N_KENYON_CELLS:]] = False
    everybody = np.ones(len(circuit.inputs), dtype=bool)
    types = np.unique(hidden["cell_type"].to_numpy()[kept].astype(str), return_inverse=True)[1]
    drawn = np.random.default_rng(1).uniform(size=(2, types.max() + 1))[:, types]
    neuron = LIF(
        torch.from_numpy(15 + 25 * drawn[0]),
        tau_syn_ms=20.0,
        bias=torch.from_numpy(0.4 * drawn[1] - 0.2),
        reset="zero",
        gain="normalized",
    )
    network = Network(
        neuron,
        {
            "receptors": projection(circuit.forward, everybody, kept, 0),
            "recurrent": projection(circuit.recurrent, kept, kept, 1),
        },
        n_units=int(kept.sum()),
        dt_ms=1.0,
        recurrent=["recurrent"],
    )
    samples = OdorSamples(LAW, odors.drive(circuit.inputs["receptors"]), seed=0, repetitions=1)
    return network, samples.batch(ODORS, 1).double(), kind[kept]


def test_spike_counts_of_the_fly_agree_with_nest(tmp_path, cut):
    network, receptors, kind = cut
    python = python_with_nest()
    expected = network({"receptors": receptors}).spikes.numpy()
    export = write_pynn(tmp_path, network, {"receptors": receptors})
    found = run_pynn(export, python=python, timeout_s=300).spikes["population"]
    n_edges = sum(len(one.effective_weights()) for one in network.projections.values())
    assert n_edges > 5000 and export.n_synapses == n_edges
    for cells in ("ALPN", "ALLN", "KC", "APL"):
        those = kind == cells
        assert expected[..., those].sum() > 20, f"no {cells} to speak of fires"
        assert compare_spike_counts(expected[..., those], found[..., those]).correlation > 0.95
    assert compare_spike_counts(expected, found).correlation > 0.95
    # The two odors are not the same to the network, or counts would agree for nothing.
    assert np.corrcoef(expected.sum(axis=0)[:, kind == "KC"])[0, 1] < 0.9
