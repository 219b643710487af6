"""The leaky readout: a filter with a bias, in one piece or in chunks."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from neuro.spiking.neurons.readout import LeakyReadout

N_STEPS, N_TRIALS, N_OUTPUTS = 40, 3, 4
TAU_MS = torch.tensor([2.0, 5.0, 20.0, 80.0])


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def readout(*, dt_ms=0.5, tau_ms=TAU_MS, **options):
    """In double precision, with a bias that is not zero."""
    made = LeakyReadout(n_outputs=N_OUTPUTS, dt_ms=dt_ms, tau_ms=tau_ms, **options).double()
    if made.bias is not None:
        with torch.no_grad():
            made.bias.copy_(normal(N_OUTPUTS, seed=1))
    return made


def test_outputs_are_those_of_a_recursive_filter():
    made, x = readout(), normal(N_STEPS, N_TRIALS, N_OUTPUTS)
    found = made(x).values.detach().numpy()
    for output, tau_ms in enumerate(TAU_MS.tolist()):
        total = x[..., output].numpy() + made.bias[output].item()
        # scipy filters as y[t] = b x[t] - a[1] y[t-1].
        expected = signal.lfilter([1.0], [1.0, -np.exp(-0.5 / tau_ms)], total, axis=0)
        # Time constants are kept in the default type, float32.
        assert found[..., output] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_constant_input_approaches_its_closed_form():
    made = LeakyReadout(n_outputs=1, dt_ms=1.0, tau_ms=10.0).double()
    with torch.no_grad():
        made.bias.fill_(0.5)
    values = made(torch.full((200, 1, 1), 1.5, dtype=torch.float64)).values[:, 0, 0]
    kappa = np.exp(-0.1)
    expected = 2.0 * (1 - kappa ** np.arange(1, 201)) / (1 - kappa)
    assert values.detach().numpy() == pytest.approx(expected, rel=1e-6)


def test_outputs_are_those_of_a_leaky_neuron_that_never_spikes():
    made = LeakyReadout(n_outputs=N_OUTPUTS, dt_ms=1.0, tau_ms=10.0, bias=False)
    x = normal(N_STEPS, N_TRIALS, N_OUTPUTS, dtype=torch.float32)
    leaky = snntorch.Leaky(beta=float(np.exp(-0.1)), reset_mechanism="none")
    potential, expected = torch.zeros(N_TRIALS, N_OUTPUTS), []
    for now in x:
        _, potential = leaky(now, potential)
        expected.append(potential)
    torch.testing.assert_close(made(x).values, torch.stack(expected))


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, N_STEPS - 1), max_size=6))
def test_wherever_a_sequence_is_cut_the_outputs_are_the_same(cuts):
    made, x = readout(), normal(N_STEPS, N_TRIALS, N_OUTPUTS)
    carry, parts = None, []
    for chunk in x.tensor_split(sorted(cuts)):
        values, carry = made(chunk, carry)
        parts.append(values)
    whole = made(x)
    assert torch.equal(torch.cat(parts), whole.values)
    assert torch.equal(carry, whole.carry)


def test_history_ends_at_the_carry():
    made, x = readout(), normal(N_STEPS, N_TRIALS, N_OUTPUTS).requires_grad_()
    first = made(x[:20])
    assert not first.carry.requires_grad
    made(x[20:], first.carry).values.sum().backward()
    assert x.grad[:20].eq(0).all()
    assert x.grad[20:].ne(0).all()


def test_gradients_are_exact():
    made = readout(train_tau=True)
    names = [name for name, _ in made.named_parameters()]
    x = normal(6, 2, N_OUTPUTS).requires_grad_()

    def run(x, *parameters):
        given_parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(made, given_parameters, (x,)).values

    leaves = [one.detach().clone().requires_grad_() for one in made.parameters()]
    assert sorted(names) == ["bias", "log_tau"]
    assert torch.autograd.gradcheck(run, (x, *leaves))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["bias"]),
        ({"bias": False}, []),
        ({"train_tau": True}, ["bias", "log_tau"]),
    ],
)
def test_what_is_trained_is_a_parameter_and_time_constants_are_always_in_the_state(options, names):
    made = readout(**options)
    assert sorted(name for name, _ in made.named_parameters()) == names
    assert "log_tau" in made.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_have_the_type_of_the_module(dtype):
    made = readout(tau_ms=3.0).to(dtype)
    values, carry = made(normal(N_STEPS, N_TRIALS, N_OUTPUTS, dtype=dtype))
    assert {values.dtype, carry.dtype} == {dtype}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_ms": 0.0}, r"dt_ms = 0\.0"),
        ({"tau_ms": -1.0}, r"tau_ms = -1\.0 must hold one positive number"),
        ({"tau_ms": float("inf")}, "tau_ms = inf"),
        ({"tau_ms": torch.ones(3)}, "one for each of the 4 outputs"),
    ],
)
def test_bad_constants_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        readout(**options)


def test_input_and_carry_of_another_shape_are_named():
    made = readout()
    with pytest.raises(ValueError, match=r"x has shape \(5, 3, 2\); it must be \(T, B, 4\)"):
        made(normal(5, 3, 2))
    with pytest.raises(ValueError, match=r"initial has shape \(4,\)"):
        made(normal(5, 3, 4), normal(4))
