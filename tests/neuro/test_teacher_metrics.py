"""Gamma, SPIKE-synchronization, correlation of traces and recovery, against independent values.

tests/golden/spike_synchrony.json holds [spike times, spike times, duration, synchronization] as
PySpike 0.9.0 gives it (numpy 2.4.6, Python 3.11), in an environment of its own:

    pip install pyspike==0.9.0 numpy==2.4.6
    a, b = (pyspike.SpikeTrain(times, [0, duration]) for times in (first, second))
    pyspike.spike_sync(a, b)

for trains by hand and for trains drawn by numpy.random.default_rng(5).
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from conftest import CHECKOUT
from scipy import stats

from neuro.metrics.gamma_coincidence import gamma_coincidence
from neuro.metrics.spike_synchrony import spike_synchrony
from neuro.metrics.trace_agreement import group_mse, trace_correlation, value_recovery

GOLDEN = json.loads((CHECKOUT / "tests" / "golden" / "spike_synchrony.json").read_text())


def raster(*trains, n_steps=100):
    """Trains of one unit, one a trial."""
    spikes = np.zeros((n_steps, len(trains), 1))
    for trial, steps in enumerate(trains):
        spikes[steps, trial, 0] = 1
    return spikes


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{len(case[0])}x{len(case[1])}")
def test_synchrony_is_that_of_pyspike(case):
    first, second, duration, expected = case
    found = spike_synchrony(
        raster(first, n_steps=duration + 1)[:duration], raster(second, n_steps=duration)
    )
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


def test_synchrony_pools_trials_and_keeps_units_apart():
    trials = [case for case in GOLDEN if case[2] == 100]
    first, second = (raster(*(case[side] for case in trials)) for side in (0, 1))
    spikes = np.array([len(case[0]) + len(case[1]) for case in trials])
    expected = (np.array([case[3] for case in trials]) * spikes).sum() / spikes.sum()
    np.testing.assert_allclose(spike_synchrony(first, second), [expected], rtol=1e-12)
    # As units of one trial, each has the value of its own trains.
    found = spike_synchrony(first.transpose(0, 2, 1), second.transpose(0, 2, 1))
    np.testing.assert_allclose(found, [case[3] for case in trials], rtol=1e-12)


def test_synchrony_of_silence_is_undefined():
    assert math.isnan(spike_synchrony(raster([]), raster([]))[0])


def gamma(model, data, **options):
    options = {"precision_ms": 2.0, "dt_ms": 1.0} | options
    return gamma_coincidence(model, data, **options)


def test_gamma_is_one_for_equal_trains_and_zero_for_a_silent_model():
    data = raster([10, 40, 70], [20, 90])
    np.testing.assert_allclose(gamma(data, data), [1.0])
    np.testing.assert_allclose(gamma(np.zeros_like(data), data), [0.0])
    assert math.isnan(gamma(np.zeros_like(data), np.zeros_like(data))[0])


def test_gamma_is_what_the_definition_gives_by_hand():
    # Two pairs at most 2 steps apart; 4 spikes of the model in 100 steps, windows of 5 steps.
    model, data = raster([10, 30, 50, 80]), raster([12, 29, 65])
    chance = 4 / 100 * 5
    expected = (2 - chance * 3) / ((4 + 3) / 2) / (1 - chance)
    np.testing.assert_allclose(gamma(model, data), [expected])
    # Half the precision leaves one pair, in windows of 3 steps.
    chance = 4 / 100 * 3
    expected = (1 - chance * 3) / 3.5 / (1 - chance)
    np.testing.assert_allclose(gamma(model, data, precision_ms=1.0), [expected])
    # The same in steps of 2 ms.
    np.testing.assert_allclose(gamma(model, data, precision_ms=2.0, dt_ms=2.0), [expected])


def test_gamma_counts_as_many_pairs_as_the_best_way_to_pair():
    generator = np.random.default_rng(0)
    for _ in range(20):
        model, data = (np.flatnonzero(generator.random(40) < 0.15) for _ in range(2))
        chance = len(model) / 40 * 5
        if not len(model) or not len(data) or chance >= 1:
            continue
        found = gamma(raster(model, n_steps=40), raster(data, n_steps=40))[0]
        pairs = found * (1 - chance) * (len(model) + len(data)) / 2 + chance * len(data)
        assert pairs == pytest.approx(most_pairs(model.tolist(), data.tolist()))


def most_pairs(left, right):
    """The largest matching of spikes at most 2 steps apart, by trying all; small trains only."""
    if not left or not right:
        return 0
    head, rest = left[0], left[1:]
    ways = [most_pairs(rest, right)]
    for place, other in enumerate(right):
        if abs(head - other) <= 2:
            ways.append(1 + most_pairs(rest, right[:place] + right[place + 1 :]))
    return max(ways)


def test_gamma_of_independent_sparse_trains_is_zero():
    generator = np.random.default_rng(1)
    model, data = (generator.random((1000, 200, 4)) < 0.005 for _ in range(2))
    found = gamma(model, data)
    # About 1000 spikes of each unit: chance of 25 coincidences, standard error 5 of 1000 spikes.
    assert np.abs(found).max() < 0.025
    assert np.abs(gamma(model, model) - 1).max() < 1e-12


def test_gamma_where_chance_fills_all_windows_is_undefined():
    busy = raster(np.arange(0, 100, 4))
    assert math.isnan(gamma(busy, busy)[0])


def test_correlation_is_scipys_for_each_unit_and_undefined_without_change():
    generator = np.random.default_rng(2)
    first = generator.normal(size=(30, 4, 3))
    second = 0.5 * first + generator.normal(size=first.shape)
    second[..., 2] = 7.0
    found = trace_correlation(first, second)
    for unit in range(2):
        expected = stats.pearsonr(first[..., unit].ravel(), second[..., unit].ravel()).statistic
        assert found[unit] == pytest.approx(expected)
    assert math.isnan(found[2])


def test_group_error_is_the_mean_over_units_of_a_group():
    teacher = np.zeros((5, 2, 4))
    student = np.broadcast_to([1.0, 2.0, 3.0, 10.0], teacher.shape)
    found = group_mse(student, teacher, [0, 2, 2, 0], ["a", "b", "c"])
    assert found["a"] == pytest.approx((1 + 100) / 2)
    assert found["c"] == pytest.approx((4 + 9) / 2)
    assert math.isnan(found["b"])


def test_recovery_of_perfect_flat_and_permuted_values():
    true = np.random.default_rng(3).normal(size=1000)
    assert value_recovery(true, true) == pytest.approx({"correlation": 1, "relative_error": 0})
    flat = value_recovery(np.full(1000, true.mean()), true)
    assert math.isnan(flat["correlation"])
    assert flat["relative_error"] == pytest.approx(1)
    mixed = value_recovery(np.random.default_rng(4).permutation(true), true)
    assert mixed["relative_error"] == pytest.approx(math.sqrt(2), rel=0.05)
    doubled = value_recovery(2 * true, true)
    assert doubled["correlation"] == pytest.approx(1)
    assert doubled["relative_error"] == pytest.approx(np.sqrt((true**2).mean()) / true.std())


@pytest.mark.parametrize(
    "measure",
    [
        spike_synchrony,
        lambda a, b: gamma_coincidence(a, b, precision_ms=1.0, dt_ms=1.0),
        trace_correlation,
    ],
)
def test_shapes_that_do_not_fit_are_refused(measure):
    for first, second in itertools.permutations([np.ones((4, 2, 3)), np.ones((4, 2, 2))]):
        with pytest.raises(ValueError, match="must both be"):
            measure(first, second)
    with pytest.raises(ValueError, match="must both be"):
        measure(np.ones(4), np.ones(4))


def test_negative_precision_and_values_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="precision_ms = -1"):
        gamma(raster([1]), raster([1]), precision_ms=-1.0)
    with pytest.raises(ValueError, match="must have one shape"):
        value_recovery([1.0, 2.0], [1.0])
