"""LIF in PyNN's terms, against the equations of PyNN's cells solved without this project."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from populations import adaptive_model
from pynn_networks import DT_MS, N_UNITS, make_network, make_neuron, stimulus
from scipy.linalg import expm

from neuro.export import PynnError, convert_cells, find_backend
from neuro.spiking.neurons import LIF

NEST, SPINNAKER = find_backend("nest"), find_backend("spinnaker")
SILENT = {"threshold": 1e6, "v_rest": 0.2}


def converted(neuron, backend=NEST):
    return convert_cells(neuron, n_units=N_UNITS, dt_ms=DT_MS, backend=backend, name="cells")


def solve(cells, jumps):
    """Potentials at the ends of steps of cm dV/dt = cm / tau_m (v_rest - V) + I + i_offset.

    By the matrix exponential of the equations of (V, I, 1); `jumps`, (T, N), of I at the starts.
    """
    p, found = cells.parameters, np.zeros(jumps.shape)
    for unit in range(jumps.shape[1]):
        tau_m, cm, tau_syn = (p[key][unit] for key in ("tau_m", "cm", "tau_syn_E"))
        constant = p["v_rest"][unit] / tau_m + p["i_offset"][unit] / cm
        matrix = np.array([[-1 / tau_m, 1 / cm, constant], [0, -1 / tau_syn, 0], [0, 0, 0]])
        step = expm(DT_MS * matrix)
        state = np.array([p["v_rest"][unit], 0.0, 1.0])
        for t, jump in enumerate(jumps[:, unit]):
            state = step @ (state + [0, jump, 0])
            found[t, unit] = state[0]
    return found


@pytest.mark.parametrize("gain", ["normalized", "unit", "exact"])
def test_potentials_are_the_solution_of_pynns_equations_at_the_end_of_every_step(gain):
    network = make_network(gain=gain, strength=1.0, **SILENT)
    spikes = stimulus()
    expected = network({"stimulus": spikes}, record_potential=True)
    cells = converted(network.model())
    weights = network.projections["stimulus"].effective_weights().numpy() * cells.weight_factor
    found = solve(cells, spikes[:, 0].numpy() @ weights)
    assert np.ptp(found) > 1
    np.testing.assert_allclose(found, expected.potential[:, 0].numpy(), rtol=1e-9, atol=1e-11)


def test_equal_time_constants_are_no_exception():
    network = make_network(tau_mem_ms=10.0, tau_syn_ms=10.0, strength=1.0, **SILENT)
    spikes = stimulus()
    expected = network({"stimulus": spikes}, record_potential=True).potential[:, 0]
    cells = converted(network.model())
    weights = network.projections["stimulus"].effective_weights().numpy() * cells.weight_factor
    found = solve(cells, spikes[:, 0].numpy() @ weights)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-7)


def test_spinnaker_gets_weights_for_a_current_that_is_held_for_a_step():
    """Its integer arithmetic apart, sPyNNaker's C code does what is written out here.

    A weight is multiplied with tau_syn / dt (1 - exp(-dt / tau_syn)), see exp_synapse_utils.h, and
    V <- alpha - exp(-dt / tau_m) (alpha - V), alpha = v_rest + I + i_offset, see
    neuron_model_lif_impl.h.
    """
    network, spikes = make_network(strength=1.0, **SILENT), stimulus()
    expected = network({"stimulus": spikes}, record_potential=True).potential[:, 0].numpy()
    cells = converted(network.model(), SPINNAKER)
    p = cells.parameters
    a, b = np.exp(-DT_MS / p["tau_syn_E"]), np.exp(-DT_MS / p["tau_m"])
    weights = network.projections["stimulus"].effective_weights().numpy() * cells.weight_factor
    arriving = spikes[:, 0].numpy() @ weights * p["tau_syn_E"] / DT_MS * (1 - a)
    potential, current, found = p["v_rest"], np.zeros(N_UNITS), []
    for jump in arriving:
        current = a * current + jump
        alpha = p["v_rest"] + current + p["i_offset"]
        potential = alpha - b * (alpha - potential)
        found.append(potential)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(cells.weight_factor, DT_MS / p["tau_syn_E"], rtol=1e-12)


def test_weights_of_both_kinds_of_simulators_differ_in_the_second_order_of_the_step():
    neuron = LIF(20.0, tau_syn_ms=15.0, reset="zero", gain="normalized")
    errors = []
    for dt_ms in (2.0, 1.0, 0.5):
        exact, held = (
            convert_cells(neuron, n_units=1, dt_ms=dt_ms, backend=backend, name="cells")
            for backend in (NEST, SPINNAKER)
        )
        errors.append(abs(exact.weight_factor[0] / held.weight_factor[0] - 1))
    assert errors[1] < 1e-3
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, rtol=0.05)


def test_a_bias_is_added_as_here_and_a_resistance_is_one():
    cells = converted(make_neuron())
    neuron = make_neuron()
    np.testing.assert_allclose(cells.parameters["i_offset"], neuron.bias.numpy(), rtol=1e-12)
    assert (cells.parameters["cm"] == cells.parameters["tau_m"]).all()
    assert (cells.parameters["tau_refrac"] == 0).all()
    assert (cells.parameters["tau_syn_I"] == neuron.tau_syn_ms.numpy()).all()


def test_cells_without_a_synaptic_current_jump_by_their_gain():
    neuron = LIF(20.0, reset="zero", gain="normalized", bias=0.3)
    cells = converted(neuron)
    assert cells.model == "IF_curr_delta"
    np.testing.assert_allclose(cells.weight_factor, 1 - np.exp(-DT_MS / 20.0))
    np.testing.assert_allclose(cells.parameters["i_offset"], 0.3)


def test_potential_comes_to_rest_when_the_first_step_starts():
    cells, start_ms = converted(make_neuron(v_rest=0.1, bias=torch.linspace(-0.3, 0.3, 40))), 3.0
    p = cells.parameters
    settles = p["v_rest"] + p["i_offset"]
    decayed = np.exp(-start_ms / p["tau_m"])
    later = settles + (cells.start_potential(start_ms) - settles) * decayed
    np.testing.assert_allclose(later, 0.1, atol=1e-12)


def test_no_cell_starts_above_threshold():
    cells = converted(make_neuron(tau_mem_ms=1.5, bias=-1.0))
    start = cells.start_potential(3.0)
    assert (np.expm1(3.0 / 1.5) > 1) and (start < 1).all() and (start > 0.99).all()


@pytest.mark.parametrize(("refractory_ms", "held_ms"), [(0.0, 0), (1.0, 0), (2.0, 1), (5.0, 4)])
def test_a_spike_is_possible_again_after_the_refractory_period(refractory_ms, held_ms):
    cells = converted(make_neuron(refractory_ms=refractory_ms))
    assert (cells.parameters["tau_refrac"] == held_ms).all()


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (LIF(10.0, tau_syn_ms=5.0), "reset = 'subtract'"),
        (LIF(10.0, tau_syn_ms=5.0, reset="hold"), "reset = 'hold'"),
        (LIF(10.0, tau_syn_ms=5.0, reset="zero", silence_current=True), "silence_current"),
        (adaptive_model(N_UNITS), "AdaptiveLIF; only LIF"),
    ],
)
def test_what_pynns_cells_cannot_do_is_refused(neuron, message):
    with pytest.raises(PynnError, match=message):
        converted(neuron)
