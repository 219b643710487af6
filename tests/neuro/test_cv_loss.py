"""The irregularity loss: its values against scipy, its gradient against adding single spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import variation

from neuro.losses import cv_loss, interval_moments
from neuro.metrics.firing import interval_cv


def bernoulli(*shape, p, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) < p).double()


def moments_by_hand(train):
    intervals = np.diff(np.flatnonzero(train))
    return len(intervals), intervals.sum(), (intervals**2).sum()


def toggled(train, step):
    changed = train.copy()
    changed[step] = 1 - changed[step]
    return changed


@settings(deadline=None, max_examples=100)
@given(train=hnp.arrays(np.int64, st.integers(1, 25), elements=st.integers(0, 1)))
def test_derivative_of_the_moments_is_the_change_by_adding_or_removing_each_spike(train):
    spikes = torch.tensor(train, dtype=torch.float64).reshape(-1, 1, 1).requires_grad_()
    moments = interval_moments(spikes)
    assert [moment.item() for moment in moments] == list(moments_by_hand(train))
    for order, moment in enumerate(moments):
        (gradient,) = torch.autograd.grad(moment.sum(), spikes, retain_graph=True)
        # Removing a spike is the derivative with the other sign.
        expected = [
            (1 - 2 * train[step])
            * (moments_by_hand(toggled(train, step))[order] - moments_by_hand(train)[order])
            for step in range(len(train))
        ]
        assert gradient.flatten().tolist() == expected


def test_moments_keep_trials_and_units_apart():
    spikes = bernoulli(60, 3, 4, p=0.2)
    moments = interval_moments(spikes)
    for trial in range(3):
        for unit in range(4):
            found = [moment[trial, unit].item() for moment in moments]
            assert found == list(moments_by_hand(spikes[:, trial, unit].numpy()))


def test_loss_is_that_of_scipy_with_trials_laid_end_to_end():
    spikes = bernoulli(400, 3, 5, p=0.05)
    trains = spikes.permute(2, 1, 0).reshape(5, -1).numpy()
    cv = np.array([variation(np.diff(np.flatnonzero(train))) for train in trains])
    for target in (1.0, 0.4):
        loss = cv_loss(spikes, target=target)
        assert loss.item() == pytest.approx(np.mean((cv - target) ** 2), abs=2e-4)


def test_loss_within_trials_agrees_with_the_metric():
    spikes = bernoulli(100, 4, 5, p=0.1)
    expected = np.mean((interval_cv(spikes.numpy()) - 1) ** 2)
    assert cv_loss(spikes, across_trials=False).item() == pytest.approx(expected, abs=2e-4)


def test_single_precision_is_enough_for_long_trains():
    spikes = bernoulli(20_000, 1, 3, p=0.01)
    assert cv_loss(spikes.float()).item() == pytest.approx(cv_loss(spikes).item(), rel=1e-3)


def test_gradient_foretells_what_each_added_spike_does_to_the_loss():
    spikes = bernoulli(1000, 1, 1, p=0.05, seed=1).requires_grad_()
    loss = cv_loss(spikes, target=0.3)
    loss.backward()
    steps = np.flatnonzero(spikes.detach().flatten() == 0)[::12]
    changes = []
    for step in steps:
        added = spikes.detach().clone()
        added[step] = 1
        changes.append((cv_loss(added, target=0.3) - loss).item())
    foretold = spikes.grad.flatten()[steps].numpy()
    assert np.corrcoef(foretold, changes)[0, 1] > 0.98
    assert np.polyfit(foretold, changes, 1)[0] == pytest.approx(1, abs=0.15)


def test_neurons_with_fewer_than_three_spikes_do_not_count():
    spikes = torch.zeros(50, 1, 2)
    spikes[[3, 20], 0, 0] = 1  # unit_0: one interval
    spikes[[3, 13, 23, 33], 0, 1] = 1  # unit_1: a clock
    spikes.requires_grad_()
    loss = cv_loss(spikes)
    loss.backward()
    # The variance floor of 1e-4 makes the CV of a clock 0.01.
    assert loss.item() == pytest.approx(0.99**2, rel=1e-5)
    assert not spikes.grad[:, :, 0].any()
    assert spikes.grad[:, :, 1].any()


def test_loss_of_silence_is_zero_and_still_has_a_graph():
    spikes = torch.zeros(20, 2, 3, requires_grad=True)
    loss = cv_loss(spikes)
    loss.backward()
    assert loss.item() == 0
    assert not spikes.grad.any()
