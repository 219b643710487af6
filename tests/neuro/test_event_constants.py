"""Gradients of membrane time constants and biases summed in compiled code, against autograd."""

from __future__ import annotations

import itertools

import pytest
import torch

from neuro.spiking.neurons import LIF
from neuro.spiking.neurons.lif import GAINS, RESETS
from neuro.spiking.projection import Projection
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import FastSigmoid

N_STEPS, N_TRIALS, N_UNITS = 40, 3, 9
CASES = [
    (reset, gain, tau_syn_ms)
    for reset, gain, tau_syn_ms in itertools.product(RESETS, GAINS, (None, 4.0))
    if not (gain == "exact" and tau_syn_ms is None)
]


def draw(seed: int, low: float, high: float, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def gradients(
    backend: str,
    *,
    dtype=torch.float64,
    values: dict[str, torch.Tensor],
    segment_steps=None,
    **model,
):
    """Return spikes, and the gradients of the loss with respect to `values`."""
    leaves = {name: value.to(dtype, copy=True).requires_grad_() for name, value in values.items()}
    weights = draw(3, -0.3, 0.3, N_UNITS, N_UNITS).to(dtype)
    recurrent = Projection(n_pre=N_UNITS, n_post=N_UNITS, weights=weights)
    # Inputs of gain "normalized" move the potential by themselves, of the others by their sum.
    drive = draw(4, 0, 3.5 if model["gain"] == "normalized" else 0.5, N_STEPS, N_TRIALS, N_UNITS)
    fixed = {"tau_mem_ms": 10.0, "v_rest": 0.05, "v_reset": -0.1, "surrogate": FastSigmoid(5.0)}
    neuron = LIF(**(fixed | model | leaves))
    simulation = simulate(
        neuron,
        recurrent.synapses(None),
        n_units=N_UNITS,
        dt_ms=1.0,
        drive=drive.to(dtype),
        backend=backend,
        segment_steps=segment_steps,
        record_potential=True,
    )
    of_spikes, of_potential = (
        (draw(seed, -1, 1, N_STEPS, N_TRIALS, N_UNITS) * part).sum()
        for seed, part in ((5, simulation.spikes), (6, simulation.potential))
    )
    found = torch.autograd.grad(of_spikes + of_potential, list(leaves.values()))
    return simulation.spikes, dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize(("reset", "gain", "tau_syn_ms"), CASES)
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("segment_steps", [None, 7])
def test_gradients_of_time_constant_and_bias_are_those_of_the_loop(
    reset, gain, tau_syn_ms, detach_reset, segment_steps
):
    case = {
        "reset": reset,
        "gain": gain,
        "tau_syn_ms": tau_syn_ms,
        "detach_reset": detach_reset,
        "values": {"tau_mem_ms": draw(1, 5, 15, N_UNITS), "bias": draw(2, -0.1, 0.3, N_UNITS)},
    }
    spikes, own = gradients("event", segment_steps=segment_steps, **case)
    expected_spikes, expected = gradients("loop", **case)
    assert torch.equal(spikes, expected_spikes)
    assert spikes.sum() > 20
    for name, value in own.items():
        torch.testing.assert_close(value, expected[name], msg=name)
        assert bool((value != 0).all()), name


@pytest.mark.parametrize("name", ["tau_mem_ms", "bias"])
@pytest.mark.parametrize("silence_current", [True, False])
def test_gradient_of_one_of_them_alone_holds_with_a_refractory_time(name, silence_current):
    values = {"tau_mem_ms": draw(1, 5, 15, N_UNITS), "bias": draw(2, -0.1, 0.3, N_UNITS)}
    case = {
        "reset": "zero",
        "gain": "normalized",
        "tau_syn_ms": 4.0,
        "refractory_ms": 3.0,
        "silence_current": silence_current,
        "values": {name: values[name]},
    }
    spikes, own = gradients("event", **case)
    _, expected = gradients("loop", **case)
    assert spikes.sum() > 10
    torch.testing.assert_close(own[name], expected[name])


def test_single_precision_gives_the_same_to_its_own_precision():
    case = {
        "reset": "zero",
        "gain": "normalized",
        "tau_syn_ms": 4.0,
        "dtype": torch.float32,
        "values": {"tau_mem_ms": draw(1, 5, 15, N_UNITS), "bias": draw(2, -0.1, 0.3, N_UNITS)},
    }
    spikes, own = gradients("event", **case)
    expected_spikes, expected = gradients("loop", **case)
    assert torch.equal(spikes, expected_spikes)
    for name, value in own.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_single_precision_adds_up_many_trials_as_double_precision_does():
    n_trials, drive = 64, draw(7, 0, 3, 200, 64, N_UNITS)
    found = []
    for dtype in (torch.float32, torch.float64):
        bias = torch.zeros(N_UNITS, dtype=dtype, requires_grad=True)
        neuron = LIF(tau_mem_ms=10.0, bias=bias, gain="normalized", threshold=1e3)
        potential = simulate(
            neuron,
            (),
            n_units=N_UNITS,
            dt_ms=1.0,
            drive=drive.to(dtype),
            backend="event",
            record_potential=True,
        ).potential
        potential.sum().backward()
        found.append(bias.grad.double())
    torch.testing.assert_close(*found, rtol=5e-6, atol=0)
    assert found[0].min() > 190 * n_trials / 2
