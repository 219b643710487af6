"""Graphs of NIR that others wrote: what is read, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch
import torch
from nir_networks import (
    N_INPUTS,
    N_STEPS,
    N_TRIALS,
    N_UNITS,
    make_network,
    snntorch_node,
    stimulus,
    through_file,
)
from populations import spike_trains, uniform

from neuro.spiking.nir import NirError, from_nir, to_nir

nir = pytest.importorskip("nir")


def snntorch_graph(beta, weights, recurrent):
    """What snntorch 1.0.0 writes for Linear and RLeaky: the recurrence is a graph of its own."""
    values = snntorch_node(snntorch.Leaky(beta=beta))
    size = len(beta)
    lif = nir.LIF(
        tau=values["tau"],
        r=values["r"],
        v_leak=np.zeros(size),
        v_threshold=np.ones(size),
        v_reset=np.zeros(size),
    )
    inner = nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type=[size]),
            "lif": lif,
            "w_rec": nir.Affine(weight=recurrent.T.numpy(), bias=np.full(size, 0.01)),
            "output": nir.Output(output_type=[size]),
        },
        edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )
    return nir.NIRGraph(
        nodes={
            "input": nir.Input(input_type=[len(weights)]),
            "0": nir.Affine(weight=weights.T.numpy(), bias=np.full(size, 0.02)),
            "1": inner,
            "output": nir.Output(output_type=[size]),
        },
        edges=[("input", "0"), ("0", "1"), ("1", "output")],
    )


@pytest.mark.parametrize("kind", ["Leaky", "RLeaky"])
def test_graph_of_snntorch_is_read_with_its_spikes(tmp_path, kind):
    beta = 0.8 + 0.15 * torch.rand(N_UNITS, generator=torch.Generator().manual_seed(1))
    weights = uniform(0, 0.4, N_INPUTS, N_UNITS, seed=2).float()
    recurrent = uniform(-0.2, 0.2, N_UNITS, N_UNITS, seed=3).float()
    if kind == "Leaky":
        recurrent = torch.zeros(N_UNITS, N_UNITS)
    graph = through_file(snntorch_graph(beta, weights, recurrent), tmp_path)
    model = from_nir(graph, dt_ms=0.1, discretization="euler", dtype=torch.float32)
    source = stimulus().float()
    runs, _ = model({"input": source})
    # A Leaky with its recurrent weights beside it: an RLeaky's "zero" would lose input as well.
    leaky, mem, fired = snntorch.Leaky(beta=beta, reset_mechanism="zero"), None, 0
    expected = []
    for step in range(N_STEPS):
        back = fired @ recurrent if step else 0
        fired, mem = leaky(source[step] @ weights + 0.03 + back, mem)
        expected.append(fired)
    (run,) = runs.values()
    assert 0.05 < float(run.spikes.mean()) < 0.6
    assert torch.equal(run.spikes, torch.stack(expected))


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_graph_that_snntorch_itself_exports_is_read_with_its_spikes(tmp_path, kind):
    pytest.importorskip("nirtorch", reason="snntorch exports through nirtorch")
    from snntorch.export_nir import export_to_nir

    # With reset_delay=False its "zero" is the reset of NIR, for all of them.
    beta = 0.8 + 0.15 * torch.rand(N_UNITS, generator=torch.Generator().manual_seed(1))
    options = {"beta": beta, "threshold": torch.ones(N_UNITS), "reset_mechanism": "zero"}
    options |= {"Synaptic": {"alpha": torch.full((N_UNITS,), 0.6)}}.get(kind, {})
    options |= {"RLeaky": {"linear_features": N_UNITS}}.get(kind, {})
    torch.manual_seed(0)
    layer = torch.nn.Linear(N_INPUTS, N_UNITS)
    with torch.no_grad():
        layer.weight.copy_(uniform(0, 0.15, N_UNITS, N_INPUTS, seed=2))
    neuron = getattr(snntorch, kind)(**options, init_hidden=True, reset_delay=False)
    exported = export_to_nir(torch.nn.Sequential(layer, neuron), torch.rand(N_INPUTS))
    model = from_nir(
        through_file(exported, tmp_path), dt_ms=0.1, discretization="euler", dtype=torch.float32
    )
    source = stimulus().float()
    (run,) = model({"input": source})[0].values()
    alone = getattr(snntorch, kind)(**options, reset_delay=False)
    alone.load_state_dict(neuron.state_dict())
    state, expected = (), []
    for step in range(N_STEPS):
        fired, *rest = alone(layer(source[step]), *state)
        state = (fired, *rest) if kind == "RLeaky" else tuple(rest)
        expected.append(fired)
    assert 0.05 < float(run.spikes.mean()) < 0.8
    assert torch.equal(run.spikes, torch.stack(expected))


def test_resistances_without_a_name_scale_the_potential_and_change_no_spike():
    r = np.linspace(3, 9, N_UNITS)
    weights = uniform(0, 0.6, N_INPUTS, N_UNITS, seed=6).numpy()
    node = nir.LIF(
        tau=np.full(N_UNITS, 0.01),
        r=r,
        v_leak=np.full(N_UNITS, -0.2),
        v_threshold=np.full(N_UNITS, 0.6),
        v_reset=np.full(N_UNITS, -0.1),
    )
    graph = nir.NIRGraph(
        nodes={
            "in": nir.Input(np.array([N_INPUTS])),
            "w": nir.Linear(weights.T),
            "lif": node,
            "out": nir.Output(np.array([N_UNITS])),
        },
        edges=[("in", "w"), ("w", "lif"), ("lif", "out")],
    )
    runs, _ = from_nir(graph, dt_ms=1.0)({"in": stimulus()})
    b, v, s = np.exp(-0.1), np.full((N_TRIALS, N_UNITS), -0.2), np.zeros((N_TRIALS, N_UNITS))
    for step in range(N_STEPS):
        v = np.where(s, -0.1, v)
        v = b * v + (1 - b) * (-0.2 + r * (stimulus()[step].numpy() @ weights))
        s = v > 0.6
        np.testing.assert_array_equal(runs["lif"].spikes[step].numpy(), s)
    assert runs["lif"].spikes.sum() > 0


def chain(*nodes, size=3):
    """A graph of an Input, some nodes in a row, a LIF and an Output."""
    made = {"in": nir.Input(np.array([size]))}
    made |= {f"n{index}": node for index, node in enumerate(nodes)}
    made["lif"] = nir.LIF(
        tau=np.full(size, 0.01),
        r=np.ones(size),
        v_leak=np.zeros(size),
        v_threshold=np.full(size, 1e9),
        v_reset=np.zeros(size),
    )
    made["out"] = nir.Output(np.array([size]))
    names = list(made)
    return nir.NIRGraph(nodes=made, edges=list(zip(names, names[1:], strict=False)))


def last_inputs(graph, source):
    """What the neuron of `chain` is driven with, recovered from its potential."""
    runs, _ = from_nir(graph, dt_ms=1.0)({"in": source}, record_potential=True)
    potential, b = runs["lif"].potential, np.exp(-0.1)
    before = torch.cat([torch.zeros_like(potential[:1]), potential[:-1]])
    return (potential - b * before) / (1 - b)


def test_stateless_nodes_in_a_row_are_one_projection():
    first, second = uniform(-1, 1, 3, 3, seed=1).numpy(), uniform(-1, 1, 3, 3, seed=2).numpy()
    source = spike_trains(0.4, 12, 2, 3, seed=3)
    graph = chain(
        nir.Affine(first, np.array([0.1, 0.2, 0.3])),
        nir.Scale(np.array([1.0, -2.0, 0.5])),
        nir.Linear(second),
    )
    expected = (source.numpy() @ first.T + [0.1, 0.2, 0.3]) * [1.0, -2.0, 0.5] @ second.T
    np.testing.assert_allclose(last_inputs(graph, source), expected, rtol=1e-9, atol=1e-9)


def test_an_input_without_weights_reaches_each_neuron_alone():
    source = spike_trains(0.4, 12, 2, 3, seed=3)
    torch.testing.assert_close(last_inputs(chain(), source), source, rtol=1e-9, atol=1e-9)


def test_delays_may_differ_from_unit_to_unit():
    source = spike_trains(0.4, 12, 2, 3, seed=3)
    graph = chain(nir.Delay(np.array([0.0, 0.002, 0.005])), nir.Linear(np.eye(3)[[2, 0, 1]]))
    delayed = torch.zeros_like(source)
    delayed[:, :, 0] = source[:, :, 0]
    delayed[2:, :, 1] = source[:-2, :, 1]
    delayed[5:, :, 2] = source[:-5, :, 2]
    expected = delayed[:, :, [2, 0, 1]]
    torch.testing.assert_close(last_inputs(graph, source), expected, rtol=1e-9, atol=1e-9)


def test_two_ways_from_one_source_add_up():
    graph = chain(nir.Linear(np.eye(3)))
    graph.nodes["late"] = nir.Delay(np.full(3, 0.002))
    graph.nodes["other"] = nir.Linear(np.full((3, 3), 0.5))
    graph.edges += [("in", "late"), ("late", "other"), ("other", "lif"), ("in", "lif")]
    source = spike_trains(0.4, 12, 2, 3, seed=3)
    expected = 2 * source
    expected[2:] += 0.5 * source[:-2].sum(-1, keepdim=True)
    torch.testing.assert_close(last_inputs(graph, source), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: chain(), {}, "no time step.*give dt_ms"),
        (lambda: chain(nir.Delay(np.full(3, 0.0015))), {"dt_ms": 1.0}, "0.0015 s is no multiple"),
        (lambda: chain(nir.I(np.ones(3))), {"dt_ms": 1.0}, "'n0' is of the class I; those"),
        (
            lambda: chain(nir.Linear(np.eye(3)), nir.Delay(np.array([0.0, 0.001, 0.002]))),
            {"dt_ms": 1.0},
            "'n1' delays sums",
        ),
        (
            lambda: chain(nir.Affine(np.eye(3), np.ones(3)), nir.Delay(np.full(3, 0.001))),
            {"dt_ms": 1.0},
            "'n1' delays a bias",
        ),
        (lambda: chain(), {"dt_ms": 10.0, "discretization": "euler"}, "0.01 s; it must be above"),
    ],
)
def test_graph_that_cannot_be_read_is_refused(make, options, message):
    with pytest.raises(NirError, match=message):
        from_nir(make(), **options)


def test_circle_without_a_neuron_is_refused():
    graph = chain(nir.Linear(np.eye(3)), nir.Linear(np.eye(3)))
    graph.edges.append(("n1", "n0"))
    with pytest.raises(NirError, match="form a circle without a neuron"):
        from_nir(graph, dt_ms=1.0)


def test_populations_that_feed_back_onto_each_other_are_refused():
    graph = chain(nir.Linear(np.eye(3)))
    graph.nodes["other"] = chain().nodes["lif"]
    graph.edges += [("lif", "other"), ("other", "lif")]
    with pytest.raises(NirError, match=r"\['lif', 'other'\] feed back onto each other"):
        from_nir(graph, dt_ms=1.0)


@pytest.mark.parametrize(("name", "value"), [("r", 0.0), ("tau", -0.01)])
def test_values_that_make_no_neuron_are_refused(name, value):
    graph = chain()
    setattr(graph.nodes["lif"], name, np.full(3, value))
    with pytest.raises(NirError, match=f"{name} of 'lif' holds|{name} of 'lif'.* must be above"):
        from_nir(graph, dt_ms=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_ms": 0.0}, "dt_ms = 0.0"),
        ({"dt_ms": 1.0, "discretization": "midpoint"}, "'midpoint' is none of 'exponential'"),
    ],
)
def test_steps_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        from_nir(chain(), **options)


def test_model_names_the_inputs_that_it_lacks():
    with pytest.raises(ValueError, match=r"inputs lack \['in'\]"):
        from_nir(chain(), dt_ms=1.0)({"other": stimulus(3)})


def test_read_network_can_be_trained():
    graph = to_nir(make_network("unit"))
    model = from_nir(graph, trainable="synapses")
    runs, _ = model({"stimulus": stimulus()})
    runs["population"].spikes.sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in model.parameters())
    assert not any(one.requires_grad for one in from_nir(graph).parameters())
