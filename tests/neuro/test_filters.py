"""The exponential filter against scipy's recursive filter and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from neuro.spiking.filters import exponential_filter


def noise(*shape, seed=0, **kinds):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, **kinds)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99, 1.0])
def test_values_are_those_of_scipy(decay):
    x, initial = noise(300, 2, 5), noise(2, 5, seed=1)
    # scipy's state zi is what the last output adds to the next one.
    expected, zi = lfilter([1], [1, -decay], x.numpy(), axis=0, zi=decay * initial.numpy()[None])
    values, last = exponential_filter(x, decay, initial)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(decay * last, zi[0], rtol=1e-12, atol=1e-12)


def test_each_unit_decays_by_its_own_factor():
    x, decay = noise(100, 2, 3), torch.tensor([0.1, 0.9, 0.999], dtype=torch.float64)
    values = exponential_filter(x, decay).values
    for unit, factor in enumerate(decay.tolist()):
        expected = lfilter([1], [1, -factor], x[:, :, unit].numpy(), axis=0)
        np.testing.assert_allclose(values[:, :, unit], expected, rtol=1e-12)


def test_single_precision_stays_near_double_over_a_long_sequence():
    x = (noise(5000, 1, 4) > 1).double()
    exact = exponential_filter(x, 0.999).values
    single = exponential_filter(x.float(), 0.999).values
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(
    cuts=st.lists(st.integers(1, 39), max_size=5, unique=True),
    per_unit=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_chunks_of_any_length_give_the_whole_sequence_to_the_last_bit(cuts, per_unit, seed):
    x, initial = noise(40, 2, 3, seed=seed), noise(2, 3, seed=seed + 1)
    decay = torch.tensor([0.2, 0.9, 1.0]) if per_unit else 0.9
    whole = exponential_filter(x, decay, initial)
    parts, last = [], initial
    for chunk in x.tensor_split(sorted(cuts)):
        values, last = exponential_filter(chunk, decay, last)
        parts.append(values)
    assert torch.equal(torch.cat(parts), whole.values)
    assert torch.equal(last, whole.last)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 3)])
def test_gradients_are_finite_differences(shape):
    decay = torch.linspace(0.3, 0.95, int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    inputs = noise(7, 2, 3, requires_grad=True), noise(2, 3, seed=1, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, initial, factor: tuple(exponential_filter(x, factor, initial)),
        (*inputs, decay.requires_grad_()),
    )
    assert torch.autograd.gradcheck(
        lambda x, initial: tuple(exponential_filter(x, 0.8, initial)), inputs
    )


def test_gradient_of_a_decay_needs_no_initial_value():
    decay = torch.tensor([0.5, 0.9], dtype=torch.float64, requires_grad=True)
    x = noise(6, 3, 2)
    assert torch.autograd.gradcheck(lambda factor: exponential_filter(x, factor).values, (decay,))


def test_gradient_through_chunks_is_that_of_the_whole():
    x, weight = noise(30, 2, 3, requires_grad=True), noise(30, 2, 3, seed=1)
    (exponential_filter(x, 0.9).values * weight).sum().backward()
    whole, x.grad = x.grad, None
    first, last = exponential_filter(x[:11], 0.9)
    second = exponential_filter(x[11:], 0.9, last).values
    (torch.cat([first, second]) * weight).sum().backward()
    torch.testing.assert_close(x.grad, whole, rtol=1e-12, atol=1e-14)


def test_input_and_initial_value_are_left_alone():
    x, initial = noise(5, 1, 2), noise(1, 2, seed=1)
    kept = x.clone(), initial.clone()
    exponential_filter(x, 0.5, initial)
    assert torch.equal(x, kept[0])
    assert torch.equal(initial, kept[1])


def test_time_may_be_any_stride():
    x = noise(2, 3, 50).permute(2, 0, 1).requires_grad_()
    values = exponential_filter(x, 0.7).values
    np.testing.assert_allclose(
        values.detach(), lfilter([1], [1, -0.7], x.detach().numpy(), axis=0), rtol=1e-12
    )
    (gradient,) = torch.autograd.grad(values.sum(), x)
    np.testing.assert_allclose(gradient[-1], 1, rtol=1e-12)
    np.testing.assert_allclose(gradient[0], (1 - 0.7**50) / 0.3, rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "decay", "initial", "match"),
    [
        (torch.zeros(0, 1, 2), 0.5, None, r"\(0, 1, 2\)"),
        (torch.zeros(3, 1, 2, dtype=torch.int64), 0.5, None, "floating point"),
        (torch.zeros(3, 1, 2), 0.5, torch.zeros(2), r"initial has shape \(2,\)"),
        (torch.zeros(3, 1, 2), torch.zeros(4, 2), None, r"decay has shape \(4, 2\)"),
        (torch.zeros(3, 1, 2), torch.zeros(3, 1, 2), None, "does not broadcast"),
    ],
)
def test_what_does_not_fit_is_refused(x, decay, initial, match):
    with pytest.raises(ValueError, match=match):
        exponential_filter(x, decay, initial)
