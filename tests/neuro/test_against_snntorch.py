"""Spikes, potentials and gradients step for step against snntorch's neurons.

snntorch resets in the step after a spike, as the neurons here do. Its "zero" means two things: a
Leaky loses its potential before the leak and the input of that step, which is "zero" here; an
RLeaky, a Synaptic and an RSynaptic lose the input as well, which is "hold" here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import snntorch
import torch
from populations import backends, seeded, spike_trains

from neuro.spiking.neurons import LIF
from neuro.spiking.simulate import simulate
from neuro.spiking.surrogate import ATan, FastSigmoid
from neuro.spiking.synapses import Synapses

N_UNITS, N_INPUTS, N_STEPS, N_TRIALS = 80, 40, 100, 3
DT_MS = 1.0


class Case(NamedTuple):
    """One neuron of snntorch and the reset it corresponds to here."""

    kind: str
    theirs: str  # reset_mechanism
    ours: str  # reset


CASES = [
    Case("Leaky", "subtract", "subtract"),
    Case("Leaky", "zero", "zero"),
    Case("RLeaky", "subtract", "subtract"),
    Case("RLeaky", "zero", "hold"),
    Case("Synaptic", "subtract", "subtract"),
    Case("Synaptic", "zero", "hold"),
    Case("RSynaptic", "subtract", "subtract"),
    Case("RSynaptic", "zero", "hold"),
]


class _DoubleATan(torch.autograd.Function):
    """snntorch's arc tangent answers in single precision whatever it is asked in."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + (math.pi * u) ** 2)


class Setting(NamedTuple):
    """What both packages are given."""

    neuron: LIF
    feedforward: torch.Tensor
    recurrent: torch.Tensor
    source: torch.Tensor
    loss_weights: tuple[torch.Tensor, torch.Tensor]


def setting(case, seed, dtype):
    random = seeded(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    with_current = "Synaptic" in case.kind
    # What a spike brings in all, whatever the synapse spreads it over.
    scale = 0.25 if with_current else 1.0
    tau_mem_ms = 5 + 10 * torch.rand(N_UNITS, generator=random, dtype=torch.float64)
    neuron = LIF(
        tau_mem_ms=tau_mem_ms.to(dtype),
        tau_syn_ms=4.0 if with_current else None,
        threshold=(1 + 0.2 * torch.rand(N_UNITS, generator=random)).to(dtype),
        reset=case.ours,
        surrogate=ATan(2.0),
    )
    return Setting(
        neuron=neuron,
        feedforward=(scale * (0.02 + 0.15 * normal(N_INPUTS, N_UNITS))).to(dtype),
        recurrent=(scale * 0.1 * normal(N_UNITS, N_UNITS)).to(dtype),
        source=spike_trains(0.1, N_STEPS, N_TRIALS, N_INPUTS, seed=seed + 100, dtype=dtype),
        loss_weights=(
            normal(N_STEPS, N_TRIALS, N_UNITS).to(dtype),
            0.1 * normal(N_STEPS, N_TRIALS, N_UNITS).to(dtype),
        ),
    )


def make_theirs(case, given):
    """The module of snntorch with the same decays, thresholds and recurrent weights."""
    dtype = given.source.dtype
    constants = given.neuron.constants(dt_ms=DT_MS, n_units=N_UNITS, like=given.source)
    options = {
        "beta": constants.membrane.clone(),
        "threshold": constants.threshold.clone(),
        "reset_mechanism": case.theirs,
        "spike_grad": snntorch.surrogate.atan() if dtype == torch.float32 else _DoubleATan.apply,
    }
    if "Synaptic" in case.kind:
        options["alpha"] = constants.synapse.clone()
    if case.kind.startswith("R"):
        options["linear_features"] = N_UNITS
    module = getattr(snntorch, case.kind)(**options).to(dtype)
    if case.kind.startswith("R"):
        with torch.no_grad():
            module.recurrent.weight.copy_(given.recurrent.T)
            module.recurrent.bias.zero_()
    return module


def run_theirs(case, given):
    module = make_theirs(case, given)
    feedforward = given.feedforward.clone().requires_grad_()
    spikes, potentials = [], []
    state = ()
    for step in range(N_STEPS):
        fired, *rest = module(given.source[step] @ feedforward, *state)
        state = (fired, *rest) if case.kind.startswith("R") else tuple(rest)
        spikes.append(fired)
        potentials.append(rest[-1])
    leaves = [feedforward] + ([module.recurrent.weight] if case.kind.startswith("R") else [])
    spikes, potential = torch.stack(spikes), torch.stack(potentials)
    grads = list(torch.autograd.grad(loss(given, spikes, potential), leaves))
    return spikes.detach(), potential.detach(), [grads[0]] + [grad.T for grad in grads[1:]]


def run_ours(case, given, **options):
    feedforward = given.feedforward.clone().requires_grad_()
    recurrent = given.recurrent.clone().requires_grad_()
    synapses = [Synapses(feedforward, delay=0, source=given.source)]
    if case.kind.startswith("R"):
        synapses.append(Synapses(recurrent))
    run = simulate(
        given.neuron,
        synapses,
        n_units=N_UNITS,
        dt_ms=DT_MS,
        record_potential=True,
        **options,
    )
    leaves = [feedforward] + ([recurrent] if case.kind.startswith("R") else [])
    grads = torch.autograd.grad(loss(given, run.spikes, run.potential), leaves)
    return run.spikes.detach(), run.potential.detach(), grads


def loss(given, spikes, potential):
    of_spikes, of_potential = given.loss_weights
    return (spikes * of_spikes).sum() + (potential * of_potential).sum()


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.theirs}")
@pytest.mark.parametrize("backend", backends())
def test_single_precision_spikes_are_equal_and_gradients_within_1e_5(backend, case, seed):
    given = setting(case, seed, torch.float32)
    expected, expected_potential, expected_grads = run_theirs(case, given)
    spikes, potential, grads = run_ours(case, given, backend=backend)
    assert 0.03 < float(expected.mean()) < 0.10
    assert int((spikes != expected).sum()) == 0
    assert relative_error(potential, expected_potential) < 1e-5
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind} {case.theirs}")
@pytest.mark.parametrize("backend", backends())
def test_double_precision_agrees_to_rounding(backend, case):
    given = setting(case, 3, torch.float64)
    expected, expected_potential, expected_grads = run_theirs(case, given)
    spikes, potential, grads = run_ours(case, given, backend=backend, segment_steps=50)
    assert torch.equal(spikes, expected)
    assert relative_error(potential, expected_potential) < 1e-12
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < 1e-11


@pytest.mark.parametrize("backend", backends())
def test_reset_hold_is_not_the_zero_of_a_leaky(backend):
    # The two meanings of "zero" differ in what becomes of the input just after a spike.
    case = Case("Leaky", "zero", "hold")
    given = setting(case, 0, torch.float32)
    expected, *_ = run_theirs(case, given)
    spikes, *_ = run_ours(case, given, backend=backend)
    assert int((spikes != expected).sum()) > 0


@pytest.mark.parametrize("backend", backends())
def test_fast_sigmoid_has_the_gradient_of_snntorch(backend):
    case = CASES[2]
    given = setting(case, 4, torch.float32)
    given = given._replace(
        neuron=LIF(
            tau_mem_ms=given.neuron.tau_mem_ms,
            threshold=given.neuron.threshold,
            surrogate=FastSigmoid(slope=10.0),
        )
    )
    module = make_theirs(case, given)
    module.spike_grad = snntorch.surrogate.fast_sigmoid(slope=10)
    fired = mem = None
    spikes, potentials = [], []
    for step in range(N_STEPS):
        fired, mem = module(given.source[step] @ given.feedforward, fired, mem)
        spikes.append(fired)
        potentials.append(mem)
    total = loss(given, torch.stack(spikes), torch.stack(potentials))
    (expected,) = torch.autograd.grad(total, module.recurrent.weight)
    ours, _, grads = run_ours(case, given, backend=backend)
    assert torch.equal(ours, torch.stack(spikes))
    assert relative_error(grads[1], expected.T) < 1e-5
