"""The odor trials: rates, baseline, durations, and whole-trial measures of activity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuro.metrics import activity
from neuro.spiking.odor_trials import OdorLaw, draw_spikes

LAW = {
    "rate_at_response_1_hz": 192.0,
    "concentration": 0.5,
    "baseline_hz": 8.0,
    "trial_ms": 500,
    "duration_min_ms": 70,
    "duration_end_ms": 500,
}
RESPONSE = np.array([0.0, 0.25, 1.0, -0.5])


def law(counts="poisson", **changed):
    return OdorLaw(**{**LAW, **changed}, counts=counts)


def raster(spikes, n_neurons, dt_ms):
    """Count spikes in bins by hand, shape (T, N)."""
    counts = np.zeros((500 // dt_ms, n_neurons), dtype=int)
    for time_ms, neuron in zip(*spikes, strict=True):
        counts[time_ms // dt_ms, neuron] += 1
    return counts


@pytest.mark.parametrize("counts", ["poisson", "bernoulli"])
def test_rates_are_those_of_the_law_during_and_after_the_odor(counts):
    generator = np.random.default_rng(0)
    n_trials, duration_ms = 4000, 205
    total = np.zeros((50, 4))
    for _ in range(n_trials):
        spikes = draw_spikes(law(counts), RESPONSE, duration_ms, generator=generator)
        total += raster(spikes, 4, 10)
    mean = total / n_trials
    # p = (max(0, response * 192 * 0.5) + 8) * 1e-3 a ms, 10 ms a bin; 8 Hz without response.
    during = np.array([0.08, 0.32, 1.04, 0.08])
    off = np.full(4, 0.08)
    expected = np.vstack([np.tile(during, (20, 1)), (during + off) / 2, np.tile(off, (29, 1))])
    standard_error = np.sqrt(expected / n_trials)
    assert np.abs((mean - expected) / standard_error).max() < 4.5
    chi2 = (((mean - expected) / standard_error) ** 2).sum()
    assert chi2 < stats.chi2.ppf(0.9999, expected.size)


@pytest.mark.parametrize(("counts", "p"), [("bernoulli", 0.958), ("poisson", 0.958)])
def test_variance_of_a_count_tells_the_laws_apart(counts, p):
    # 10 steps of p each: 10 p (1 - p) if a step has one spike at most, 10 p if not.
    loud = law(counts, rate_at_response_1_hz=1900.0)
    generator = np.random.default_rng(1)
    time_ms, neuron = draw_spikes(loud, np.ones(5000), 12, generator=generator)
    first = np.bincount(neuron[time_ms < 10], minlength=5000)
    assert first.mean() == pytest.approx(10 * p, rel=0.02)
    variance = 10 * p * (1 - p) if counts == "bernoulli" else 10 * p
    assert first.var() == pytest.approx(variance, rel=0.08)
    most = np.bincount(time_ms * 5000 + neuron).max()
    assert most == 1 if counts == "bernoulli" else most > 1


@pytest.mark.parametrize("duration_ms", [0, 499])
def test_shortest_and_longest_odors_drive_the_steps_that_they_last(duration_ms):
    # A rate near one spike a ms fills the odor's steps; without a baseline nothing follows.
    loud = law("bernoulli", rate_at_response_1_hz=1998.0, baseline_hz=0.0, duration_min_ms=0)
    spikes = draw_spikes(loud, np.ones(50), duration_ms, generator=np.random.default_rng(3))
    assert set(spikes.time_ms.tolist()) == set(range(duration_ms))


def test_neurons_without_any_response_keep_the_baseline():
    spikes = draw_spikes(law(), np.zeros(2000), 400, generator=np.random.default_rng(4))
    expected = 2000 * 500 * 0.008
    assert abs(len(spikes.neuron) - expected) < 4.5 * np.sqrt(expected)


def test_rate_that_reaches_a_spike_a_ms_is_refused():
    loud = law("bernoulli", rate_at_response_1_hz=2000.0)
    with pytest.raises(ValueError, match="not below one spike a ms"):
        draw_spikes(loud, RESPONSE, 100, generator=np.random.default_rng(0))


def test_durations_are_whole_ms_from_70_to_below_500_uniformly():
    generator = np.random.default_rng(2)
    drawn = np.array([law().draw_duration_ms(generator) for _ in range(20_000)])
    assert (drawn.min(), drawn.max()) == (70, 499)
    share = np.histogram(drawn, bins=43, range=(70, 500))[0]
    assert stats.chisquare(share).pvalue > 1e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"duration_end_ms": 501}, "do not fit into a trial"),
        ({"duration_min_ms": 500}, "do not fit into a trial"),
        ({"counts": "gamma"}, "'gamma' is none of 'poisson', 'bernoulli'"),
        ({"baseline_hz": -8.0}, "baseline_hz = -8.0 must be a rate of at least 0 Hz"),
        ({"baseline_hz": float("nan")}, "baseline_hz = nan must be a rate"),
        ({"rate_at_response_1_hz": -192.0}, "rate_at_response_1_hz = -192.0 must be a rate"),
        ({"concentration": -0.5}, "concentration = -0.5 must lie within 0 .. 1"),
        ({"concentration": 1.5}, "concentration = 1.5 must lie within 0 .. 1"),
    ],
)
def test_impossible_laws_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        law(**changed)


def test_bins_that_do_not_divide_the_trial_are_refused():
    assert law().n_bins(5) == 100
    for dt_ms in (7, 0, -5):
        with pytest.raises(
            ValueError, match=f"dt_ms = {dt_ms} does not divide the trial of 500 ms"
        ):
            law().n_bins(dt_ms)


# Three units, three odors: unit 0 answers one odor, unit 1 all alike, unit 2 none.
COUNTS = np.array([[6, 2, 0], [0, 2, 0], [0, 2, 0]])


def test_active_fraction_counts_cells_with_a_spike():
    assert activity.active_fraction(COUNTS) == pytest.approx(4 / 9)


def test_lifetime_sparseness_is_treves_and_rolls_over_responding_units():
    # Unit 0: 1 - (6/3)^2 / (36/3) = 2/3; unit 1: 0; unit 2 never responds.
    assert activity.lifetime_sparseness(COUNTS) == pytest.approx((2 / 3 + 0) / 2)
    assert np.isnan(activity.lifetime_sparseness(np.zeros((2, 2))))


def test_pair_correlation_is_numpy_s_and_leaves_silent_stimuli_out():
    counts = np.random.default_rng(5).poisson(3.0, size=(4, 30))
    expected = np.corrcoef(counts)[np.triu_indices(4, k=1)].mean()
    assert activity.pair_correlation(counts) == pytest.approx(expected)
    with_silence = np.vstack([counts, np.zeros(30)])
    assert activity.pair_correlation(with_silence) == pytest.approx(expected)
    assert np.isnan(activity.pair_correlation(with_silence[-2:]))


def test_standard_error_is_the_binomial_one():
    assert activity.standard_error(0.9, 281) == pytest.approx(stats.binom(281, 0.9).std() / 281)
