"""Firing statistics of trains made by hand, of clocks and of Poisson processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import variation

from neuro.metrics.firing import (
    fano_factors,
    firing_rates_hz,
    interspike_intervals,
    interval_cv,
    interval_histogram,
    pair_synchrony,
    synchrony_chi,
)


@pytest.fixture
def by_hand():
    """Two trials of three units, shape (T, B, N) = (8, 2, 3)."""
    first = [
        [1, 0, 1, 0, 0, 1, 0, 0],  # unit_0: intervals 2, 3
        [0, 1, 0, 0, 0, 1, 0, 0],  # unit_1: interval 4
        [0, 0, 0, 0, 0, 0, 0, 0],  # unit_2
    ]
    second = [
        [0, 0, 0, 0, 0, 0, 0, 1],  # unit_0: none, and none that begins in the first trial
        [1, 1, 0, 0, 0, 0, 0, 0],  # unit_1: interval 1
        [0, 0, 0, 1, 0, 0, 0, 0],  # unit_2
    ]
    return np.array([first, second]).transpose(2, 0, 1)


def poisson(n_steps, n_trials, n_units, *, p=0.02, seed=0):
    return np.random.default_rng(seed).random((n_steps, n_trials, n_units)) < p


def clock(n_steps, period):
    train = np.zeros((n_steps, 1, 1))
    train[::period] = 1
    return train


def test_rates_of_trains_made_by_hand(by_hand):
    # 4, 4 and 1 spikes in 2 trials of 8 steps of 5 ms.
    np.testing.assert_allclose(firing_rates_hz(by_hand, dt_ms=5.0), [50, 50, 12.5])


def test_intervals_do_not_span_trials(by_hand):
    length_ms, unit = interspike_intervals(by_hand, dt_ms=5.0)
    assert length_ms.tolist() == [10, 15, 20, 5]
    assert unit.tolist() == [0, 0, 1, 1]
    assert interval_histogram(by_hand, [2.5, 7.5, 12.5, 22.5], dt_ms=5.0).tolist() == [1, 1, 2]


def test_cv_of_trains_made_by_hand(by_hand):
    expected = [variation([2, 3]), variation([4, 1]), np.nan]
    np.testing.assert_allclose(interval_cv(by_hand), expected)


def test_cv_is_undefined_below_two_intervals():
    trains = np.zeros((20, 1, 3), dtype=bool)
    trains[[3], 0, 1] = True  # unit_1: one spike
    trains[[3, 9], 0, 2] = True  # unit_2: one interval
    assert np.isnan(interval_cv(trains)).all()


def test_clock_has_cv_and_fano_factor_zero():
    assert interval_cv(clock(1000, 25)).tolist() == [0]
    assert fano_factors(clock(1000, 25), window_ms=100.0, dt_ms=1.0).tolist() == [0]


def test_poisson_process_has_cv_and_fano_factor_one():
    p = 0.02
    spikes = poisson(50_000, 1, 20, p=p)
    # Geometric intervals and binomial counts: CV^2 = F = 1 - p in discrete time.
    np.testing.assert_allclose(interval_cv(spikes).mean(), np.sqrt(1 - p), atol=0.02)
    fano = fano_factors(spikes, window_ms=200.0, dt_ms=1.0)
    np.testing.assert_allclose(fano.mean(), 1 - p, atol=0.03)


def test_intervals_of_a_poisson_process_fall_geometrically():
    p = 0.02
    spikes = poisson(50_000, 1, 20, p=p)
    counts = interval_histogram(spikes, np.arange(0.5, 101, 10), dt_ms=1.0)
    share = counts / len(interspike_intervals(spikes, dt_ms=1.0).length_ms)
    expected = (1 - p) ** np.arange(0, 100, 10) * (1 - (1 - p) ** 10)
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_fano_factor_is_the_variance_over_the_mean_of_pooled_windows(by_hand):
    # Windows of 3 steps; the last 2 steps are left out. unit_0: 2, 1 | 0, 0; unit_1: 1, 1 | 2, 0.
    counts = np.array([[2, 1, 0, 0], [1, 1, 2, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(
        fano_factors(by_hand, window_ms=6.0, dt_ms=2.0), counts.var(axis=1, ddof=1) / counts.mean(1)
    )
    assert np.isnan(fano_factors(np.zeros((8, 2, 1)), window_ms=6.0, dt_ms=2.0)).all()


def test_synchrony_is_one_for_copies_and_one_over_root_n_for_strangers():
    generator = np.random.default_rng(0)
    alone = generator.normal(size=(4000, 2, 100))
    copies = np.repeat(generator.normal(size=(4000, 2, 1)), 100, axis=2)
    np.testing.assert_allclose(synchrony_chi(copies), [1, 1])
    np.testing.assert_allclose(synchrony_chi(alone), [0.1, 0.1], rtol=0.1)
    # A shared and a private source of equal variance: chi^2 = (1 + 1 / N) / 2.
    np.testing.assert_allclose(synchrony_chi(alone + copies), np.sqrt(0.505), rtol=0.05)
    assert np.isnan(synchrony_chi(np.zeros((5, 1, 3)))).all()


def test_pair_synchrony_is_the_mean_off_the_diagonal_of_numpys_correlations():
    spikes = poisson(600, 3, 8, p=0.1)
    spikes[:, :, 1] |= spikes[:, :, 0]
    counts = spikes.reshape(60, 10, 3, 8).sum(axis=1).reshape(-1, 8)
    correlation = np.corrcoef(counts.T)
    expected = correlation[~np.eye(8, dtype=bool)].mean()
    assert expected > 0.01
    assert pair_synchrony(spikes, window_ms=5.0, dt_ms=0.5) == pytest.approx(expected)


def test_pair_synchrony_leaves_out_units_that_never_change():
    spikes = poisson(400, 1, 3, p=0.2)
    with_silent = np.concatenate([spikes, np.zeros_like(spikes)], axis=2)
    windows = {"window_ms": 20.0, "dt_ms": 1.0}
    assert pair_synchrony(with_silent, **windows) == pytest.approx(
        pair_synchrony(spikes, **windows)
    )
    assert np.isnan(pair_synchrony(np.zeros((400, 1, 3)), **windows))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_order_of_units_and_trials_moves_nothing(seed):
    generator = np.random.default_rng(seed)
    spikes = generator.random((60, 3, 5)) < 0.15
    units, trials = generator.permutation(5), generator.permutation(3)
    mixed = spikes[:, trials][:, :, units]
    np.testing.assert_allclose(interval_cv(mixed), interval_cv(spikes)[units])
    for measure in (firing_rates_hz, lambda s, dt_ms: fano_factors(s, window_ms=10, dt_ms=dt_ms)):
        np.testing.assert_allclose(measure(mixed, dt_ms=1.0), measure(spikes, dt_ms=1.0)[units])


def test_what_has_no_window_or_no_axes_is_refused():
    with pytest.raises(ValueError, match=r"\(8, 3\)"):
        firing_rates_hz(np.zeros((8, 3)), dt_ms=1.0)
    with pytest.raises(ValueError, match="is 9 steps of 1.0 ms; .* the trial's 8"):
        fano_factors(np.zeros((8, 1, 3)), window_ms=9.0, dt_ms=1.0)
    with pytest.raises(ValueError, match="leaves 1 windows"):
        fano_factors(np.zeros((8, 1, 3)), window_ms=8.0, dt_ms=1.0)
