"""Networks on given edges: their equations, what is trained, graphs, and students' ignorance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from neuro.connectome.neuron_graph import (
    NeuronGraph,
    RandomGraphLaw,
    SignedEdges,
    circuit_graph,
    load_graph,
    random_graph,
    save_graph,
)
from neuro.models.teacher_student import MODES, derangement, make_student, train_only
from neuro.models.wired_network import PARTS, WiredNetwork, WiredSettings

LAW = RandomGraphLaw(
    n_inputs=6,
    n_units=24,
    n_excitatory=2,
    n_inhibitory=1,
    excitatory_share=0.75,
    n_assemblies=1,
    feedforward_probability=0.5,
    within_probability=0.3,
    between_probability=0.3,
    weight_cv=0.7,
)
SETTINGS = WiredSettings(
    kind="spiking",
    dt_ms=2.0,
    tau_syn_ms=10.0,
    tau_mem_ms=(10.0, 40.0),
    tau_mem_limits_ms=(6.0, 400.0),
    bias=(-0.4, 0.6),
    bias_limits=(-1.0, 1.0),
    intrinsic_of="groups",
    feedforward_gain=40.0,
    recurrent_gain=20.0,
    synapse_noise=0.0,
    surrogate_slope=10.0,
    max_rate_hz=200.0,
    tau_syn_out_ms=20.0,
    tau_mem_out_ms=30.0,
)


def make_graph(seed=0):
    return random_graph(LAW, np.random.default_rng(seed))


def network(graph=None, **changed):
    settings = dataclasses.replace(SETTINGS, **changed)
    return WiredNetwork(
        graph or make_graph(),
        settings,
        n_outputs=3,
        generator=torch.Generator().manual_seed(0),
        backend="sequence",
    )


def inputs(n_steps=40, n_trials=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n_steps, n_trials, LAW.n_inputs, generator=generator) < 0.1).float()


def by_hand(net, spikes):
    """The equations of the class in float64, step by step, with matrices; returns y, s, U."""
    settings, n_units = net.settings, net.n_units
    w1, v = np.zeros((LAW.n_inputs, n_units)), np.zeros((n_units, n_units))
    for matrix, projection in ((w1, net.feedforward), (v, net.recurrent)):
        pre, post = projection.wiring.pairs
        sign = projection.sign_of_pre[pre].double()
        matrix[pre, post] = (sign * projection.raw_weight.detach().double().exp()).numpy()
    bias = net.intrinsic.bias.detach().double().numpy()[net.intrinsic.group]
    tau = net.intrinsic.log_tau_mem.detach().double().exp().numpy()[net.intrinsic.group]
    w2 = net.readout.weight.detach().double().numpy()
    a, b = np.exp(-2.0 / settings.tau_syn_ms), np.exp(-2.0 / tau)
    a_out, b_out = np.exp(-2.0 / settings.tau_syn_out_ms), np.exp(-2.0 / settings.tau_mem_out_ms)
    current = potential = fired = np.zeros((spikes.shape[1], n_units))
    first = out = np.zeros((spikes.shape[1], w2.shape[1]))
    rows = []
    for x in spikes.double().numpy():
        current = a * current + (1 - a) * (x @ w1 + fired @ v)
        if settings.kind == "spiking":
            potential = b * np.where(fired > 0, 0, potential) + (1 - b) * (current + bias)
            fired = (potential > 1).astype(float)
        else:
            potential = b * potential + (1 - b) * (current + bias)
            fired = 0.4 * np.clip(potential, 0, 1)  # 200 Hz in steps of 2 ms
        first = a_out * first + fired[:, net.readout.units] @ w2
        out = b_out * out + (1 - b_out) * first
        rows.append((out, fired, potential))
    return tuple(np.stack(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("kind", ["spiking", "rate"])
def test_network_steps_as_its_equations_written_out_in_numpy(kind):
    net = network(kind=kind)
    spikes = inputs()
    activity = net(spikes)
    out, fired, potential = by_hand(net, spikes)
    assert fired.sum() > 50
    np.testing.assert_allclose(activity.potential.detach(), potential, atol=2e-4)
    np.testing.assert_allclose(activity.spikes.detach(), fired, atol=2e-4)
    np.testing.assert_allclose(activity.outputs.detach(), out, atol=2e-4)
    np.testing.assert_allclose(activity.logits.detach(), out.max(axis=0), atol=2e-4)


@pytest.mark.parametrize("kind", ["spiking", "rate"])
def test_gradients_reach_every_part(kind):
    net = network(kind=kind)
    net(inputs()).outputs.square().mean().backward()
    for name, parameters in net.parts().items():
        for parameter in parameters:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_readout_reads_only_the_units_that_the_graph_names():
    graph = make_graph()._replace(readout=np.array([1, 4]))
    net = network(graph)
    spikes = torch.zeros(10, 1, graph.n_units)
    spikes[:, :, [0, 2, 3]] = 1
    assert not net.readout(spikes).any()
    spikes[:, :, 4] = 1
    assert net.readout(spikes).abs().sum() > 0


def test_noise_is_drawn_in_training_alone_and_comes_from_the_global_stream():
    net, spikes = network(synapse_noise=0.3), inputs()
    still = network()(spikes).potential
    net.eval()
    assert torch.equal(net(spikes).potential, still)
    net.train()
    torch.manual_seed(1)
    first = net(spikes).potential
    assert not torch.equal(first, still)
    torch.manual_seed(1)
    assert torch.equal(net(spikes).potential, first)


def test_noise_of_a_current_has_the_stated_standard_deviation():
    # Without input, I of a rate network is a sum of noise: variance noise^2 / (1 - a^2); U is read
    # where b is nearly 0, so that U = I + bias.
    net = network(
        kind="rate",
        synapse_noise=0.3,
        tau_mem_ms=(0.01, 0.01),
        bias=(0.0, 0.0),
        feedforward_gain=1e-6,
        recurrent_gain=1e-6,
    )
    torch.manual_seed(0)
    potential = net(torch.zeros(400, 20, LAW.n_inputs)).potential[100:]
    expected = 0.3 / np.sqrt(1 - np.exp(-2.0 / 10.0) ** 2)
    assert potential.std().item() == pytest.approx(expected, rel=0.02)


def test_clipping_keeps_biases_and_time_constants_in_their_limits():
    net = network()
    with torch.no_grad():
        net.intrinsic.bias.copy_(torch.tensor([-3.0, 0.2, 3.0]))
        net.intrinsic.log_tau_mem.copy_(torch.tensor([1.0, 50.0, 9999.0]).log())
    net.clip()
    np.testing.assert_allclose(net.intrinsic.bias.detach(), [-1.0, 0.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(net.intrinsic.tau_mem_ms.detach(), [6.0, 50.0, 400.0], rtol=1e-5)


def test_first_values_spread_evenly_over_their_ranges():
    net = network(intrinsic_of="units")
    assert len(net.intrinsic.bias) == LAW.n_units
    bias = net.intrinsic.bias.detach().sort().values
    np.testing.assert_allclose(bias, np.linspace(-0.4, 0.6, LAW.n_units), atol=1e-6)
    tau = net.intrinsic.tau_mem_ms.detach().sort().values
    np.testing.assert_allclose(tau, np.linspace(10, 40, LAW.n_units), rtol=1e-5)


def test_weights_keep_their_sign_through_training():
    net = network()
    sign = net.recurrent.effective_weights().sign()
    assert set(sign.tolist()) == {-1.0, 1.0}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e3)
    for _ in range(3):
        optimizer.zero_grad()
        net(inputs()).outputs.mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
        net.clip()
    after = net.recurrent.effective_weights()
    assert torch.equal(after.sign()[after != 0], sign[after != 0])


def test_state_of_other_units_or_of_another_order_is_refused():
    graph = make_graph()
    state = network(graph).state_dict()
    network(graph).load_state_dict(state)
    moved = graph._replace(unit_id=graph.unit_id[::-1].copy())
    with pytest.raises(RuntimeError, match="unit_id differs"):
        network(moved).load_state_dict(state)
    with pytest.raises(RuntimeError, match="differs"):
        network(make_graph(seed=1)).load_state_dict(state)


@pytest.mark.parametrize("changed", [{"kind": "analog"}, {"intrinsic_of": "layers"}])
def test_unknown_kinds_are_refused(changed):
    with pytest.raises(ValueError, match="is none of"):
        dataclasses.replace(SETTINGS, **changed)


def test_graph_has_signs_of_its_groups_and_weights_that_sum_to_one():
    graph = make_graph()
    assert graph.group_names == ("E0", "E1", "I0")
    assert np.bincount(graph.group).tolist() == [9, 9, 6]
    inhibitory = graph.group[graph.recurrent.pre] == 2
    assert (np.sign(graph.recurrent.weight) == np.where(inhibitory, -1, 1)).all()
    assert (graph.feedforward.weight > 0).all()
    for edges in (graph.feedforward, graph.recurrent):
        total = np.bincount(edges.post, np.abs(edges.weight))
        np.testing.assert_allclose(total[total > 0], 1, rtol=1e-5)


def test_saved_graph_is_read_as_it_was(tmp_path):
    graph = make_graph()
    save_graph(tmp_path / "graph.npz", graph)
    found = load_graph(tmp_path / "graph.npz")
    assert found.group_names == graph.group_names
    for name in NeuronGraph._fields[2:]:
        np.testing.assert_array_equal(getattr(found, name), getattr(graph, name))
    for name in NeuronGraph._fields[:2]:
        for own, other in zip(getattr(found, name), getattr(graph, name), strict=True):
            np.testing.assert_array_equal(own, other)


def test_circuit_becomes_a_graph_in_the_order_of_its_ids(shared_data):
    from neuro.connectome.larva import larva_circuit

    circuit = larva_circuit(shared_data / "fly")
    graph = circuit_graph(circuit)
    np.testing.assert_array_equal(graph.unit_id, np.sort(circuit.hidden["root_id"]))
    classes = np.array(graph.group_names)[graph.group]
    assert (classes == circuit.hidden["cell_class"].to_numpy()).all()
    assert set(classes[graph.readout]) == {"KC"}
    assert isinstance(graph.feedforward, SignedEdges)
    assert len(graph.recurrent.pre) == len(circuit.recurrent.pre)


@pytest.mark.parametrize("mode", MODES)
def test_student_forgets_the_parts_of_its_mode_and_no_other(mode):
    teacher = network(intrinsic_of="units")
    student = make_student(teacher, mode, seed=0)
    for name in PARTS:
        for own, true in zip(student.parts()[name], teacher.parts()[name], strict=True):
            forgotten = name in MODES[mode]
            assert torch.equal(own, true) is not forgotten, name
            assert own.requires_grad is forgotten, name
            assert true.requires_grad


def test_student_knows_which_weights_there_are_between_groups_but_not_where():
    teacher = network()
    student = make_student(teacher, "weights", seed=0)
    pre, post = (one.numpy() for one in teacher.recurrent.wiring.pairs)
    group = teacher.group.numpy()
    for source in range(3):
        for target in range(3):
            own = (group[pre] == source) & (group[post] == target)
            found, true = (
                np.sort(net.recurrent.raw_weight.detach().numpy()[own])
                for net in (student, teacher)
            )
            np.testing.assert_array_equal(found, true)
    assert torch.equal(student.recurrent.sign_of_pre, teacher.recurrent.sign_of_pre)


def test_student_starts_from_values_that_tell_nothing_of_the_teachers():
    # A teacher and a student of one seed must not be drawn from one stream.
    settings = {"intrinsic_of": "units"}
    graph = random_graph(dataclasses.replace(LAW, n_units=300), np.random.default_rng(0))
    teacher = network(graph, **settings)
    student = make_student(teacher, "both", seed=0)
    for name in PARTS:
        for own, true in zip(student.parts()[name], teacher.parts()[name], strict=True):
            found = np.corrcoef(own.detach().flatten(), true.detach().flatten())[0, 1]
            assert abs(found) < 0.25, name


def test_another_seed_makes_another_student():
    teacher = network(intrinsic_of="units")
    first, again, other = (make_student(teacher, "both", seed=seed) for seed in (1, 1, 2))
    for name in PARTS:
        for one, two, three in zip(
            *(net.parts()[name] for net in (first, again, other)), strict=True
        ):
            assert torch.equal(one, two)
            assert not torch.equal(one, three)


def test_only_the_parts_of_a_mode_are_trained_and_an_unknown_mode_is_refused():
    net = network()
    assert train_only(net, "recurrent") == ["recurrent"]
    trained = {name for name, one in net.parts().items() if one[0].requires_grad}
    assert trained == {"recurrent"}
    for act in (lambda: train_only(net, "all"), lambda: make_student(net, "all", seed=0)):
        with pytest.raises(ValueError, match="mode = 'all' is none of 'intrinsic'"):
            act()


@pytest.mark.parametrize("n", [2, 3, 50])
def test_derangement_leaves_no_number_in_its_place(n):
    found = derangement(n, np.random.default_rng(0))
    assert sorted(found) == list(range(n))
    assert (found != np.arange(n)).all()
    with pytest.raises(ValueError, match="n = 1"):
        derangement(1, np.random.default_rng(0))
