"""Agreement of spike trains against brute force and against trains written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from neuro.metrics.spike_agreement import coincidence, count_differing, rate_correlation
from neuro.spiking.spike_trains import SpikeTrains


def drawn(seed: int, *, shape=(30, 2, 3), rate=0.15) -> SpikeTrains:
    generator = torch.Generator().manual_seed(seed)
    return SpikeTrains.from_dense((torch.rand(shape, generator=generator) < rate).float())


def trains(*times: list[int], n_steps: int = 40) -> SpikeTrains:
    """One trial, one list of steps for each unit."""
    raster = torch.zeros(n_steps, 1, len(times))
    for unit, steps in enumerate(times):
        raster[steps, 0, unit] = 1
    return SpikeTrains.from_dense(raster)


def most_pairs(first: SpikeTrains, second: SpikeTrains, window: int) -> int:
    """Count by scipy's matching of bipartite graphs, where every near pair is an edge."""
    spikes = [one.dense().nonzero().numpy() for one in (first, second)]
    near = np.abs(spikes[0][:, None, 0] - spikes[1][None, :, 0]) <= window
    same = (spikes[0][:, None, 1:] == spikes[1][None, :, 1:]).all(axis=2)
    if not near.size:
        return 0
    matched = maximum_bipartite_matching(csr_array((near & same).astype(int)))
    return int((matched >= 0).sum())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from([0.02, 0.15, 0.5]))
def test_as_many_spikes_are_paired_as_any_matching_pairs(seed, window, rate):
    first, second = drawn(seed, rate=rate), drawn(seed + 1, rate=0.2)
    n_spikes = len(first.unit) + len(second.unit)
    wanted = 2 * most_pairs(first, second, window) / n_spikes
    found = coincidence(first, second, window_ms=window * 0.5, dt_ms=0.5)
    assert found == pytest.approx(wanted)
    assert coincidence(second, first, window_ms=window * 0.5, dt_ms=0.5) == found


def test_coincidence_is_that_of_trains_written_by_hand():
    true = trains([5, 20, 39], [10])
    guess = trains([9, 26], [10, 12])
    # Unit 0: 5 and 9 are 4 apart, 20 and 26 are 6. Unit 1: 10 once, 12 has no partner left.
    assert coincidence(guess, true, window_ms=5.0, dt_ms=1.0) == 2 * 2 / 8
    assert coincidence(guess, true, window_ms=6.0, dt_ms=1.0) == 2 * 3 / 8
    assert coincidence(guess, true, window_ms=0.0, dt_ms=1.0) == 2 * 1 / 8
    assert coincidence(true, true, window_ms=0.0, dt_ms=1.0) == 1


def test_spikes_of_another_unit_or_trial_are_no_partners():
    end, start = trains([39], []), trains([], [0])
    assert coincidence(end, start, window_ms=30.0, dt_ms=1.0) == 0
    raster = torch.zeros(4, 2, 1)
    raster[3, 0] = 1
    other = raster.flip(1)
    pair = [SpikeTrains.from_dense(one) for one in (raster, other)]
    assert coincidence(*pair, window_ms=3.0, dt_ms=1.0) == 0


def test_a_window_that_division_rounds_down_is_whole():
    # 0.3 / 0.1 is 2.9999999999999996.
    assert coincidence(trains([0]), trains([3]), window_ms=0.3, dt_ms=0.1) == 1


def test_nothing_at_all_is_neither_right_nor_wrong():
    assert math.isnan(coincidence(trains([]), trains([]), window_ms=5.0, dt_ms=1.0))
    assert math.isnan(rate_correlation(trains([1], [2]), trains([1], [])))


def test_rate_correlation_is_that_of_spike_counts():
    first, second = drawn(1, rate=0.3), drawn(2, rate=0.3)
    counts = [one.dense().sum((0, 1)).numpy() for one in (first, second)]
    assert rate_correlation(first, second) == pytest.approx(np.corrcoef(*counts)[0, 1])


def test_differing_spikes_are_those_that_one_raster_has():
    first, second = drawn(3), drawn(4)
    assert count_differing(first, second) == int((first.dense() != second.dense()).sum())
    assert count_differing(first, first) == 0


def test_trains_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="must be alike"):
        coincidence(drawn(0), drawn(0, shape=(31, 2, 3)), window_ms=5.0, dt_ms=1.0)
    with pytest.raises(ValueError, match="window_ms = -1"):
        coincidence(drawn(0), drawn(1), window_ms=-1, dt_ms=1.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.permutations(range(5)), st.integers(0, 5))
def test_chosen_units_are_columns_of_the_raster_in_the_order_asked_for(seed, order, number):
    whole = drawn(seed, shape=(12, 2, 5))
    units = np.array(order[:number], dtype=np.int64)
    assert torch.equal(whole.of_units(units).dense(), whole.dense()[..., torch.from_numpy(units)])
    silenced = whole.dense()
    silenced[..., torch.from_numpy(units)] = 0
    assert torch.equal(whole.without(units).dense(), silenced)
