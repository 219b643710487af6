"""Rate coding: what the spikes must be, given the rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neuro.spiking import encode_rate, spike_probability


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_spikes_come_as_often_as_the_binomial_distribution_allows():
    n_steps, dt_ms = 20_000, 2.0
    rate_hz = torch.tensor([0.0, 1.0, 10.0, 125.0, 250.0, 499.0, 500.0])
    counts = encode_rate(rate_hz, n_steps=n_steps, dt_ms=dt_ms, generator=seeded()).sum(dim=0)
    probability = rate_hz.numpy().astype(float) * dt_ms / 1000
    lowest, highest = stats.binom.interval(1 - 1e-6, n_steps, probability)
    assert (lowest <= counts.numpy()).all()
    assert (counts.numpy() <= highest).all()


def test_spikes_of_different_steps_are_independent():
    spikes = encode_rate(torch.tensor([300.0]), n_steps=20_000, dt_ms=1.0, generator=seeded())[:, 0]
    pairs = int((spikes[1::2] * spikes[::2]).sum())
    lowest, highest = stats.binom.interval(1 - 1e-6, len(spikes) // 2, 0.3**2)
    assert lowest <= pairs <= highest


def test_intervals_between_spikes_are_geometric():
    probability = 0.2
    spikes = encode_rate(torch.tensor([200.0]), n_steps=50_000, dt_ms=1.0, generator=seeded())
    intervals = np.diff(np.flatnonzero(spikes[:, 0].numpy()))
    observed = np.bincount(intervals, minlength=31)[1:31]
    expected = stats.geom.pmf(np.arange(1, 31), probability) * observed.sum()
    expected *= observed.sum() / expected.sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@given(
    rates=st.lists(st.sampled_from([0.0, 37.0, 1000.0]), min_size=1, max_size=5),
    n_steps=st.integers(0, 20),
)
def test_silent_units_never_spike_and_saturated_units_always_do(rates, n_steps):
    spikes = encode_rate(torch.tensor(rates), n_steps=n_steps, dt_ms=1.0)
    assert spikes.shape == (n_steps, len(rates))
    assert ((spikes == 0) | (spikes == 1)).all()
    for unit, rate_hz in enumerate(rates):
        if rate_hz != 37.0:
            assert (spikes[:, unit] == rate_hz / 1000).all()


def test_time_comes_first_and_other_axes_keep_their_order():
    spikes = encode_rate(torch.full((3, 4), 10.0), n_steps=5, dt_ms=1.0)
    assert spikes.shape == (5, 3, 4)


def test_equal_generators_draw_equal_spikes_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    rate_hz = torch.full((2, 8), 500.0)
    first = encode_rate(rate_hz, n_steps=16, dt_ms=1.0, generator=seeded(3))
    second = encode_rate(rate_hz, n_steps=16, dt_ms=1.0, generator=seeded(3))
    other = encode_rate(rate_hz, n_steps=16, dt_ms=1.0, generator=seeded(4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rate_hz", [-1.0, 500.5, float("nan"), float("inf")])
def test_impossible_rate_is_named_with_its_limit(rate_hz):
    with pytest.raises(ValueError, match=rf"{rate_hz}.*0 \.\. 500 Hz"):
        spike_probability(torch.tensor([10.0, rate_hz]), dt_ms=2.0)


@pytest.mark.parametrize("dt_ms", [0.0, -1.0, float("nan")])
def test_time_step_must_be_positive(dt_ms):
    with pytest.raises(ValueError, match="dt_ms"):
        spike_probability(torch.tensor([10.0]), dt_ms=dt_ms)
