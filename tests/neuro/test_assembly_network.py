"""A graph and its physiology as a simulation, and what homeostasis asks of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from neuro.connectome.network_structure import NetworkStructure
from neuro.losses.firing_rate import firing_rate_loss
from neuro.losses.homeostasis import (
    CellTargets,
    HomeostaticLoss,
    LossWeights,
    split_rate_loss,
)
from neuro.losses.membrane_variance import membrane_variance_loss
from neuro.models.assembly_network import (
    Cells,
    assembly_network,
    assign_channels,
    thresholds,
)
from neuro.models.physiology import Physiology, load_physiology, save_physiology
from neuro.spiking.surrogate import FastSigmoid

# Cells and synapses as the parameter files hold them.
TABLES = {
    "cells": {
        "E": {
            "tau_mem_ms": 85.0,
            "g_leak_ns": 1.35,
            "threshold_mv": -38.0,
            "v_reset_mv": -60.0,
            "e_leak_mv": -60.0,
            "refractory_ms": 8.0,
        },
        "I": {
            "tau_mem_ms": 50.0,
            "g_leak_ns": 0.9,
            "threshold_mv": -45.0,
            "v_reset_mv": -60.0,
            "e_leak_mv": -60.0,
            "refractory_ms": 8.0,
        },
    },
    "synapses": {
        "AMPA": {"g_ns": 4.177, "e_rev_mv": 0.0, "tau_rise_ms": 0.1, "tau_decay_ms": 5.0},
        "NMDA": {"g_ns": 0.448, "e_rev_mv": 0.0, "tau_rise_ms": 10.0, "tau_decay_ms": 70.0},
        "GABA_A": {"g_ns": 8.139, "e_rev_mv": -70.0, "tau_rise_ms": 1.0, "tau_decay_ms": 6.0},
    },
    "transmission": {"E": ["AMPA", "NMDA"], "I": ["GABA_A"], "mitral": ["AMPA", "NMDA"]},
}
CURRENT_TABLES = {
    "model": "current",
    "cells": {
        "E": {"tau_mem_ms": 20.0, "refractory_ms": 3.0},
        "I": {"tau_mem_ms": 10.0, "refractory_ms": 2.0},
    },
    "synapses": {
        "excitation": {"tau_syn_ms": 5.0, "sign": 1},
        "inhibition": {"tau_syn_ms": 8.0, "sign": -1},
    },
    "transmission": {"E": ["excitation"], "I": ["inhibition"], "mitral": ["excitation"]},
}
PHYSIOLOGY = Physiology.from_tables(TABLES)
CURRENT = Physiology.from_tables(CURRENT_TABLES)
N_STEPS, N_TRIALS = 150, 2


def structure(*, strength: float = 1.0) -> NetworkStructure:
    """Five cells (E E I E I) and three inputs, everybody joined to everybody."""
    generator = np.random.default_rng(3)
    pre, post = np.divmod(np.arange(25), 5)
    other = pre != post
    weight = generator.lognormal(-1.0, 0.5, other.sum())
    return NetworkStructure(
        cell_type_names=np.array(["E", "I"]),
        cell_type_ids=np.array([0, 0, 1, 0, 1]),
        assembly_ids=np.zeros(5, dtype=np.int64),
        input_type_names=np.array(["mitral"]),
        input_type_ids=np.zeros(3, dtype=np.int64),
        recurrent_pre=pre[other],
        recurrent_post=post[other],
        recurrent_weight=strength * weight,
        feedforward_pre=np.repeat(np.arange(3), 5),
        feedforward_post=np.tile(np.arange(5), 3),
        feedforward_weight=generator.lognormal(-0.5, 0.3, 15),
    )


def input_spikes(seed: int = 1, rate: float = 0.08) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(N_STEPS, N_TRIALS, 3, generator=generator) < rate).float()


def make(physiology=PHYSIOLOGY, **options):
    return assembly_network(
        structure(), physiology, dt_ms=1.0, surrogate=FastSigmoid(0.5), **options
    )


def by_hand(spikes: np.ndarray) -> np.ndarray:
    """Simulate the tables of the physiology with one loop over steps; one trial, (T, 3)."""
    graph = structure()
    names = [["E", "I"][number] for number in graph.cell_type_ids]
    cells = [TABLES["cells"][name] for name in names]
    v = np.array([cell["v_reset_mv"] for cell in cells])
    rise, decay = {}, {}
    for kind in TABLES["synapses"]:
        rise[kind], decay[kind] = np.zeros(5), np.zeros(5)
    last, s, result = np.full(5, -np.inf), np.zeros(5), []
    for step, arriving in enumerate(spikes):
        total = {kind: np.zeros(5) for kind in TABLES["synapses"]}
        for pre, post, weight in zip(*graph.recurrent, strict=True):
            for kind in TABLES["transmission"][names[pre]]:
                total[kind][post] += s[pre] * weight
        for pre, post, weight in zip(*graph.feedforward, strict=True):
            for kind in TABLES["transmission"]["mitral"]:
                total[kind][post] += arriving[pre] * weight
        for number, cell in enumerate(cells):
            if s[number] or step - last[number] < cell["refractory_ms"]:
                v[number] = cell["v_reset_mv"]
                continue
            current = sum(
                (rise[kind][number] + decay[kind][number]) * (v[number] - row["e_rev_mv"])
                for kind, row in TABLES["synapses"].items()
            )
            leak = 1 - math.exp(-1 / cell["tau_mem_ms"])
            capacitance = cell["tau_mem_ms"] * cell["g_leak_ns"]
            v[number] += leak * (cell["e_leak_mv"] - v[number]) - current / capacitance
        for kind, row in TABLES["synapses"].items():
            r = row["tau_rise_ms"] / row["tau_decay_ms"]
            jump = row["g_ns"] / (r ** (r / (1 - r)) - r ** (1 / (1 - r))) * total[kind]
            rise[kind] = math.exp(-1 / row["tau_rise_ms"]) * rise[kind] - jump
            decay[kind] = math.exp(-1 / row["tau_decay_ms"]) * decay[kind] + jump
        s = np.array([v[k] > cell["threshold_mv"] for k, cell in enumerate(cells)], dtype=float)
        last[s > 0] = step
        result.append(s)
    return np.array(result)


def test_network_does_what_a_loop_over_its_tables_does():
    spikes = input_spikes()
    with torch.no_grad():
        found = make()({"feedforward": spikes}).spikes
    for trial in range(N_TRIALS):
        np.testing.assert_array_equal(found[:, trial].numpy(), by_hand(spikes[:, trial].numpy()))
    assert (found.sum(dim=(0, 1)) > 0).all()


@pytest.mark.parametrize("physiology", [PHYSIOLOGY, CURRENT], ids=["conductance", "current"])
def test_clamped_network_repeats_the_recording_that_drives_it(physiology):
    spikes = input_spikes()
    with torch.no_grad():
        recorded = make(physiology)({"feedforward": spikes}).spikes
        clamped = make(physiology, clamped=True)
        assert sorted(clamped.input_names) == ["feedforward", "recurrent"]
        found = clamped({"feedforward": spikes, "recurrent": recorded}).spikes
    assert recorded.sum() > 0
    assert torch.equal(found, recorded)


def test_clamped_network_has_the_parameters_of_the_free_one():
    trainable = {"recurrent": "type_pairs", "feedforward": "synapses"}
    free, clamped = make(trainable=trainable), make(trainable=trainable, clamped=True)
    clamped.load_state_dict(free.state_dict())
    names = [name for name, _ in free.named_parameters()]
    assert names == [name for name, _ in clamped.named_parameters()]
    assert len(names) == 2


def test_sources_with_equal_synapses_share_a_channel_and_others_do_not():
    channels = assign_channels(PHYSIOLOGY, ["E", "I", "mitral"])
    assert channels.of_source == {"E": 0, "I": 1, "mitral": 0}
    assert [(kind.name, kind.channel) for kind in channels.synapses] == [
        ("AMPA", 0),
        ("NMDA", 0),
        ("GABA_A", 1),
    ]


@pytest.mark.parametrize("scope", ["synapses", "type_pairs"])
def test_training_a_scope_reaches_it_and_keeps_weights_positive(scope):
    network = make(trainable={"recurrent": scope})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.5)
    before = network.projections["recurrent"].effective_weights().detach().clone()
    rate = network({"feedforward": input_spikes()}).spikes.mean()
    rate.backward()
    optimizer.step()
    after = network.projections["recurrent"].effective_weights()
    assert (after > 0).all()
    assert not torch.equal(after, before)
    frozen = network.projections["feedforward"]
    assert not list(frozen.parameters())


def test_trainable_that_names_no_projection_is_refused():
    with pytest.raises(ValueError, match="recurent"):
        make(trainable={"recurent": "synapses"})


def test_current_based_inhibition_keeps_cells_from_firing():
    spikes = input_spikes(rate=0.3)
    with torch.no_grad():
        with_it = make(CURRENT)({"feedforward": spikes}).spikes.sum()
        tables = CURRENT_TABLES | {"transmission": dict.fromkeys("EI", ["excitation"])}
        tables["transmission"]["mitral"] = ["excitation"]
        without = make(Physiology.from_tables(tables))({"feedforward": spikes}).spikes.sum()
    assert 0 < with_it < without


def test_thresholds_and_excitation_follow_the_tables():
    graph = structure()
    cells = Cells(graph.cell_type_names, graph.cell_type_ids)
    assert thresholds(PHYSIOLOGY, cells).tolist() == [-38.0, -38.0, -45.0, -38.0, -45.0]
    assert thresholds(CURRENT, cells).tolist() == [1.0] * 5
    for physiology in (PHYSIOLOGY, CURRENT):
        found = [physiology.excites(name) for name in ("E", "I", "mitral")]
        assert found == [True, False, True]
    assert (PHYSIOLOGY.unit, CURRENT.unit) == ("mV", "thresholds")


@pytest.mark.parametrize("physiology", [PHYSIOLOGY, CURRENT], ids=["conductance", "current"])
def test_physiology_comes_back_from_its_file(tmp_path, physiology):
    save_physiology(tmp_path / "physiology.json", physiology)
    assert load_physiology(tmp_path / "physiology.json") == physiology


@pytest.mark.parametrize(
    ("table", "row", "key", "value", "message"),
    [
        ("cells", "E", "tau_mem_ms", 0.0, "tau_mem_ms"),
        ("cells", "E", "threshold_mv", -60.0, "not below"),
        ("cells", "E", "refractory_ms", -1.0, "refractory_ms"),
        ("cells", "I", "g_leak_ns", math.nan, "no finite number"),
        ("cells", "I", "threshold", -40.0, "must hold"),
        ("synapses", "AMPA", "tau_rise_ms", 5.0, "tau_rise_ms"),
        ("synapses", "AMPA", "g_ns", "4", "no finite number"),
    ],
)
def test_tables_that_describe_nothing_are_refused(tmp_path, table, row, key, value, message):
    tables = json.loads(json.dumps(TABLES))
    tables[table][row][key] = value
    with pytest.raises(ValueError, match=message):
        Physiology.from_tables(tables)
    (tmp_path / "physiology.json").write_text(json.dumps(tables))
    with pytest.raises(ValueError, match=r"(?s)physiology\.json.*save_physiology"):
        load_physiology(tmp_path / "physiology.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transmission": {"E": ["glycine"]}}, "glycine"),
        ({"transmission": {"E": []}}, "at least one"),
        ({"cells": None}, "a physiology has"),
        ({"model": "currents"}, "none of"),
    ],
)
def test_physiologies_that_do_not_hang_together_are_refused(change, message):
    tables = {key: value for key, value in (TABLES | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Physiology.from_tables(tables)


def test_types_that_are_not_described_are_named():
    with pytest.raises(ValueError, match="'granule'"):
        assign_channels(PHYSIOLOGY, ["granule"])
    with pytest.raises(ValueError, match="'granule'"):
        PHYSIOLOGY.cell("granule")
    mixed = replace(PHYSIOLOGY, transmission={"E": ["AMPA", "GABA_A"]})
    with pytest.raises(ValueError, match="different sides"):
        mixed.excites("E")


TARGETS = {"E": CellTargets(0.5, 10.0, 0.25), "I": CellTargets(2.0, 2.0, 0.45)}
ALL = LossWeights(firing_rate=1.0, cv=0.5, silent=0.1, membrane_variance=10.0, weight_ratio=0.01)


def homeostatic(weights=ALL, targets=TARGETS):
    graph = structure()
    cells = Cells(graph.cell_type_names, graph.cell_type_ids)
    return HomeostaticLoss(
        targets,
        type_names=cells.names.tolist(),
        type_ids=cells.labels.ids,
        threshold=thresholds(PHYSIOLOGY, cells),
        weights=weights,
        weight_ratio=2.0,
        dt_ms=1.0,
    )


def test_every_homeostatic_loss_pulls_at_the_weights_of_a_network_that_spikes():
    network = make(trainable={"recurrent": "synapses", "feedforward": "synapses"})
    result = network({"feedforward": input_spikes()}, record_potential=True)
    weights = {
        name: projection.effective_weights() for name, projection in network.projections.items()
    }
    losses = homeostatic()(result, **weights)
    assert sorted(losses) == sorted(asdict(ALL))
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for grad in grads:
            assert grad.isfinite().all(), name
            assert grad.abs().sum() > 0, name


def test_homeostatic_losses_are_those_of_each_type_with_its_own_target():
    network = make()
    result = network({"feedforward": input_spikes()}, record_potential=True)
    ones = torch.ones(3)
    with torch.no_grad():
        found = homeostatic()(result, recurrent=2 * ones, feedforward=ones)
        excitatory, inhibitory = [0, 1, 3], [2, 4]
        rate = (
            3 * firing_rate_loss(result.spikes[..., excitatory], 0.5, dt_ms=1.0)
            + 2 * firing_rate_loss(result.spikes[..., inhibitory], 2.0, dt_ms=1.0)
        ) / 5
        v = result.potential
        ratio = (
            3 * membrane_variance_loss(v[..., excitatory], -38.0, ratio=0.25)
            + 2 * membrane_variance_loss(v[..., inhibitory], -45.0, ratio=0.45)
        ) / 5
    torch.testing.assert_close(found["firing_rate"], rate)
    torch.testing.assert_close(found["membrane_variance"], ratio)
    assert found["weight_ratio"] == 0
    total = sum(getattr(ALL, name) * value for name, value in found.items())
    torch.testing.assert_close(homeostatic().total(found), total)


def test_rate_loss_of_split_trials_is_free_of_chance_on_average():
    # Poisson counts at the target: the squared error is the variance r / T over r* + 1 Hz.
    generator = torch.Generator().manual_seed(8)
    target = torch.tensor([5.0, 20.0])
    shape = (200, 4, 2)
    split, squared = [], []
    for _ in range(400):
        spikes = (torch.rand(shape, generator=generator) < target / 1000).float()
        split.append(split_rate_loss(spikes, target, dt_ms=1.0).item())
        squared.append(firing_rate_loss(spikes, target, dt_ms=1.0).item())
    seconds = 0.2 * 4
    chance = (target / seconds / (target + 1)).mean().item()
    error = np.std(split) / math.sqrt(len(split))
    assert abs(np.mean(split)) < 4 * error < 0.3 * chance
    assert np.mean(squared) == pytest.approx(chance, rel=0.15)


def test_rate_loss_of_split_trials_is_the_plain_one_where_trials_agree():
    spikes = input_spikes()[:, :1].repeat(1, 4, 1)
    target = torch.tensor([3.0, 50.0, 120.0])
    split = split_rate_loss(spikes, target, dt_ms=1.0)
    torch.testing.assert_close(split, firing_rate_loss(spikes, target, dt_ms=1.0))
    with pytest.raises(ValueError, match="there must be two"):
        split_rate_loss(spikes[:, :1], target, dt_ms=1.0)


def test_losses_without_weight_are_left_out_and_potentials_are_asked_for():
    weights = replace(ALL, cv=0.0, membrane_variance=0.0)
    result = make()({"feedforward": input_spikes()})
    found = homeostatic(weights)(result, recurrent=torch.ones(1), feedforward=torch.ones(1))
    assert sorted(found) == ["firing_rate", "silent", "weight_ratio"]
    assert not homeostatic(weights).needs_potential
    with pytest.raises(ValueError, match="record_potential"):
        homeostatic()(result, recurrent=torch.ones(1), feedforward=torch.ones(1))


def test_targets_must_be_those_of_the_cell_types():
    with pytest.raises(ValueError, match="targets for"):
        homeostatic(targets={"E": TARGETS["E"]})
    with pytest.raises(ValueError, match="below 0"):
        replace(ALL, cv=-1.0)
