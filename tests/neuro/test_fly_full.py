"""The full olfactory pathway on a fly of a dozen neurons, against a simulation with numpy loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_fly import write_tables

from neuro.connectome.circuit import load_circuit
from neuro.models.fly_pathway import TRAINABLE, FlyPathway, Settings
from neuro.models.pathway_calibration import Targets, calibrate
from neuro.models.typed_lif import NeuronSettings

GAINS = {"ORN->ALPN": 6.0, "ORN->ALLN": 4.0, "ALPN->KC": 9.0, "ALLN->ALPN": 0.7, "APL->KC": 2.0}
SETTINGS = Settings(
    dt_ms=1.0,
    neurons=NeuronSettings(tau_syn_ms=5.0, tau_mem_ms=10.0),
    tau_out_ms=30.0,
    read_from_ms=20.0,
    surrogate_slope=10.0,
    trainable="global",
    gains=GAINS,
)


@pytest.fixture
def circuit(tmp_path):
    return load_circuit(write_tables(tmp_path / "tables"))


def make(circuit, **changed):
    torch.manual_seed(0)
    return FlyPathway(circuit, n_classes=4, settings=replace(SETTINGS, **changed))


def receptor_spikes(n_inputs, n_steps=80, n_trials=5):
    generator = np.random.default_rng(0)
    return (generator.random((n_steps, n_trials, n_inputs)) < 0.2).astype(np.float32)


def simulate(circuit, spikes, dt_ms, bias):
    """One trial, unit by unit and edge by edge; returns the spikes of every step."""
    n_units = len(circuit.hidden)
    a, b = np.exp(-dt_ms / 5.0), np.exp(-dt_ms / 10.0)
    current, potential = np.zeros(n_units), np.zeros(n_units)
    before, steps = np.zeros(n_units), []
    for now in spikes:
        x = np.zeros(n_units)
        for edges, source in ((circuit.forward, now), (circuit.recurrent, before)):
            for pre, post, weight, code in zip(
                edges.pre, edges.post, edges.weight, edges.edge_class, strict=True
            ):
                gain = GAINS.get(edges.edge_classes[code], 1.0)
                x[post] += 10.0 / dt_ms * gain * weight * source[pre]
        current = a * current + (1 - a) * x
        potential = b * potential + (1 - b) * (current + bias)
        before = (potential > 1).astype(float)
        potential[before == 1] = 0
        steps.append(before)
    return np.array(steps)


@pytest.mark.parametrize("dt_ms", [1.0, 2.0])
def test_network_does_what_its_equations_say(circuit, dt_ms):
    model = make(circuit, dt_ms=dt_ms).double()
    model.network.neuron.bias.data.fill_(0.1)
    spikes = receptor_spikes(len(circuit.inputs))
    with torch.no_grad():
        found = model(model.prepare(torch.from_numpy(spikes).double()), record_spikes=True)
    readout = np.zeros((5, 4))
    for trial in range(5):
        expected = simulate(circuit, spikes[:, trial], dt_ms, 0.1)
        np.testing.assert_array_equal(found.spikes[:, trial], expected)
        y, highest = np.zeros(4), np.full(4, -np.inf)
        for step, now in enumerate(expected):
            y = (
                np.exp(-dt_ms / 30.0) * y
                + now[circuit.readout] @ model.readout.weight.detach().numpy()
            )
            if step * dt_ms >= 20.0:
                highest = np.maximum(highest, y)
        readout[trial] = highest
    np.testing.assert_allclose(found.logits, readout + model.bias_out.detach().numpy(), atol=1e-12)
    kc = (model.units["cell_class"] == "KC").to_numpy()
    assert found.counts[:, torch.from_numpy(kc)].sum() > 0
    assert found.counts.sum() > found.counts[:, torch.from_numpy(kc)].sum() > 0


def test_readout_reads_kenyon_cells_alone_and_all_of_them(circuit):
    model = make(circuit)
    read = model.units.iloc[model.readout.unit.numpy()]
    assert set(read["cell_class"]) == {"KC"}
    assert len(read) == (model.units["cell_class"] == "KC").sum() == len(model.readout.weight)


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_trainable_says_what_is_learned_and_no_sign_flips(circuit, trainable):
    model = make(circuit, trainable=trainable)
    of_weights = {name for name, _ in model.named_parameters() if "projections" in name}
    expected = {
        "frozen": set(),
        "synapses": {
            f"network.projections.{name}.raw_weight" for name in ("receptors", "recurrent")
        },
    }
    factors = {f"network.projections.{n}.scaling.log_factors" for n in ("receptors", "recurrent")}
    assert of_weights == expected.get(trainable, factors)
    weights = {
        name: projection.effective_weights().detach().clone()
        for name, projection in model.network.projections.items()
    }
    spikes = model.prepare(torch.from_numpy(receptor_spikes(len(circuit.inputs))))
    # Far beyond any sensible step, so that a sign that could flip would.
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    loss = torch.nn.functional.cross_entropy(model(spikes).logits, torch.arange(5) % 4)
    loss.backward()
    if trainable != "frozen":
        moved = [model.get_parameter(name).grad.abs().sum() for name in of_weights]
        assert all(one > 0 for one in moved)
    optimizer.step()
    for name, projection in model.network.projections.items():
        after = projection.effective_weights()
        assert bool((after * weights[name] >= 0).all()), name
        assert (trainable == "frozen") == torch.equal(after, weights[name])


def test_bias_and_time_constant_stay_within_their_limits(circuit):
    model = make(circuit)
    model.network.neuron.bias.data.fill_(50.0)
    model.network.neuron.log_tau_mem_ms.data.fill_(-50.0)
    neuron = model.network.model()
    assert neuron.bias.max() == 1.0
    assert neuron.tau_mem_ms.min().item() == pytest.approx(3.0)


@pytest.mark.parametrize("beyond", [50.0, -50.0])
def test_values_put_back_to_their_limits_act_as_before_and_learn_again(circuit, beyond):
    model = make(circuit)
    population = model.network.neuron
    population.bias.data.fill_(beyond)
    population.log_tau_mem_ms.data.fill_(beyond)
    before = population()
    model.clip()
    after = population()
    for name in ("bias", "tau_mem_ms"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    (after.bias.sum() + after.tau_mem_ms.sum()).backward()
    assert (population.bias.grad != 0).all()
    assert (population.log_tau_mem_ms.grad != 0).all()


def test_silenced_class_is_silent_also_where_hidden_receptor_neurons_share_it(circuit):
    model = make(circuit)
    model.silence("ORN->ALPN")
    # The tiny fly's receptor neuron 104 carries no receptor and is a hidden one.
    for name in ("receptors", "recurrent"):
        edges = model._edges[name]
        those = torch.from_numpy(edges.edge_class == edges.edge_classes.index("ORN->ALPN"))
        weights = model.network.projections[name].effective_weights()
        assert not weights[those].any()
        assert weights[~those].any()


@pytest.mark.parametrize("ids", ["input_id", "unit_id"])
def test_state_of_other_neurons_is_refused(circuit, ids):
    state = make(circuit).state_dict()
    state[ids] = state[ids] + 1
    with pytest.raises(RuntimeError, match=rf"{ids} differs"):
        make(circuit).load_state_dict(state)


def test_state_of_other_wiring_is_refused_but_its_learned_values_can_be_had(circuit):
    other = replace(
        circuit, recurrent=circuit.recurrent._replace(weight=circuit.recurrent.weight * 0.5)
    )
    trained = make(other)
    trained.bias_out.data.fill_(0.5)
    model = make(circuit)
    with pytest.raises(RuntimeError, match="wiring_hash differs"):
        model.load_state_dict(trained.state_dict())
    model.load_learned(trained.state_dict())
    assert torch.equal(model.bias_out, trained.bias_out)
    with pytest.raises(ValueError, match="bias_out.*has shape"):
        model.load_learned(trained.state_dict() | {"bias_out": torch.zeros(3)})


@pytest.mark.parametrize("trainable", ["frozen", "synapses"])
def test_silenced_edges_do_nothing_and_others_stay(circuit, trainable):
    model = make(circuit, trainable=trainable)
    model.silence("APL->KC")
    edges = circuit.recurrent
    silenced = edges.edge_class == edges.edge_classes.index("APL->KC")
    found = model.network.projections["recurrent"].effective_weights().detach().numpy()
    assert not found[silenced].any()
    assert found[~silenced].all()
    with pytest.raises(ValueError, match="none of 'ALLN->ALPN'"):
        model.silence("KC->KC")


def test_circuit_without_recurrent_edges_runs(circuit):
    none = np.zeros(0)
    nothing = circuit.recurrent._replace(
        pre=none.astype(int), post=none.astype(int), weight=none, edge_class=none.astype(int)
    )
    model = make(replace(circuit, recurrent=nothing))
    found = model(model.prepare(torch.from_numpy(receptor_spikes(len(circuit.inputs)))))
    assert not found.counts[:, model.readout.unit].any()
    assert found.counts.any()


def test_calibration_brings_populations_to_their_targets_and_moves_no_random_stream(circuit):
    spikes = torch.from_numpy(receptor_spikes(len(circuit.inputs), n_trials=40))
    targets = Targets(
        trials=40, halvings=12, ln_rate_hz=40.0, pn_rate_hz=50.0, kc_active=0.4, apl_rate_hz=30.0
    )
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    gains, activity = calibrate(circuit, SETTINGS, targets, spikes)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert activity.ln_rate_hz == pytest.approx(40.0, rel=0.1)
    assert activity.pn_rate_hz == pytest.approx(50.0, rel=0.15)
    assert activity.kc_active == pytest.approx(0.4, abs=0.1)
    assert gains["APL->KC"] == 2.0
    model = make(circuit, gains=gains)
    with torch.no_grad():
        counts = model(model.prepare(spikes)).counts
    kc = torch.from_numpy((model.units["cell_class"] == "KC").to_numpy())
    assert (counts[:, kc] > 0).float().mean().item() == pytest.approx(activity.kc_active)


def test_an_unknown_scope_is_refused(circuit):
    with pytest.raises(ValueError, match="trainable = 'all' is none of 'frozen', 'global'"):
        make(circuit, trainable="all")
