"""Surrogate gradients against their formulas, numerical derivatives and snntorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import snntorch
import torch

from neuro.spiking.surrogate import (
    SURROGATES,
    ATan,
    FastSigmoid,
    Triangle,
    named_surrogate,
    spike,
)

U = torch.linspace(-3, 3, 601, dtype=torch.float64)
CHOICES = [FastSigmoid(25.0), FastSigmoid(0.5), ATan(2.0), ATan(7.0), Triangle(1.0), Triangle(0.3)]


def fast_sigmoid(u, slope):
    return 1 / (1 + slope * abs(u)) ** 2


def atan(u, alpha):
    return alpha / 2 / (1 + (math.pi * alpha * u / 2) ** 2)


def triangle(u, width):
    return np.maximum(0, 1 - abs(u) / width) / width


FORMULAS = {FastSigmoid: fast_sigmoid, ATan: atan, Triangle: triangle}


def parameter(surrogate):
    return next(iter(vars(surrogate).values()))


@pytest.mark.parametrize("surrogate", CHOICES, ids=repr)
def test_derivative_is_the_stated_formula(surrogate):
    expected = FORMULAS[type(surrogate)](U.numpy(), parameter(surrogate))
    np.testing.assert_allclose(surrogate.derivative(U).numpy(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("surrogate", CHOICES, ids=repr)
def test_derivative_is_that_of_the_primitive(surrogate):
    step = 1e-6
    # Halfway between grid points: no corner of the triangle or of |u| lies within a step.
    u = U + 0.005
    slope = (surrogate.primitive(u + step) - surrogate.primitive(u - step)) / (2 * step)
    torch.testing.assert_close(slope, surrogate.derivative(u), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "surrogate", [ATan(2.0), ATan(50.0), Triangle(1.0), Triangle(0.2)], ids=repr
)
def test_primitive_of_a_density_climbs_from_0_to_1(surrogate):
    ends = surrogate.primitive(torch.tensor([-1e9, 0.0, 1e9], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.5, 1.0]).double(), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    ("surrogate", "theirs"),
    [
        (FastSigmoid(25.0), snntorch.surrogate.fast_sigmoid(slope=25)),
        (FastSigmoid(3.0), snntorch.surrogate.fast_sigmoid(slope=3)),
        (ATan(2.0), snntorch.surrogate.atan(alpha=2.0)),
        (ATan(5.0), snntorch.surrogate.atan(alpha=5.0)),
    ],
    ids=repr,
)
def test_spikes_and_gradients_are_those_of_snntorch(surrogate, theirs):
    u = U.float()
    ours_in, theirs_in = u.clone().requires_grad_(), u.clone().requires_grad_()
    fired, expected = spike(ours_in, surrogate), theirs(theirs_in)
    assert torch.equal(fired, expected)
    weights = torch.linspace(0.5, 2, len(u))
    fired.backward(weights)
    expected.backward(weights)
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=1e-5, atol=1e-7)


def test_triangle_has_no_gradient_beyond_its_width():
    surrogate = Triangle(0.4)
    beyond = U[U.abs() >= 0.4]
    assert (surrogate.derivative(beyond) == 0).all()
    assert (surrogate.derivative(U[U.abs() < 0.4]) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spike_is_strictly_above_threshold_and_keeps_the_type(dtype):
    u = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 1.0], dtype=dtype)
    fired = spike(u, FastSigmoid())
    assert fired.tolist() == [0, 0, 0, 1, 1]
    assert fired.dtype == dtype


@pytest.mark.parametrize("surrogate", CHOICES, ids=repr)
def test_smooth_spike_is_the_primitive_with_its_exact_gradient(surrogate):
    u = (U[::20] + 0.005).clone().requires_grad_()
    assert torch.equal(spike(u, surrogate, smooth=True), surrogate.primitive(u))
    assert torch.autograd.gradcheck(lambda u: spike(u, surrogate, smooth=True), u)


@pytest.mark.parametrize(("name", "kind"), SURROGATES.items())
def test_surrogate_is_found_by_its_name(name, kind):
    assert named_surrogate(name, 3.0) == kind(3.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sigmoid", 1.0, "'sigmoid' is none of 'fast_sigmoid', 'atan', 'triangle'"),
        ("atan", 0.0, "alpha = 0.0"),
        ("triangle", -1.0, "width = -1.0"),
        ("fast_sigmoid", math.nan, "slope = nan"),
    ],
)
def test_surrogate_that_does_not_exist_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        named_surrogate(name, value)
