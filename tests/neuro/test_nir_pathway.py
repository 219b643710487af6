"""What a recurrent pathway with a readout of some of its cells becomes in NIR, and back."""

from __future__ import annotations

import pytest
import torch
from nir_networks import through_file
from pynn_networks import DT_MS, N_UNITS, draw, make_network, make_neuron, stimulus

from neuro.spiking import LeakyReadout, Network, Projection
from neuro.spiking.nir import NirError, ReadoutLayer, from_nir, to_nir

pytest.importorskip("nir")


def test_recurrent_cells_with_biases_and_a_readout_survive_the_round_trip(tmp_path):
    network = make_network(recurrent_delay=1)
    readout = LeakyReadout(n_outputs=3, dt_ms=DT_MS, tau_ms=200.0, bias=False).double()
    weights = torch.zeros(N_UNITS, 3, dtype=torch.float64)
    weights[[4, 9, 31]] = draw(-1, 1, 3, 3, seed=9)
    expected = network({"stimulus": stimulus()}, record_potential=True)
    values = readout(expected.spikes @ weights).values
    graph = to_nir({"cells": network}, readouts={"odors": ReadoutLayer("cells", weights, readout)})
    model = from_nir(through_file(graph, tmp_path))
    runs, outputs = model({"stimulus": stimulus()}, record_potential=True)
    assert 0.01 < expected.spikes.mean() < 0.4
    assert torch.equal(runs["cells"].spikes, expected.spikes)
    torch.testing.assert_close(runs["cells"].potential, expected.potential, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(outputs["odors"], values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("delay_steps", [0, 1])
def test_populations_that_feed_back_onto_each_other_are_refused(delay_steps):
    def projection():
        weights = torch.ones(N_UNITS, N_UNITS)
        return Projection(n_pre=N_UNITS, n_post=N_UNITS, weights=weights, delay_steps=delay_steps)

    sizes = {"n_units": N_UNITS, "dt_ms": DT_MS}
    networks = {
        "first": Network(make_neuron(), {"second": projection()}, **sizes),
        "second": Network(make_neuron(), {"first": projection()}, **sizes),
        "third": Network(make_neuron(), {"first": projection()}, **sizes),
    }
    with pytest.raises(NirError, match="'first', 'second', 'third'.* feed back onto each other"):
        to_nir(networks)


def test_a_reset_by_subtraction_is_refused():
    with pytest.raises(NirError, match="reset = 'subtract'"):
        to_nir(make_network(reset="subtract"))
