"""Conductance-based neurons against closed forms and a plain loop over their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from populations import (
    AMPA,
    GABA,
    NMDA,
    backends,
    drive,
    inputs_of,
    population,
    potential,
    quiet,
    run_driven,
    spike_trains,
    uniform,
)

from neuro.spiking.neurons import Synapse
from neuro.spiking.simulate import simulate
from neuro.spiking.synapses import Synapses

pytestmark = pytest.mark.parametrize("backend", backends())


def conductances(neuron, source, weight=1.0, *, backend, dt_ms=1.0):
    """Conductance of each kind after each step, shape (T, S), of spikes onto channel 0."""
    weights = torch.zeros(1, neuron.n_channels, dtype=torch.float64)
    weights[0, 0] = weight
    carry, found = None, []
    for step in range(len(source)):
        one = simulate(
            neuron,
            [Synapses(weights, delay=0, source=source[step : step + 1])],
            n_units=1,
            dt_ms=dt_ms,
            carry=carry,
            backend=backend,
        )
        carry = one.carry
        found.append((carry.state.rise + carry.state.decay).flatten())
    return torch.stack(found).numpy()


def one_spike(n_steps, at=0):
    source = torch.zeros(n_steps, 1, 1, dtype=torch.float64)
    source[at] = 1
    return source


@pytest.mark.parametrize("dt_ms", [0.05, 1.0])
def test_a_spike_opens_conductances_along_the_analytic_curve(backend, dt_ms):
    found = conductances(quiet(AMPA, NMDA, GABA), one_spike(80), backend=backend, dt_ms=dt_ms)
    elapsed = dt_ms * np.arange(80)
    for column, kind in enumerate((AMPA, NMDA, GABA)):
        rise, decay = kind.tau_rise_ms, kind.tau_decay_ms
        peak_time = rise * decay / (decay - rise) * math.log(decay / rise)
        peak = np.exp(-peak_time / decay) - np.exp(-peak_time / rise)
        shape = np.exp(-elapsed / decay) - np.exp(-elapsed / rise)
        np.testing.assert_allclose(
            found[:, column], kind.g_ns * shape / peak, rtol=1e-9, atol=1e-12
        )


def test_peak_and_its_time_are_those_of_the_kind_of_synapse(backend):
    found = conductances(quiet(AMPA, NMDA, GABA), one_spike(1200), backend=backend, dt_ms=0.02)
    for column, kind in enumerate((AMPA, NMDA, GABA)):
        rise, decay = kind.tau_rise_ms, kind.tau_decay_ms
        peak_time_ms = rise * decay / (decay - rise) * math.log(decay / rise)
        np.testing.assert_allclose(found[:, column].max(), kind.g_ns, rtol=1e-3)
        assert abs(found[:, column].argmax() * 0.02 - peak_time_ms) <= 0.02


def test_whole_milliseconds_lower_the_peak_of_ampa_but_not_of_nmda(backend):
    # Known of these constants at dt = 1 ms: 0.905 and 1.000 of the nominal conductance.
    found = conductances(quiet(AMPA, NMDA), one_spike(60), backend=backend)
    assert round(float(found[:, 0].max() / AMPA.g_ns), 3) == 0.905
    assert round(float(found[:, 1].max() / NMDA.g_ns), 3) == 1.000


@pytest.mark.parametrize("weight", [0.05, 0.1, 0.2, 0.5, 0.8, 1.0])
def test_conductance_never_falls_in_steady_input(backend, weight):
    source = torch.ones(300, 1, 1, dtype=torch.float64)
    found = conductances(quiet(AMPA, NMDA, GABA), source, weight, backend=backend)
    assert (np.diff(found, axis=0) >= -1e-12).all()
    # A sum of equal responses: the limit is the geometric series of both parts.
    for column, kind in enumerate((AMPA, NMDA, GABA)):
        series = 1 / (1 - math.exp(-1 / kind.tau_decay_ms)) - 1 / (
            1 - math.exp(-1 / kind.tau_rise_ms)
        )
        limit = weight * kind.jump_ns * series
        assert 0.95 * limit < found[-1, column] <= limit * (1 + 1e-12)


def test_conductance_grows_in_proportion_to_the_weight(backend):
    source = spike_trains(0.3, 60, 1, 1, seed=0)
    unit = conductances(quiet(AMPA, NMDA), source, 1.0, backend=backend)
    np.testing.assert_allclose(
        conductances(quiet(AMPA, NMDA), source, 7.5, backend=backend), 7.5 * unit, rtol=1e-12
    )


def test_a_spike_shows_in_the_conductance_a_step_later_and_in_the_potential_two_steps(backend):
    # Unit 0 spikes in step 3 and excites unit 1, which is recorded.
    current = torch.zeros(8, 1, 2, dtype=torch.float64)
    current[1, 0, 0] = 400.0
    weights = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    neuron = replace(quiet(AMPA), threshold_mv=-50.0)
    carry, open_ns, potential_mv, spikes = None, [], [], []
    for step in range(8):
        one = simulate(
            neuron,
            [Synapses(weights)],
            n_units=2,
            dt_ms=1.0,
            drive=current[step : step + 1],
            carry=carry,
            record_potential=True,
            backend=backend,
        )
        carry = one.carry
        spikes.append(one.spikes[0, 0, 0].item())
        open_ns.append((carry.state.rise + carry.state.decay)[0, 1].item())
        potential_mv.append(one.potential[0, 0, 1].item())
    fired = spikes.index(1)
    assert fired == 3
    # The jump of rise and decay cancels in the step that the spike arrives in.
    assert open_ns[: fired + 2] == [0.0] * (fired + 2)
    assert carry is not None
    assert open_ns[fired + 2] > 0
    assert np.flatnonzero(np.array(potential_mv) != -60.0)[0] == fired + 3


def test_leak_is_exact_at_any_step(backend):
    for dt_ms in (0.1, 1.0, 30.0):
        neuron = quiet(AMPA, v_reset_mv=-50.0)
        found = potential(neuron, drive([0.0] * 10), backend=backend, dt_ms=dt_ms)
        expected = -60 + 10 * np.exp(-dt_ms * np.arange(1, 11) / 85)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_steady_conductance_pulls_towards_the_mean_of_the_reversal_potentials(backend):
    # A conductance that never closes: V -> (g_L E_L + g E) / (g_L + g), g in nS as g_L is.
    lasting = Synapse("lasting", 0, 1.0, 0.0, 1e-3, 1e9)
    neuron = quiet(lasting, tau_mem_ms=20.0, g_leak_ns=2.0)
    found = potential(neuron, drive([1.0] + [0.0] * 4000), backend=backend, dt_ms=0.05)
    np.testing.assert_allclose(found[-1], (2.0 * -60 + 1.0 * 0) / 3.0, rtol=2e-3)
    # and it gets there with C / (g_L + g) = tau_mem g_L / (g_L + g)
    tau_ms = 20.0 * 2.0 / 3.0
    halfway = np.searchsorted(found, (found[-1] - 60) / 2) * 0.05
    np.testing.assert_allclose(halfway, tau_ms * math.log(2), rtol=0.02)


def test_conductance_neuron_is_the_plain_loop_over_its_equations(backend):
    made = population("conductance")
    neuron, found = made.neuron, made.run(backend=backend)
    assert found.spikes.sum() > 0
    kinds = neuron.synapses
    x = inputs_of(made, found.spikes).reshape(30, 3, 2, 12)
    tau, g_leak, theta = (
        getattr(neuron, name).numpy() for name in ("tau_mem_ms", "g_leak_ns", "threshold_mv")
    )
    v, s = np.full((3, 12), -60.0), np.zeros((3, 12))
    rise = [np.zeros((3, 12)) for _ in kinds]
    decay = [np.zeros((3, 12)) for _ in kinds]
    for step in range(30):
        current = sum((rise[k] + decay[k]) * (v - kind.e_rev_mv) for k, kind in enumerate(kinds))
        v = v + (1 - np.exp(-1 / tau)) * (-60 - v) - current / (tau * g_leak)
        v = np.where(s, -60.0, v)
        for k, kind in enumerate(kinds):
            r = kind.tau_rise_ms / kind.tau_decay_ms
            jump = kind.g_ns / (r ** (r / (1 - r)) - r ** (1 / (1 - r))) * x[step, :, kind.channel]
            rise[k] = np.exp(-1 / kind.tau_rise_ms) * rise[k] - jump
            decay[k] = np.exp(-1 / kind.tau_decay_ms) * decay[k] + jump
        s = v > theta
        np.testing.assert_allclose(found.potential[step].numpy(), v, rtol=1e-9)
        np.testing.assert_array_equal(found.spikes[step].numpy(), s)


def test_potential_after_a_spike_is_v_reset_to_the_last_bit(backend):
    # However far above threshold a strong input took it, in single precision too.
    neuron = quiet(AMPA, threshold_mv=-50.0, refractory_ms=0.0)
    current = drive([0.0, 1e5] + [0.0] * 6).float()
    found = run_driven(neuron, current, backend=backend)
    fired = found.spikes.flatten().nonzero().flatten()
    assert found.potential.max() > 1e3
    assert (found.potential.flatten()[fired[fired < 7] + 1] == -60.0).all()


def test_refractory_conductance_neuron_stays_at_v_reset(backend):
    neuron = quiet(AMPA, threshold_mv=-50.0, v_reset_mv=-58.0, refractory_ms=4.0)
    found = run_driven(neuron, drive([5.0] * 30), backend=backend)
    times = found.spikes.flatten().nonzero().flatten()
    assert len(times) > 3
    assert (times.diff() >= 4).all()
    for time in times[:-1].tolist():
        assert (found.potential.flatten()[time + 1 : time + 4] == -58.0).all()


def test_synapses_open_while_the_neuron_is_refractory(backend):
    # Only V is held: what arrives meanwhile is there when it ends.
    neuron = quiet(NMDA, threshold_mv=-50.0, refractory_ms=20.0)
    current = torch.zeros(30, 1, 1, dtype=torch.float64)
    current[0], current[8] = 200.0, 50.0
    with_input = run_driven(neuron, current, backend=backend)
    current[8] = 0.0
    without = run_driven(neuron, current, backend=backend)
    assert with_input.carry.state.decay.item() > without.carry.state.decay.item()


def test_kinds_that_share_a_channel_get_the_same_spikes(backend):
    apart = (AMPA, replace(NMDA, channel=1), replace(GABA, channel=2))
    together = replace(quiet(AMPA), synapses=(AMPA, NMDA, GABA))
    separate = replace(quiet(AMPA), synapses=apart)
    current = uniform(0, 0.2, 20, 2, 2 * 3, seed=4)
    excite, inhibit = current[..., :3], current[..., 3:]
    found = run_driven(together, current, backend=backend)
    expected = run_driven(separate, torch.cat([excite, excite, inhibit], -1), backend=backend)
    torch.testing.assert_close(found.potential, expected.potential, rtol=1e-12, atol=0)


def test_a_step_too_long_for_its_conductances_overshoots_and_a_shorter_one_does_not(backend):
    # Inhibition that reverses at -70 mV pulls from -60 mV: never below, and never up to threshold.
    neuron = quiet(replace(GABA, g_ns=500.0), threshold_mv=-50.0)
    volley = drive([1.0] + [0.0] * 9)
    coarse = run_driven(neuron, volley, backend=backend)
    assert coarse.potential.min() < -70
    fine = run_driven(neuron, drive([1.0] + [0.0] * 199), backend=backend, dt_ms=0.05)
    assert -70 < fine.potential.min() < -69
    assert fine.spikes.sum() == 0
    assert coarse.spikes.sum() > 0


@pytest.mark.parametrize("size", [1e3, 1e12])
def test_conductances_too_strong_for_the_step_overshoot_but_stay_finite(backend, size):
    # An Euler step overshoots where dt g > C: the reset brings the potential back.
    made = population("conductance")
    names = ("dense", "sparse", "feedforward", "late", "source", "drive")
    for name in names:
        setattr(made, name, getattr(made, name).float())
    for name in ("dense", "feedforward", "drive"):
        setattr(made, name, (getattr(made, name) * size).requires_grad_())
    found = made.run(backend=backend)
    assert found.potential.isfinite().all()
    leaves = [made.dense, made.feedforward, made.drive]
    for grad in torch.autograd.grad(found.spikes.mean(), leaves):
        assert grad.isfinite().all()
