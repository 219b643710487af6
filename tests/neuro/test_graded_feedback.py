"""Feedback by a graded neuron against the loop that defines it, written with LIF and autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from neuro.models.graded_feedback import run_with_feedback
from neuro.spiking.neurons import LIF
from neuro.spiking.surrogate import ATan, FastSigmoid, spike

DT_MS, TAU_MS = 2.0, 25.0


def make_case():
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    values = {
        "drive": rand(30, 4, 11) * 3,
        "tau_ms": rand(11) * 20 + 10,
        "bias": rand(11) - 0.5,
        "gain": torch.tensor(2.5, dtype=torch.float64),
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def make_neuron(case) -> LIF:
    return LIF(
        tau_mem_ms=case["tau_ms"],
        tau_syn_ms=10.0,
        bias=case["bias"],
        reset="zero",
        gain="normalized",
        surrogate=FastSigmoid(10.0),
    )


def step_by_step(neuron: LIF, drive: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    _, n_trials, n_units = drive.shape
    constants = neuron.constants(dt_ms=DT_MS, n_units=n_units, like=drive)
    state = neuron.rest(n_trials, n_units, constants)
    fired = counts = drive.new_zeros(n_trials, n_units)
    graded, decay = drive.new_zeros(n_trials, 1), math.exp(-DT_MS / TAU_MS)
    for now in drive:
        state = neuron.integrate(state, fired, now - gain * graded, constants)
        fired = spike(neuron.excess(state, constants), neuron.surrogate)
        graded = decay * graded + (1 - decay) * fired.mean(dim=1, keepdim=True)
        counts = counts + fired
    return counts


def test_counts_and_gradients_are_those_of_the_loop():
    case = make_case()
    neuron = make_neuron(case)
    own = run_with_feedback(
        neuron, case["drive"], dt_ms=DT_MS, gain=case["gain"], tau_ms=TAU_MS
    ).counts
    expected = step_by_step(neuron, case["drive"], case["gain"])
    assert torch.equal(own, expected)
    assert own.sum() > 50
    weight = torch.linspace(-1, 1, own.numel(), dtype=own.dtype).view_as(own)
    asked = list(case.values())
    found = torch.autograd.grad((own * weight).sum(), asked)
    for name, one, other in zip(
        case, found, torch.autograd.grad((expected * weight).sum(), asked), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_spikes_are_where_the_potential_exceeds_the_threshold():
    case = make_case()
    found = run_with_feedback(
        make_neuron(case), case["drive"], dt_ms=DT_MS, gain=case["gain"], tau_ms=TAU_MS
    )
    assert torch.equal((found.potential > 1).sum(dim=0).double(), found.counts)


def test_feedback_lowers_activity():
    case = make_case()
    totals = [
        run_with_feedback(
            make_neuron(case), case["drive"], dt_ms=DT_MS, gain=torch.tensor(gain), tau_ms=TAU_MS
        ).counts.sum()
        for gain in (0.0, 2.5, 10.0)
    ]
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.parametrize(
    "changed",
    [
        {"reset": "subtract"},
        {"gain": "unit"},
        {"threshold": 2.0},
        {"v_rest": 0.1},
        {"refractory_ms": 4.0},
        {"detach_reset": False},
        {"silence_current": True},
        {"surrogate": ATan()},
    ],
)
def test_another_neuron_is_refused(changed):
    case = make_case()
    with pytest.raises(ValueError, match="reset = 'zero'"):
        run_with_feedback(
            replace(make_neuron(case), **changed),
            case["drive"],
            dt_ms=DT_MS,
            gain=case["gain"],
            tau_ms=TAU_MS,
        )
