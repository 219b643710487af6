"""Exported networks on the real NEST, by PyNN, beside this project's own simulation.

NEST solves the equations of its cells by itself; potentials and spikes of both are in double
precision, so that they are the same and not only alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from pynn_networks import (
    DT_MS,
    N_UNITS,
    draw,
    make_network,
    make_neuron,
    python_with_nest,
    stimulus,
)

from neuro.export import PynnReadout, PynnResult, compare_spike_counts, run_pynn, write_pynn
from neuro.spiking import LeakyReadout, Network, Projection
from neuro.spiking.neurons import LIF

READ = torch.tensor([30, 2, 11])


class Ran(NamedTuple):
    """Networks, their spikes here and what NEST made of all of them in one simulation."""

    networks: dict
    spikes: dict
    result: PynnResult

    def both(self, name):
        return self.spikes[name].numpy(), self.result.spikes[name]


def chained(source, **options):
    weights = draw(-3, 5, N_UNITS, N_UNITS, seed=5)
    layer = Projection(n_pre=N_UNITS, n_post=N_UNITS, weights=weights, delay_steps=0)
    return Network(make_neuron(**options), {source: layer}, n_units=N_UNITS, dt_ms=DT_MS)


def make_readout():
    readout = LeakyReadout(n_outputs=3, dt_ms=DT_MS, tau_ms=25.0).double()
    with torch.no_grad():
        readout.bias.copy_(torch.tensor([0.1, 0.0, -0.2]))
    return readout, draw(-1, 1, len(READ), 3, seed=9)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    python = python_with_nest()
    turned = make_neuron().bias * torch.tensor([1.0, -1.0]).repeat(N_UNITS // 2)
    networks = {
        "normalized": make_network(),
        "unit": make_network(gain="unit", strength=0.06),
        "recurrent": make_network(recurrent_delay=2, stimulus_delay=1),
        "without recurrence": make_network(stimulus_delay=1),
        "refractory": make_network(refractory_ms=6.0),
        "single step": make_network(recurrent_delay=1),
        "two steps": make_network(recurrent_delay=2),
        "turned": make_network(bias=turned),
    }
    spikes = {name: one({"stimulus": stimulus()}).spikes for name, one in networks.items()}
    for name, options in {"chained": {}, "chained delta": {"tau_syn_ms": None}}.items():
        networks[name] = chained("normalized", **options)
        spikes[name] = networks[name]({"normalized": spikes["normalized"]}).spikes
    readout, weights = make_readout()
    export = write_pynn(
        tmp_path_factory.mktemp("nest"),
        networks,
        {"stimulus": stimulus()},
        readouts={"out": PynnReadout("recurrent", weights, readout, units=READ)},
    )
    return Ran(networks, spikes, run_pynn(export, python=python, timeout_s=120))


NAMES = ("normalized", "unit", "recurrent", "refractory", "chained", "chained delta")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_spikes_on_nest_in_the_same_steps(ran, name):
    expected, found = ran.both(name)
    assert 0.01 < expected.mean() < 0.4
    np.testing.assert_array_equal(found, expected)
    assert compare_spike_counts(expected, found).correlation == pytest.approx(1)


@pytest.mark.parametrize("other", ["recurrent", "refractory"])
def test_recurrence_and_refractory_periods_matter_in_these_networks(ran, other):
    without = {"recurrent": "without recurrence", "refractory": "normalized"}[other]
    assert not torch.equal(ran.spikes[other], ran.spikes[without])


def test_recurrence_of_a_single_step_is_a_step_late_and_counts_agree(ran):
    expected, found = ran.both("single step")
    assert compare_spike_counts(expected, found).correlation > 0.99
    assert not np.array_equal(found, expected)
    np.testing.assert_array_equal(found, ran.spikes["two steps"].numpy())


def test_other_biases_do_not_pass_for_the_same_network(ran):
    """Agreement is not a matter of course: half of the biases are turned around."""
    agreement = compare_spike_counts(ran.spikes["normalized"], ran.result.spikes["turned"])
    assert agreement.correlation < 0.9


def test_a_readout_has_the_same_values_at_every_step(ran):
    readout, weights = make_readout()
    values = readout(ran.spikes["recurrent"][..., READ] @ weights).values.detach().numpy()
    assert np.ptp(values) > 1
    np.testing.assert_allclose(ran.result.potentials["out"], values, atol=1e-9)


def test_counts_in_steps_of_10_ms_and_a_filtered_readout(tmp_path):
    neuron = LIF(30.0, tau_syn_ms=20.0, reset="zero", gain="normalized", bias=0.1)
    weights = 0.3 * draw(-0.6, 1, 25, N_UNITS, seed=4)
    layers = {"stimulus": Projection(n_pre=25, n_post=N_UNITS, weights=weights, delay_steps=0)}
    network = Network(neuron, layers, n_units=N_UNITS, dt_ms=10.0)
    spikes = (stimulus(0.3) + stimulus(0.2) + stimulus(0.1))[:50]
    expected = network({"stimulus": spikes}).spikes[:, 1:]
    out = LIF(50.0, tau_syn_ms=15.0, threshold=1e9, reset="zero", gain="normalized", bias=-0.4)
    read = draw(-1, 1, N_UNITS, 2, seed=8)
    layers = {"cells": Projection(n_pre=N_UNITS, n_post=2, weights=read, delay_steps=0)}
    values = Network(out, layers, n_units=2, dt_ms=10.0)({"cells": expected}, record_potential=True)
    readouts = {"out": PynnReadout("population", read, out)}
    export = write_pynn(tmp_path, network, {"stimulus": spikes}, readouts=readouts)
    result = run_pynn(export, python=python_with_nest(), trials=[1], timeout_s=120)
    assert spikes.max() == 3 and 0.05 < expected.mean() < 0.7
    assert result.trials.tolist() == [1]
    np.testing.assert_array_equal(result.spikes["population"], expected.numpy())
    np.testing.assert_allclose(result.potentials["out"], values.potential.numpy(), atol=1e-9)


def test_a_shorter_time_step_of_the_simulator_changes_counts_little(tmp_path):
    network = make_network(recurrent_delay=1)
    expected = network({"stimulus": stimulus()}).spikes[:, :1]
    export = write_pynn(tmp_path, network, {"stimulus": stimulus()}, timestep_ms=0.1)
    found = run_pynn(export, python=python_with_nest(), trials=[0], timeout_s=120)
    agreement = compare_spike_counts(expected, found.spikes["population"])
    assert agreement.correlation > 0.95 and agreement.equal_fraction < 1
