"""The odor trials: rates, baseline, durations, and whole-trial readers of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from neuro.metrics import activity
from neuro.metrics.ideal_observer import ideal_observer_decisions
from neuro.spiking.odor_trials import OdorLaw, draw_counts

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


@pytest.mark.parametrize("counts", ["poisson", "bernoulli"])
def test_rates_are_those_of_the_law_during_and_after_the_odor(counts):
    generator = np.random.default_rng(0)
    n_trials, duration_ms = 4000, 205
    trials = np.stack(
        [
            draw_counts(law(counts), RESPONSE, duration_ms, dt_ms=10, generator=generator)
            for _ in range(n_trials)
        ]
    )
    mean = trials.mean(axis=0)
    # p = (max(0, response * 192 * 0.5) + 8) * 1e-3 a ms, 10 ms a bin; 8 Hz without response.
    during = np.array([0.08, 0.32, 1.04, 0.08])
    off = np.full(4, 0.08)
    expected = np.vstack([np.tile(during, (20, 1)), (during + off) / 2, np.tile(off, (29, 1))])
    standard_error = np.sqrt(expected / n_trials)
    assert trials.shape == (n_trials, 50, 4)
    assert np.abs((mean - expected) / standard_error).max() < 4.5
    chi2 = (((mean - expected) / standard_error) ** 2).sum()
    assert chi2 < stats.chi2.ppf(0.9999, expected.size)


def test_bernoulli_gives_at_most_one_spike_a_ms_with_binomial_variance():
    loud = law("bernoulli", rate_at_response_1_hz=1900.0)
    generator = np.random.default_rng(1)
    fine = draw_counts(loud, RESPONSE, 499, dt_ms=1, generator=generator)
    assert set(np.unique(fine)) == {0, 1}
    coarse = draw_counts(loud, np.ones(50_000), 499, dt_ms=10, generator=generator)[0]
    p = (1900 * 0.5 + 8) / 1000
    assert coarse.var() == pytest.approx(10 * p * (1 - p), rel=0.05)
    with pytest.raises(ValueError, match="above one spike a ms"):
        draw_counts(
            law("bernoulli", rate_at_response_1_hz=2000.0),
            RESPONSE,
            100,
            dt_ms=1,
            generator=generator,
        )


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
    ],
)
def test_impossible_laws_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        law(**changed)


def test_bins_that_do_not_divide_the_trial_are_refused():
    with pytest.raises(ValueError, match="dt_ms = 7 does not divide the trial of 500 ms"):
        draw_counts(law(), RESPONSE, 100, dt_ms=7, generator=np.random.default_rng(0))


def test_ideal_observer_decides_as_scipy_s_likelihood_does():
    response = np.array([[0.9, 0.0, 0.3, 0.3], [0.0, 0.7, 0.3, 0.3], [0.2, 0.2, 0.9, 0.9]])
    counts = np.random.default_rng(3).poisson(15, size=(200, 4))
    grid_s = np.linspace(70, 500, 44) / 1000
    expected = 8 * 0.5 + 96 * response[:, None] * grid_s[:, None]  # (odor, duration, neuron)
    log_likelihood = stats.poisson.logpmf(counts[:, None, None], expected).sum(axis=-1)
    decided = ideal_observer_decisions(counts, law(), response)
    np.testing.assert_array_equal(decided, log_likelihood.max(axis=2).argmax(axis=1))


def test_ideal_observer_names_the_published_284_rows_as_often_as_published(shared_data):
    from neuro.connectome.odors import load_odors
    from neuro.connectome.olfactory_pathway import load_pathway

    odors = load_odors(shared_data / "fly", seed_compat=True)
    cells = load_pathway(shared_data / "fly").cells
    response = odors.drive(cells.orn["door_receptors"])
    generator = np.random.default_rng(4)
    label = np.repeat(np.arange(284), 3)
    counts = np.concatenate(
        [
            draw_counts(
                law(),
                response[odor],
                law().draw_duration_ms(generator),
                dt_ms=500,
                generator=generator,
            )
            for odor in label
        ]
    )
    accuracy = (ideal_observer_decisions(counts, law(), response) == label).mean()
    assert accuracy == pytest.approx(0.958, abs=3 * np.sqrt(2 * 0.958 * 0.042 / 852))


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
