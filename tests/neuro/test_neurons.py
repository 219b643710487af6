"""Neuron models against closed forms and plain loops over their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import (
    AMPA,
    GABA,
    MODELS,
    SILENT,
    backends,
    conductance_model,
    drive,
    inputs_of,
    population,
    potential,
    quiet,
    run_driven,
    uniform,
)

from neuro.spiking.neurons import LIF, AdaptiveLIF, Synapse, decay_per_step
from neuro.spiking.surrogate import FastSigmoid, Triangle

pytestmark = pytest.mark.parametrize("backend", backends())


@pytest.mark.parametrize("dt_ms", [0.1, 1.0])
def test_constant_current_is_approached_exponentially(backend, dt_ms):
    tau_mem_ms = torch.tensor([5.0, 20.0, 50.0], dtype=torch.float64)
    neuron = LIF(tau_mem_ms=tau_mem_ms, v_rest=0.2, threshold=SILENT, gain="normalized")
    found = potential(neuron, drive([0.7] * 60, 3), backend=backend, dt_ms=dt_ms)
    elapsed_ms = dt_ms * np.arange(1, 61)[:, None]
    # tau dV/dt = v_rest - V + I
    expected = 0.2 + 0.7 * (1 - np.exp(-elapsed_ms / tau_mem_ms.numpy()))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_bias_is_a_constant_current(backend):
    with_bias = LIF(tau_mem_ms=20.0, bias=0.3, threshold=SILENT, gain="normalized")
    without = replace(with_bias, bias=0.0)
    found = potential(with_bias, drive([0.4] * 30), backend=backend)
    expected = potential(without, drive([0.7] * 30), backend=backend)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_unit_gain_adds_the_input_and_lets_it_leak(backend):
    found = potential(
        LIF(tau_mem_ms=12.0, threshold=SILENT), drive([0.8] + [0.0] * 9), backend=backend
    )
    np.testing.assert_allclose(found, 0.8 * np.exp(-np.arange(10) / 12.0), rtol=1e-12)


@pytest.mark.parametrize("reset", ["subtract", "zero", "hold"])
def test_current_without_a_synapse_is_the_plain_loop_over_the_equation(backend, reset):
    made = population({"subtract": "subtract", "zero": "zero", "hold": "hold"}[reset])
    neuron = replace(made.neuron, v_reset=0.1, v_rest=0.05)
    found = made.run(backend=backend, neuron=neuron)
    b = np.exp(-1 / neuron.tau_mem_ms.numpy())
    theta, bias = neuron.threshold.numpy(), neuron.bias.numpy()
    x = inputs_of(made, found.spikes)
    v, s = np.full((3, 12), 0.05), np.zeros((3, 12))
    for step in range(30):
        if reset == "zero":
            v = np.where(s, 0.1, v)
        free = b * v + (1 - b) * 0.05 + x[step] + bias
        v = {"subtract": free - theta * s, "zero": free, "hold": np.where(s, 0.1, free)}[reset]
        s = v > theta
        np.testing.assert_allclose(found.potential[step].numpy(), v, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(found.spikes[step].numpy(), s)


@pytest.mark.parametrize("gain", ["unit", "normalized", "exact"])
def test_current_with_a_synapse_is_the_plain_loop_over_both_equations(backend, gain):
    made = population("exact" if gain == "exact" else "zero, synapse")
    neuron = replace(made.neuron, gain=gain, tau_syn_ms=4.0, v_reset=-0.1, v_rest=0.05)
    if gain == "unit":
        neuron = replace(neuron, threshold=40.0)
    found = made.run(backend=backend, neuron=neuron)
    tau_mem, tau_syn = neuron.tau_mem_ms.numpy(), 4.0
    a, b = math.exp(-1 / tau_syn), np.exp(-1 / tau_mem)
    k = {"unit": 1.0, "normalized": 1 - b, "exact": (b - a) * tau_syn / (tau_mem - tau_syn)}[gain]
    k_syn = 1 - a if gain == "normalized" else 1.0
    x = inputs_of(made, found.spikes)
    current, v, s = np.zeros((3, 12)), np.full((3, 12), 0.05), np.zeros((3, 12))
    for step in range(30):
        current = a * current + k_syn * x[step]
        v = b * np.where(s, -0.1, v) + (1 - b) * 0.05 + k * (current + neuron.bias.numpy())
        s = v > torch.as_tensor(neuron.threshold).numpy()
        np.testing.assert_allclose(found.potential[step].numpy(), v, rtol=1e-9, atol=1e-12)
    assert 0 < float(found.spikes.mean()) < 0.6


@pytest.mark.parametrize(("tau_mem", "tau_syn"), [(20.0, 5.0), (4.0, 9.0), (10.0, 10.0)])
@pytest.mark.parametrize("dt_ms", [0.25, 1.0, 3.0])
def test_exact_gain_is_on_the_analytic_curve_in_every_step(backend, tau_mem, tau_syn, dt_ms):
    neuron = LIF(tau_mem_ms=tau_mem, tau_syn_ms=tau_syn, gain="exact", threshold=SILENT)
    found = potential(neuron, drive([1.5] + [0.0] * 39), backend=backend, dt_ms=dt_ms)
    # tau_syn dI/dt = -I, tau_mem dV/dt = -V + I, I(0) = 1.5: a difference of two exponentials
    elapsed = dt_ms * np.arange(1, 41)
    if tau_mem == tau_syn:
        expected = 1.5 * elapsed / tau_mem * np.exp(-elapsed / tau_mem)
    else:
        decays = np.exp(-elapsed / tau_mem) - np.exp(-elapsed / tau_syn)
        expected = 1.5 * tau_syn / (tau_mem - tau_syn) * decays
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@settings(max_examples=20, deadline=None)
@given(
    tau_mem=st.floats(1.0, 50.0),
    tau_syn=st.floats(1.0, 50.0),
    sizes=st.lists(st.floats(-2, 2), min_size=1, max_size=12),
)
def test_exact_gain_does_not_depend_on_the_step(backend, tau_mem, tau_syn, sizes):
    neuron = LIF(tau_mem_ms=tau_mem, tau_syn_ms=tau_syn, gain="exact", threshold=SILENT)
    coarse = potential(neuron, drive(sizes), backend=backend, dt_ms=1.0)
    halves = torch.zeros(2 * len(sizes), dtype=torch.float64)
    halves[::2] = torch.tensor(sizes, dtype=torch.float64)
    fine = potential(neuron, drive(halves), backend=backend, dt_ms=0.5)
    # Nearly equal time constants cancel: (b - a) / (tau_mem - tau_syn).
    np.testing.assert_allclose(
        np.atleast_1d(fine)[1::2], np.atleast_1d(coarse), rtol=1e-6, atol=1e-9
    )


def test_normalized_gains_move_the_potential_by_a_constant_input(backend):
    neuron = LIF(tau_mem_ms=10.0, tau_syn_ms=5.0, gain="normalized", v_rest=0.1, threshold=SILENT)
    found = potential(neuron, drive([0.6] * 400), backend=backend)
    np.testing.assert_allclose(found[-1], 0.7, rtol=1e-12)
    assert (np.diff(found) > -1e-15).all()


@pytest.mark.parametrize(
    ("reset", "after"),
    [
        # b V - threshold + x; b v_reset + x; v_reset
        ("subtract", math.exp(-0.1) * 1.5 - 1.2 + 0.3),
        ("zero", math.exp(-0.1) * -0.4 + 0.3),
        ("hold", -0.4),
    ],
)
def test_reset_happens_in_the_step_after_the_spike(backend, reset, after):
    neuron = LIF(tau_mem_ms=10.0, threshold=1.2, v_reset=-0.4, reset=reset)
    found = run_driven(neuron, drive([1.5, 0.3, 0.0]), backend=backend)
    assert found.spikes.flatten().tolist() == [1, 0, 0]
    expected = [1.5, after, math.exp(-0.1) * after]
    np.testing.assert_allclose(found.potential.flatten().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("reset", "after"), [("zero", math.exp(-0.1) * -0.4), ("hold", -0.4)])
def test_reset_of_a_huge_potential_loses_no_digit(backend, reset, after):
    # v - (v - v_reset) would be 0 in single precision.
    neuron = LIF(tau_mem_ms=10.0, v_reset=-0.4, reset=reset)
    found = run_driven(neuron, drive([1e9, 0.0]).float(), backend=backend)
    np.testing.assert_allclose(found.potential[1].item(), after, rtol=1e-6)


def test_a_potential_at_threshold_is_no_spike(backend):
    found = run_driven(LIF(tau_mem_ms=10.0, threshold=0.5), drive([0.5]), backend=backend)
    assert found.spikes.item() == 0


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("adaptive")])
def test_spikes_are_where_the_recorded_potential_exceeds_threshold(backend, name):
    made = population(name)
    found = made.run(backend=backend)
    threshold = getattr(made.neuron, "threshold_mv", None)
    threshold = made.neuron.threshold if threshold is None else threshold
    assert torch.equal(found.spikes.bool(), found.potential > threshold)
    assert found.spikes.sum() > 0


@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("reset", ["subtract", "zero", "hold"])
def test_refractory_unit_stays_at_v_reset_and_may_spike_when_it_is_over(backend, reset, n_steps):
    neuron = LIF(tau_mem_ms=10.0, v_reset=0.25, reset=reset, refractory_ms=float(n_steps))
    found = run_driven(neuron, drive([5.0] * 20), backend=backend)
    times = found.spikes.flatten().nonzero().flatten().tolist()
    # "hold" spends the step after a spike at v_reset without any refractoriness
    interval = max(n_steps, 2) if reset == "hold" else n_steps
    assert times == list(range(0, 20, interval))
    if n_steps > 1:
        held = [step for step in range(20) if step % n_steps]
        assert (found.potential.flatten()[held] == 0.25).all()


def test_refractory_period_is_rounded_to_steps(backend):
    for refractory_ms, interval in ((2.2, 22), (0.26, 3), (0.24, 2), (0.0, 1)):
        neuron = LIF(tau_mem_ms=10.0, reset="zero", refractory_ms=refractory_ms)
        found = run_driven(neuron, drive([5.0] * 60), backend=backend, dt_ms=0.1)
        times = found.spikes.flatten().nonzero().flatten()
        assert set(times.diff().tolist()) == {interval}


def test_units_may_differ_in_their_refractory_period(backend):
    neuron = LIF(tau_mem_ms=10.0, reset="zero", refractory_ms=torch.tensor([0.0, 3.0, 8.0]))
    found = run_driven(neuron, drive([5.0] * 24, 3), backend=backend)
    assert found.spikes[:, 0].sum(0).tolist() == [24, 8, 3]


def test_current_outlives_a_spike_unless_it_is_silenced(backend):
    options = {"tau_mem_ms": 10.0, "tau_syn_ms": 5.0, "reset": "zero", "gain": "exact"}
    current = drive([20.0, 0.0, 0.0, 0.0, 0.0])
    kept = run_driven(LIF(**options), current, backend=backend)
    lost = run_driven(LIF(**options, silence_current=True), current, backend=backend)
    assert kept.spikes.flatten()[:3].tolist() == [1, 1, 1]
    assert lost.spikes.flatten().tolist() == [1, 0, 0, 0, 0]
    assert (lost.potential.flatten()[1:] == 0).all()
    np.testing.assert_allclose(
        kept.carry.state.current.flatten().numpy(), 20 * np.exp(-4 / 5), rtol=1e-12
    )


def test_what_arrives_in_a_silenced_refractory_period_is_lost(backend):
    neuron = LIF(
        tau_mem_ms=10.0,
        tau_syn_ms=5.0,
        reset="zero",
        gain="exact",
        refractory_ms=4.0,
        silence_current=True,
    )
    # A spike in step 0; the input of the four steps that follow is lost, the next one acts. That
    # is Brian2's order, where synapses act after the threshold: its step t is step t + 1 here.
    found = run_driven(neuron, drive([20.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0]), backend=backend)
    alone = run_driven(neuron, drive([0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]), backend=backend)
    assert found.spikes.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert alone.potential[5].item() > 0
    assert torch.equal(found.potential[1:], alone.potential[1:])


def test_gain_exact_where_only_some_time_constants_agree(backend):
    tau_mem_ms = torch.tensor([10.0, 5.0, 5.0 + 1e-9], dtype=torch.float64)
    neuron = LIF(tau_mem_ms=tau_mem_ms, tau_syn_ms=5.0, gain="exact", threshold=SILENT)
    found = potential(neuron, drive([1.0] + [0.0] * 9, 3), backend=backend)
    np.testing.assert_allclose(found[:, 1], found[:, 2], rtol=1e-5)
    assert not np.allclose(found[:, 0], found[:, 1], rtol=1e-2)


def test_rest_is_v_rest_and_lasts(backend):
    neuron = LIF(tau_mem_ms=10.0, v_rest=-0.3)
    found = run_driven(neuron, drive([0.0] * 10, 2), backend=backend)
    np.testing.assert_allclose(found.potential.numpy(), -0.3, rtol=1e-12)


def test_threshold_rises_with_every_spike_and_falls_back(backend):
    neuron = AdaptiveLIF(tau_mem_ms=20.0, tau_adapt_ms=100.0, strength=0.5)
    found = run_driven(neuron, drive([1.4] + [0.0] * 30), backend=backend)
    assert found.spikes.sum() == 1
    # The trace of the spike of step 0 is 1 in step 1 and has decayed for 29 steps in step 30.
    np.testing.assert_allclose(found.carry.state.adaptation.item(), np.exp(-29 / 100), rtol=1e-12)
    constants = neuron.constants(dt_ms=1.0, n_units=1, like=torch.zeros(1, dtype=torch.float64))
    excess = neuron.excess(found.carry.state, constants).item()
    expected = found.potential[-1].item() - 1 - 0.5 * np.exp(-29 / 100)
    np.testing.assert_allclose(excess, expected, rtol=1e-12)


def test_adaptive_neuron_is_the_plain_loop_over_its_equations(backend):
    made = population("adaptive")
    found = made.run(backend=backend)
    neuron = made.neuron
    alpha = np.exp(-1 / neuron.tau_mem_ms.numpy())
    rho = np.exp(-1 / neuron.tau_adapt_ms.numpy())
    theta, beta = neuron.threshold.numpy(), neuron.strength.numpy()
    x = inputs_of(made, found.spikes)
    v, a, s = np.zeros((3, 12)), np.zeros((3, 12)), np.zeros((3, 12))
    for step in range(30):
        v = alpha * v + x[step] - theta * s
        a = rho * a + s
        s = v > theta + beta * a
        np.testing.assert_allclose(found.potential[step].numpy(), v, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(found.spikes[step].numpy(), s)
    assert found.spikes.sum() > 0


def test_adaptation_makes_intervals_longer(backend):
    neuron = AdaptiveLIF(tau_mem_ms=20.0, tau_adapt_ms=200.0, strength=0.3)
    found = run_driven(neuron, drive([0.25] * 300), backend=backend)
    intervals = found.spikes.flatten().nonzero().flatten().diff()
    assert intervals[-1] > 2 * intervals[0]


def test_adaptive_potential_is_held_at_0_while_refractory(backend):
    neuron = AdaptiveLIF(tau_mem_ms=20.0, tau_adapt_ms=50.0, strength=0.0, refractory_ms=4.0)
    found = run_driven(neuron, drive([3.0] * 12), backend=backend)
    assert found.spikes.flatten().nonzero().flatten().tolist() == [0, 4, 8]
    assert (found.potential.flatten()[[1, 2, 3, 5, 6, 7]] == 0).all()


def test_gradient_through_the_adaptation_outlives_a_detached_reset(backend):
    neuron = AdaptiveLIF(
        tau_mem_ms=1.0, tau_adapt_ms=1000.0, strength=0.05, surrogate=Triangle(4.0)
    )
    current = drive([1.5] + [0.0] * 50).requires_grad_()
    found = run_driven(neuron, current, backend=backend)
    (grad,) = torch.autograd.grad(found.spikes[-1].sum(), current)
    # By step 50 the potential has forgotten its input (exp(-50)); the raised threshold has not.
    assert grad[0].item() < -1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LIF(tau_mem_ms=0.0), "tau_mem_ms = 0.0 holds a value that is not positive"),
        (lambda: LIF(tau_mem_ms=torch.tensor([3.0, -1.0])), "tau_mem_ms.*not positive"),
        (lambda: LIF(tau_mem_ms=float("nan")), "tau_mem_ms = nan"),
        (lambda: LIF(tau_mem_ms=9.0, tau_syn_ms=0.0), "tau_syn_ms = 0.0"),
        (lambda: LIF(tau_mem_ms=9.0, reset="none"), "reset = 'none' is none of 'subtract', 'zero'"),
        (lambda: LIF(tau_mem_ms=9.0, gain="euler"), "gain = 'euler' is none of 'unit'"),
        (lambda: LIF(tau_mem_ms=9.0, refractory_ms=-1.0), "refractory_ms = -1.0 must lie in 0"),
        (lambda: LIF(tau_mem_ms=9.0, gain="exact"), "gain = 'exact' needs a synaptic current"),
        (lambda: LIF(tau_mem_ms=9.0, silence_current=True), "silence_current needs a synaptic"),
        (
            lambda: AdaptiveLIF(tau_mem_ms=9.0, tau_adapt_ms=0.0, strength=1.0),
            "tau_adapt_ms = 0.0",
        ),
        (lambda: Synapse("AMPA", 0, 1.0, 0.0, 5.0, 5.0), "'AMPA': tau_rise_ms = 5.0 must be"),
        (lambda: Synapse("AMPA", 0, 1.0, 0.0, 0.0, 5.0), "tau_rise_ms = 0.0 must be positive"),
        (lambda: quiet(AMPA, tau_mem_ms=-1.0), "tau_mem_ms = -1.0"),
        (lambda: replace(quiet(AMPA), synapses=()), r"channels \[\]; number them from 0"),
        (lambda: replace(quiet(AMPA), synapses=(GABA,)), r"channels \[1\]; number them"),
        (lambda: decay_per_step(dt_ms=1.0, tau_ms=0.0), "tau_ms = 0.0 is not a positive"),
        (lambda: decay_per_step(dt_ms=0.0, tau_ms=1.0), "dt_ms = 0.0 is not a positive"),
    ],
)
def test_values_that_make_no_model_are_refused(backend, make, message):
    del backend
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("neuron", "name"),
    [
        (LIF(tau_mem_ms=torch.ones(4)), "tau_mem_ms"),
        (LIF(tau_mem_ms=9.0, bias=torch.ones(4)), "bias"),
        (LIF(tau_mem_ms=9.0, refractory_ms=torch.ones(4)), "refractory_ms"),
        (AdaptiveLIF(tau_mem_ms=9.0, tau_adapt_ms=9.0, strength=torch.ones(4)), "strength"),
        (conductance_model(4), "tau_mem_ms"),
    ],
)
def test_values_of_another_number_of_units_are_refused(backend, neuron, name):
    current = torch.zeros(2, 1, neuron.n_channels * 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name} has shape \(4,\); give one value, or one for"):
        run_driven(neuron, current, backend=backend)


def test_one_value_serves_all_units(backend):
    current = uniform(0, 0.5, 30, 2, 5, seed=1)
    tau_mem_ms, bias = (torch.full((5,), value, dtype=torch.float64) for value in (9.0, 0.1))
    many = LIF(tau_mem_ms=tau_mem_ms, bias=bias)
    found = run_driven(many, current, backend=backend)
    expected = run_driven(LIF(tau_mem_ms=9.0, bias=0.1), current, backend=backend)
    assert torch.equal(found.spikes, expected.spikes)
    torch.testing.assert_close(found.potential, expected.potential, rtol=1e-12, atol=1e-12)


def test_surrogate_of_the_conductance_model_takes_millivolts(backend):
    del backend
    assert quiet(AMPA).surrogate == FastSigmoid(slope=0.5)
