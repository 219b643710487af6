"""Students against the networks that they are students of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.connectome.assemblies import AssemblyWiring, FeedforwardWiring
from neuro.connectome.cell_types import Population
from neuro.connectome.synthetic import SyntheticConnectome, draw_structure
from neuro.connectome.weights import WeightLaw
from neuro.models.assembly_network import assembly_network
from neuro.models.physiology import Physiology
from neuro.models.student import log_factors, make_groups, student_network, used_pairs
from neuro.spiking.surrogate import FastSigmoid

N_CELLS, N_INPUTS, N_STEPS = 41, 20, 120
CELL = {"v_reset_mv": -60.0, "e_leak_mv": -60.0, "refractory_ms": 3.0}
PHYSIOLOGY = Physiology.from_tables(
    {
        "cells": {
            "E": {"tau_mem_ms": 40.0, "g_leak_ns": 1.3, "threshold_mv": -45.0} | CELL,
            "I": {"tau_mem_ms": 20.0, "g_leak_ns": 0.9, "threshold_mv": -48.0} | CELL,
        },
        "synapses": {
            "AMPA": {"g_ns": 4.0, "e_rev_mv": 0.0, "tau_rise_ms": 0.1, "tau_decay_ms": 5.0},
            "GABA_A": {"g_ns": 8.0, "e_rev_mv": -70.0, "tau_rise_ms": 1.0, "tau_decay_ms": 6.0},
        },
        "transmission": {"E": ["AMPA"], "I": ["GABA_A"], "mitral": ["AMPA"]},
    }
)
HIDDEN = np.arange(N_CELLS) % 4 == 0


@pytest.fixture(scope="module")
def structure():
    """Two assemblies of 20 cells and one cell without."""
    parameters = SyntheticConnectome(
        cells=Population(N_CELLS, ["E", "I"], [0.8, 0.2]),
        recurrent=AssemblyWiring(2, "erdos-renyi", 0.4, 0.1),
        recurrent_weights=WeightLaw("log-normal", 0.3, w_std=0.3),
        inputs=Population(N_INPUTS, ["mitral"], [1.0]),
        feedforward=FeedforwardWiring("erdos-renyi", 0.3),
        feedforward_weights=WeightLaw("log-normal", 0.4, w_std=0.3),
    )
    return draw_structure(parameters, generator=np.random.default_rng(5))


@pytest.fixture(scope="module")
def recorded(structure):
    """Spikes of inputs and cells."""
    generator = torch.Generator().manual_seed(2)
    inputs = (torch.rand(N_STEPS, 3, N_INPUTS, generator=generator) < 0.03).float()
    with torch.no_grad():
        cells = teacher(structure)({"feedforward": inputs}).spikes
    assert cells.mean() > 0.003
    return inputs, cells


def teacher(structure, **options):
    surrogate = FastSigmoid(1.0)
    return assembly_network(
        structure, PHYSIOLOGY, dt_ms=1.0, surrogate=surrogate, backend="sequence", **options
    )


def student(structure, *, free, grouping="assemblies", share=None):
    return student_network(
        structure,
        PHYSIOLOGY,
        make_groups(structure, grouping),
        free=free,
        dt_ms=1.0,
        surrogate=FastSigmoid(1.0),
        backend="sequence",
        share=share,
    )


def given_to(network, recorded) -> dict[str, torch.Tensor]:
    both = dict(zip(("feedforward", "given"), recorded, strict=True))
    return {name: both[name] for name in network.input_names}


def test_groups_are_the_types_within_each_assembly(structure):
    groups = make_groups(structure, "assemblies")
    for cell, group in enumerate(groups.cells.ids.tolist()):
        name = structure.cell_type_names[structure.cell_type_ids[cell]]
        assembly = structure.assembly_ids[cell]
        assert groups.cells.names[group] == (name if assembly < 0 else f"{name}{assembly}")
    # The cell without assembly is one group; nobody is of the other type there.
    assert sorted(groups.cells.names)[1:] == ["E0", "E1", "I0", "I1"]
    assert groups.inputs.names == ("mitral",)
    assert make_groups(structure, "cell_types").cells.names == ("E", "I")


def test_unknown_grouping_is_refused(structure):
    with pytest.raises(ValueError, match="grouping = 'layers' is none of 'cell_types'"):
        make_groups(structure, "layers")


@pytest.mark.parametrize("grouping", ["cell_types", "assemblies"])
def test_used_pairs_are_those_of_the_edges(structure, grouping):
    groups = make_groups(structure, grouping)
    recurrent, feedforward = used_pairs(structure, groups)
    wanted = torch.zeros_like(recurrent)
    for pre, post in zip(structure.recurrent_pre, structure.recurrent_post, strict=True):
        wanted[groups.cells.ids[pre], groups.cells.ids[post]] = True
    assert torch.equal(recurrent, wanted)
    assert not wanted.all() or grouping == "cell_types"
    assert feedforward.all()


@pytest.mark.parametrize("free", [np.ones(N_CELLS, bool), np.zeros(N_CELLS, bool), HIDDEN])
def test_student_with_the_right_factors_spikes_as_its_teacher_whoever_is_free(
    structure, recorded, free
):
    network = student(structure, free=free)
    with torch.no_grad():
        assert torch.equal(network(given_to(network, recorded)).spikes, recorded[1])


def test_only_spikes_of_recorded_cells_are_given_to_others(structure, recorded):
    network = student(structure, free=HIDDEN)
    changed = recorded[1].clone()
    changed[..., torch.from_numpy(HIDDEN)] = 1
    with torch.no_grad():
        for table in log_factors(network):
            table += 0.2
        both = [
            network(given_to(network, (recorded[0], cells))).spikes
            for cells in (recorded[1], changed)
        ]
    assert torch.equal(*both)
    assert not torch.equal(both[0], recorded[1])


def test_factors_are_one_table_whether_cells_are_free_or_not_and_in_all_that_share(structure):
    owner = student(structure, free=HIDDEN)
    other = student(structure, free=np.zeros(N_CELLS, bool), share=owner)
    assert len(list(owner.parameters())) == 2
    for mine, yours in zip(log_factors(owner), log_factors(other), strict=True):
        assert mine is yours
    groups = make_groups(structure, "assemblies")
    with torch.no_grad():
        log_factors(owner).recurrent[1, 2] = np.log(3.0)
    for network, name in ((owner, "given"), (owner, "recurrent"), (other, "given")):
        projection = network.projections[name]
        edges = projection.wiring.pairs
        changed = (groups.cells.ids[edges[0]] == 1) & (groups.cells.ids[edges[1]] == 2)
        assert changed.any()
        ratio = projection.effective_weights() / projection.weight
        torch.testing.assert_close(ratio, torch.where(changed, 3.0, 1.0))


@pytest.mark.parametrize("free", [np.ones(N_CELLS, bool), np.zeros(N_CELLS, bool), HIDDEN])
def test_every_used_factor_has_a_gradient_that_is_finite(structure, recorded, free):
    network = student(structure, free=free, grouping="cell_types")
    simulation = network(given_to(network, recorded))
    wanted = torch.rand(recorded[1].shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((simulation.spikes * wanted).sum(), list(log_factors(network)))
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert (gradient != 0).all()
