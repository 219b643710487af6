"""Networks through NIR and back, through a file; what NIR says, and what it cannot say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import snntorch
import torch
from nir_networks import (
    DT_MS,
    N_INPUTS,
    N_UNITS,
    NEURONS,
    make_network,
    make_neuron,
    snntorch_node,
    stimulus,
    through_file,
)
from populations import (
    adaptive_model,
    conductance_model,
    current_model,
    sparse_edges,
    uniform,
)

from neuro.spiking import Network, Projection
from neuro.spiking.neurons import LIF
from neuro.spiking.neurons.readout import LeakyReadout
from neuro.spiking.nir import NirError, NirMissing, ReadoutLayer, from_nir, to_nir

nir = pytest.importorskip("nir")


@pytest.mark.parametrize("discretization", ["exponential", "euler"])
@pytest.mark.parametrize("kind", NEURONS)
def test_network_spikes_the_same_after_a_round_trip_through_a_file(tmp_path, kind, discretization):
    network = make_network(kind)
    expected = network({"stimulus": stimulus()}, record_potential=True)
    graph = through_file(to_nir(network, discretization=discretization), tmp_path)
    model = from_nir(graph)
    runs, _ = model({"stimulus": stimulus()}, record_potential=True)
    assert 0.05 < float(expected.spikes.mean()) < 0.6
    assert torch.equal(runs["population"].spikes, expected.spikes)
    torch.testing.assert_close(
        runs["population"].potential, expected.potential, rtol=1e-10, atol=1e-12
    )
    assert model.networks["population"].model().gain == NEURONS[kind]["gain"]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("delays", [(0, 1), (3, 1), (0, 4), (2, 5)])
def test_delays_and_sparse_weights_survive_the_round_trip(tmp_path, delays, sparse):
    network = make_network("unit", delays=delays, sparse=sparse)
    expected = network({"stimulus": stimulus()})
    model = from_nir(through_file(to_nir(network), tmp_path))
    runs, _ = model({"stimulus": stimulus()})
    assert torch.equal(runs["population"].spikes, expected.spikes)
    assert model.networks["population"].projections["population"].delays == (delays[1],)


def test_delays_of_single_synapses_survive_the_round_trip(tmp_path):
    edges, order = sparse_edges(N_UNITS, N_UNITS, seed=3)
    projection = Projection(
        n_pre=N_UNITS,
        n_post=N_UNITS,
        weights=0.7 * uniform(-0.3, 0.3, len(order), seed=5),
        edges=(edges.pre, edges.post),
        delay_steps=1 + torch.arange(len(order)) % 4,
    )
    given = make_network("unit")
    network = Network(
        given.model(),
        {"stimulus": given.projections["stimulus"], "recurrent": projection},
        n_units=N_UNITS,
        dt_ms=DT_MS,
        recurrent=["recurrent"],
    )
    expected = network({"stimulus": stimulus()})
    model = from_nir(through_file(to_nir(network), tmp_path))
    runs, _ = model({"stimulus": stimulus()})
    assert torch.equal(runs["population"].spikes, expected.spikes)
    assert model.networks["population"].projections["population"].delays == (1, 2, 3, 4)


def test_a_chain_of_populations_with_a_readout_survives_the_round_trip(tmp_path):
    hidden = make_network("unit, synapse")
    onto = Projection(
        n_pre=N_UNITS,
        n_post=N_UNITS,
        weights=0.5 * uniform(0, 0.6, N_UNITS, N_UNITS, seed=8),
        delay_steps=0,
    )
    last = Network(
        make_neuron("unit"),
        {"hidden": onto, "stimulus": hidden.projections["stimulus"]},
        n_units=N_UNITS,
        dt_ms=DT_MS,
    )
    readout = LeakyReadout(n_outputs=4, dt_ms=DT_MS, tau_ms=15.0).double()
    with torch.no_grad():
        readout.bias.copy_(torch.linspace(-1, 1, 4))
    weights = uniform(-1, 1, N_UNITS, 4, seed=9)
    first = hidden({"stimulus": stimulus()})
    second = last({"hidden": first.spikes, "stimulus": stimulus()})
    values = readout(second.spikes @ weights).values
    # Given in the wrong order: who feeds whom says in which they run.
    graph = to_nir(
        {"last": last, "hidden": hidden},
        readouts={"choice": ReadoutLayer("last", weights, readout)},
    )
    model = from_nir(through_file(graph, tmp_path))
    runs, found = model({"stimulus": stimulus()})
    assert list(model.networks) == ["hidden", "last"]
    assert model.input_names == ("stimulus",)
    assert torch.equal(runs["hidden"].spikes, first.spikes)
    assert torch.equal(runs["last"].spikes, second.spikes)
    torch.testing.assert_close(found["choice"], values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["normalized", "normalized, synapse"])
def test_a_normalized_gain_is_a_resistance_of_one(kind):
    network = make_network(kind)
    node = to_nir(network).nodes["population"]
    neuron = network.model()
    np.testing.assert_allclose(node.r, 1, rtol=1e-12)
    with_current = "synapse" in kind
    tau = node.tau_mem if with_current else node.tau
    np.testing.assert_allclose(tau, neuron.tau_mem_ms.numpy() / 1000, rtol=1e-15)
    np.testing.assert_allclose(node.v_leak, 0.1 + neuron.bias.numpy(), rtol=1e-12)
    assert type(node).__name__ == ("CubaLIF" if with_current else "LIF")
    if with_current:
        np.testing.assert_allclose(node.w_in, 1, rtol=1e-12)
        np.testing.assert_allclose(node.tau_syn, 0.004, rtol=1e-15)


def test_nodes_obey_the_equations_of_nir_for_any_gain():
    # scipy's solution of tau_syn dI/dt = w_in x - I and tau dV/dt = v_leak - V + r I, the second
    # with the current at the end of the step, as the module says; LIF needs no such convention.
    from scipy.integrate import solve_ivp

    network = make_network("unit")
    network.neuron = replace(network.neuron, threshold=1e9)
    node = to_nir(network).nodes["population"]
    source = stimulus()[:6, :1]
    found = Network(
        network.neuron,
        {"stimulus": network.projections["stimulus"]},
        n_units=N_UNITS,
        dt_ms=DT_MS,
    )({"stimulus": source}, record_potential=True).potential[:, 0]
    v = node.metadata["v_start"]
    weights = to_nir(network).nodes["population_stimulus"].weight
    for step in range(6):
        current = weights @ source[step, 0].numpy()

        def slope(t, v, current=current):
            return (node.v_leak - v + node.r * current) / node.tau

        v = solve_ivp(slope, (0, DT_MS / 1000), v, rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(found[step].numpy(), v, rtol=1e-7)


def test_weights_are_post_by_pre_and_recurrence_is_a_loop():
    network = make_network("unit")
    graph = to_nir(network)
    weights = network.projections["stimulus"].effective_weights().numpy()
    np.testing.assert_array_equal(graph.nodes["population_stimulus"].weight, weights.T)
    assert ("population", "population_recurrent") in graph.edges
    assert ("population_recurrent", "population") in graph.edges
    assert graph.input_type["stimulus"].tolist() == [N_INPUTS]
    assert graph.output_type["population_output"].tolist() == [N_UNITS]


def test_delays_are_in_seconds_and_leave_out_the_step_of_the_loop():
    graph = to_nir(make_network("unit", delays=(3, 4), dt_ms=0.5))
    before = {
        name: node.delay for name, node in graph.nodes.items() if type(node).__name__ == "Delay"
    }
    (outside,) = [delay for name, delay in before.items() if "stimulus" in name]
    (within,) = [delay for name, delay in before.items() if "recurrent" in name]
    np.testing.assert_allclose(outside, 0.0015)
    np.testing.assert_allclose(within, 0.0015)


@pytest.mark.parametrize("kind", ["unit", "unit, synapse"])
def test_euler_is_what_snntorch_writes_of_the_same_neuron(kind):
    # Its export: dt = 0.1 ms, tau = dt / (1 - beta), r = tau / dt, w_in = tau_syn / dt.
    dt_ms = 0.1
    neuron = replace(make_neuron(kind), v_reset=0.0, bias=0.0)
    network = Network(
        neuron,
        {"stimulus": make_network(kind).projections["stimulus"]},
        n_units=N_UNITS,
        dt_ms=dt_ms,
    )
    node = to_nir(network, discretization="euler").nodes["population"]
    beta = torch.exp(-dt_ms / neuron.tau_mem_ms)
    theirs = {"beta": beta, "threshold": neuron.threshold, "reset_mechanism": "zero"}
    if kind == "unit":
        expected = snntorch_node(snntorch.Leaky(**theirs))
        np.testing.assert_allclose(node.tau, expected["tau"], rtol=1e-9)
    else:
        alpha = torch.exp(torch.full((N_UNITS,), -dt_ms / 4.0, dtype=torch.float64))
        expected = snntorch_node(snntorch.Synaptic(alpha=alpha, **theirs))
        np.testing.assert_allclose(node.tau_mem, expected["tau_mem"], rtol=1e-9)
        np.testing.assert_allclose(node.tau_syn, expected["tau_syn"], rtol=1e-9)
        np.testing.assert_allclose(node.w_in, expected["w_in"], rtol=1e-9)
    np.testing.assert_allclose(node.r, expected["r"], rtol=1e-9)
    np.testing.assert_allclose(node.v_threshold, expected["v_threshold"], rtol=1e-9)
    np.testing.assert_array_equal(node.v_leak, 0)
    np.testing.assert_array_equal(node.v_reset, 0)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (current_model(4, reset="subtract"), "NIR cannot say reset = 'subtract'"),
        (current_model(4, reset="hold"), "NIR cannot say reset = 'hold'"),
        (current_model(4, reset="zero", refractory_ms=3.0), "a refractory period"),
        (
            current_model(4, reset="zero", tau_syn_ms=3.0, silence_current=True),
            "ends the synaptic current",
        ),
        (conductance_model(4), "the neuron ConductanceLIF; only LIF has nodes"),
        (adaptive_model(4), "the neuron AdaptiveLIF; only LIF"),
    ],
)
def test_what_nir_cannot_say_is_refused(neuron, message):
    weights = torch.ones(2, 4, dtype=torch.float64)
    projection = Projection(
        n_pre=2, n_post=4, weights=weights, n_channels=neuron.n_channels, delay_steps=0
    )
    network = Network(neuron, {"stimulus": projection}, n_units=4, dt_ms=1.0)
    with pytest.raises(NirError, match=f"population 'population'.*{message}"):
        to_nir(network)


def test_a_refractory_period_of_a_step_is_none():
    network = make_network("unit")
    network.neuron = replace(network.neuron, refractory_ms=DT_MS)
    assert "population" in to_nir(network).nodes


def test_matrix_that_no_memory_holds_is_refused():
    # 20,000 x 20,000 weights of which a few are there.
    size = 20_000
    projection = Projection(
        n_pre=size,
        n_post=size,
        weights=torch.ones(2),
        edges=(torch.tensor([0, 1]), torch.tensor([1, 0])),
    )
    neuron = LIF(tau_mem_ms=10.0, reset="zero")
    network = Network(neuron, {"within": projection}, n_units=size, dt_ms=1.0, recurrent=["within"])
    with pytest.raises(NirError, match="matrix of 20000 x 20000 weights; NIR knows no sparse"):
        to_nir(network)


def test_networks_of_different_steps_make_no_graph():
    networks = {"a": make_network("unit"), "b": make_network("unit", dt_ms=0.5)}
    with pytest.raises(NirError, match=r"dt_ms = \[0.5, 1.0\]"):
        to_nir(networks)


def test_readout_of_a_population_that_is_not_there_is_refused():
    readout = LeakyReadout(n_outputs=2, dt_ms=1.0, tau_ms=9.0)
    layer = ReadoutLayer("motor", torch.ones(N_UNITS, 2), readout)
    with pytest.raises(NirError, match="'choice' reads 'motor'; the populations are"):
        to_nir(make_network("unit"), readouts={"choice": layer})


def test_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(NirMissing, match="pip install 'nir>=1.0.8'"):
        to_nir(make_network("unit"))
