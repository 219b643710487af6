"""Bounds on spike counts and the loss of the highest output, against numbers by hand and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from neuro.losses import (
    SpikeCountBounds,
    lower_bound_l2,
    max_over_time,
    max_over_time_loss,
    upper_bound_l1,
)

COUNTS = [
    [0.0, 1.0, 5.0],  # trial 0
    [4.0, 0.0, 8.0],  # trial 1
]


def counts():
    return torch.tensor(COUNTS, dtype=torch.float64, requires_grad=True)


def test_lower_bound_is_the_mean_square_of_what_lacks_in_each_trial():
    loss = lower_bound_l2(counts(), 2.0)
    assert loss.item() == pytest.approx((4 + 1 + 0 + 0 + 4 + 0) / 6)


def test_lower_bound_pulls_up_neurons_below_it_and_leaves_the_others():
    n = counts()
    lower_bound_l2(n, 2.0).backward()
    # -2 (bound - n) / 6 where n < bound.
    expected = -np.array([[4.0, 2.0, 0.0], [0.0, 4.0, 0.0]]) / 6
    np.testing.assert_allclose(n.grad, expected)


def test_upper_bound_holds_for_the_mean_of_a_population_not_for_its_neurons():
    # Means 2 and 4: a neuron with 5 is no matter in trial 0.
    assert upper_bound_l1(counts(), 3.0).item() == pytest.approx((0 + 1) / 2)
    # Populations {0, 2} and {1}: means 2.5 and 1, then 6 and 0.
    of_two = upper_bound_l1(counts(), 2.0, torch.tensor([0, 1, 0]))
    assert of_two.item() == pytest.approx((0.5 + 0 + 4 + 0) / 4)


def test_upper_bound_pushes_all_neurons_of_a_population_down_alike():
    n = counts()
    upper_bound_l1(n, 2.0, torch.tensor([0, 1, 0])).backward()
    np.testing.assert_allclose(n.grad, np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]) / 2 / 4)


def test_one_population_of_all_neurons_is_none_given():
    everyone = torch.zeros(3, dtype=torch.long)
    assert upper_bound_l1(counts(), 1.0, everyone) == upper_bound_l1(counts(), 1.0)


def test_bounds_have_the_gradients_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    n = (9 * torch.rand(4, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    bounds = SpikeCountBounds(lower=3.0, lower_strength=0.7, upper=4.0, upper_strength=1.3)
    population = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: bounds(x, population), (n,))


def test_both_bounds_add_up_with_their_strengths_and_defaults_are_the_published_ones():
    bounds = SpikeCountBounds(lower=2.0, lower_strength=10.0, upper=3.0, upper_strength=3.0)
    assert bounds(counts()).item() == pytest.approx(10 * 9 / 6 + 3 * 0.5)
    published = SpikeCountBounds()
    # Two of six counts are zero; no mean is above 500.
    assert published(counts()).item() == pytest.approx(100 * 2 * 1e-6 / 6)
    assert published(counts() + 600).item() == pytest.approx(1 * (102 + 104) / 2)


def test_wrong_bounds_and_populations_are_refused():
    with pytest.raises(ValueError, match="0 <= lower <= upper"):
        SpikeCountBounds(lower=5.0, upper=4.0)
    with pytest.raises(ValueError, match="must be >= 0"):
        SpikeCountBounds(lower_strength=-1.0)
    with pytest.raises(ValueError, match=r"counts has shape \(3,\)"):
        lower_bound_l2(torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="one number for each of the 3 neurons"):
        upper_bound_l1(counts(), 1.0, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="population 1 has no neuron"):
        upper_bound_l1(counts(), 1.0, torch.tensor([0, 2, 0]))


def outputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()


def test_loss_is_scipy_s_log_softmax_of_the_highest_outputs():
    values, label = outputs(), torch.tensor([0, 4, 2, 2])
    highest = values.detach().numpy().max(axis=0)
    np.testing.assert_array_equal(max_over_time(values).detach(), highest)
    expected = -log_softmax(highest, axis=1)[np.arange(4), label].mean()
    assert max_over_time_loss(values, label).item() == pytest.approx(expected)


def test_gradient_goes_to_the_steps_of_the_maxima_alone():
    values, label = outputs(), torch.tensor([0, 4, 2, 2])
    max_over_time_loss(values, label).backward()
    detached = values.detach()
    where = detached == detached.amax(dim=0)
    assert (values.grad[~where] == 0).all()
    # (softmax - one hot) / B, as for any cross-entropy.
    expected = (detached.amax(dim=0).softmax(dim=1) - torch.eye(5)[label]) / 4
    torch.testing.assert_close(values.grad.sum(dim=0), expected)
    assert torch.autograd.gradcheck(lambda x: max_over_time_loss(x, label), (outputs(),))


def test_first_of_equal_maxima_takes_the_gradient():
    values = torch.zeros(3, 1, 2, requires_grad=True)
    max_over_time_loss(values, torch.tensor([1])).backward()
    np.testing.assert_allclose(values.grad[:, 0], [[0.5, -0.5], [0, 0], [0, 0]])


def test_outputs_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="outputs has shape"):
        max_over_time(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="there are 4 trials"):
        max_over_time_loss(outputs(), torch.tensor([0, 1]))
