"""The current-based model in natural units, against a loop over its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neuro.spiking.neurons.currents import CurrentLIF, CurrentSynapse
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import FastSigmoid
from neuro.spiking.synapses import Synapses

KINDS = (
    CurrentSynapse("fast", 0, 3.0, 1),
    CurrentSynapse("slow", 0, 12.0, 1),
    CurrentSynapse("inhibition", 1, 6.0, -1),
)
N_UNITS, N_INPUTS, N_STEPS, N_TRIALS = 5, 4, 40, 2
TAU_MEM_MS = torch.tensor([8.0, 10.0, 15.0, 20.0, 30.0], dtype=torch.float64)


def drawn(low, high, *shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def problem(**options):
    """A small recurrent population: neuron, recurrent weights, input weights, input spikes."""
    neuron = CurrentLIF(tau_mem_ms=TAU_MEM_MS, synapses=KINDS, **options)
    weights = drawn(0, 0.1, N_UNITS, 2 * N_UNITS, seed=1)
    inward = drawn(0, 0.15, N_INPUTS, 2 * N_UNITS, seed=2)
    inward[:, N_UNITS:] *= 0.3
    spikes = (drawn(0, 1, N_STEPS, N_TRIALS, N_INPUTS, seed=3) < 0.3).double()
    return neuron, weights, inward, spikes


def run(neuron, weights, inward, spikes, **options):
    synapses = [Synapses(weights, None, 1), Synapses(inward, None, 0, spikes)]
    return simulate(neuron, synapses, n_units=N_UNITS, dt_ms=1.0, record_potential=True, **options)


@pytest.mark.parametrize("backend", ["loop", "sequence"])
@pytest.mark.parametrize("refractory_ms", [0.0, 4.0])
def test_spikes_and_potentials_are_those_of_a_loop_over_the_equations(backend, refractory_ms):
    neuron, weights, inward, spikes = problem(refractory_ms=refractory_ms)
    found = run(neuron, weights, inward, spikes, backend=backend)
    w, w_in = weights.numpy(), inward.numpy()
    membrane = np.exp(-1.0 / TAU_MEM_MS.numpy())
    for trial in range(N_TRIALS):
        v, s = np.zeros(N_UNITS), np.zeros(N_UNITS)
        fast, slow, inhibition = np.zeros((3, N_UNITS))
        last = np.full(N_UNITS, -np.inf)
        for step in range(N_STEPS):
            x = s @ w + spikes[step, trial].numpy() @ w_in
            fast = math.exp(-1 / 3) * fast + x[:N_UNITS]
            slow = math.exp(-1 / 12) * slow + x[:N_UNITS]
            inhibition = math.exp(-1 / 6) * inhibition + x[N_UNITS:]
            v = (membrane * v + fast + slow - inhibition) * (1 - s)
            v[step - last < refractory_ms] = 0
            s = (v > 1).astype(float)
            last[s > 0] = step
            np.testing.assert_array_equal(found.spikes[step, trial].numpy(), s)
            np.testing.assert_allclose(found.potential[step, trial].numpy(), v, atol=1e-12)
    assert found.spikes.sum() > 20


@pytest.mark.parametrize("refractory_ms", [0.0, 3.0])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_backward_pass_is_that_of_the_step_loop(refractory_ms, detach_reset):
    neuron, weights, inward, spikes = problem(
        refractory_ms=refractory_ms, detach_reset=detach_reset, surrogate=FastSigmoid(2.0)
    )
    leaves = [weights.requires_grad_(), inward.requires_grad_(), spikes.requires_grad_()]
    pull = drawn(-1, 1, N_STEPS, N_TRIALS, N_UNITS, seed=4)
    grads = []
    for options in ({"backend": "loop"}, {"backend": "sequence", "segment_steps": 7}):
        result = run(neuron, *leaves, **options)
        loss = (pull * (result.spikes + 0.1 * result.potential)).sum()
        grads.append(torch.autograd.grad(loss, leaves))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_gradient_with_smooth_spikes_is_the_finite_difference():
    neuron, weights, inward, spikes = problem(detach_reset=False, surrogate=FastSigmoid(1.0))
    leaves = [weights.requires_grad_(), inward.requires_grad_()]

    def outputs(*parts):
        result = run(neuron, *parts, spikes[:8], backend="sequence", smooth=True)
        return result.spikes, result.potential

    assert torch.autograd.gradcheck(outputs, leaves, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tau_syn_ms": 0.0}, "not positive"),
        ({"sign": 2}, "must be"),
    ],
)
def test_what_is_no_synapse_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CurrentSynapse(**({"name": "x", "channel": 0, "tau_syn_ms": 5.0, "sign": 1} | wrong))


def test_channels_without_a_synapse_are_refused():
    with pytest.raises(ValueError, match="without gaps"):
        CurrentLIF(tau_mem_ms=10.0, synapses=[CurrentSynapse("x", 1, 5.0, 1)])
