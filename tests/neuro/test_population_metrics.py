"""Sparseness, similarity and readouts of a population, against closed forms and other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from neuro.metrics import activity, estimate, linear_readout, similarity
from neuro.metrics.group_activity import measure_group, measure_groups


@pytest.fixture
def generator():
    return np.random.default_rng(20)


def test_response_to_one_of_n_stimuli_has_sparseness_one_minus_one_over_n():
    rates = np.diag([3.0, 1.0, 0.5, 7.0])
    np.testing.assert_allclose(activity.sparseness(rates, axis=0), 0.75)
    np.testing.assert_allclose(activity.sparseness(rates, axis=1), 0.75)


def test_equal_responses_have_no_sparseness_and_silence_none_at_all():
    rates = np.array([[2.0, 0.0], [2.0, 0.0]])
    lifetime = activity.sparseness(rates, axis=0)
    assert lifetime[0] == 0
    assert math.isnan(lifetime[1])
    np.testing.assert_allclose(activity.sparseness(rates, axis=1), 0.5)
    assert activity.lifetime_sparseness(rates) == 0
    assert activity.population_sparseness(rates) == pytest.approx(0.5)
    assert math.isnan(activity.population_sparseness(np.zeros((3, 2))))


def test_poisson_counts_have_the_sparseness_of_their_moments(generator):
    # <r^2> = m + m^2, so S = 1 - m^2 / (m + m^2) = 1 / (1 + m).
    counts = generator.poisson(1.5, (200_000, 2))
    np.testing.assert_allclose(activity.sparseness(counts, axis=0), 1 / 2.5, atol=0.005)


def test_share_and_mean_have_the_textbook_errors(generator):
    hits = np.array([True] * 30 + [False] * 70)
    assert estimate.share(hits) == pytest.approx((0.3, math.sqrt(0.3 * 0.7 / 100), 100))
    values = generator.normal(size=50)
    found = estimate.mean_of([*values, np.nan])
    assert found == pytest.approx((values.mean(), stats.sem(values), 50))
    assert math.isnan(estimate.mean_of([1.0]).error)
    assert estimate.mean_of([np.nan]).n == 0


def test_jackknife_of_a_mean_is_its_standard_error(generator):
    values = generator.exponential(size=40)
    without = [np.delete(values, i).mean() for i in range(40)]
    found = estimate.jackknife(values.mean(), without)
    assert found == pytest.approx((values.mean(), stats.sem(values), 40))


def test_clustered_error_is_the_usual_one_for_single_trials_and_of_cluster_means_for_copies(
    generator,
):
    values = generator.normal(size=30)
    assert estimate.clustered_mean(values, range(30)) == pytest.approx(
        (values.mean(), stats.sem(values), 30)
    )
    # Repeating every observation five times adds no knowledge.
    copies = estimate.clustered_mean(np.repeat(values, 5), np.repeat(np.arange(30), 5))
    assert copies == pytest.approx((values.mean(), stats.sem(values), 30))


def test_responses_are_averaged_odor_by_odor():
    counts = np.array([[1, 0], [5, 4], [3, 2]], dtype=np.uint16)
    means = similarity.mean_by_odor(counts, [7, 2, 7])
    np.testing.assert_array_equal(means.label, [2, 7])
    np.testing.assert_array_equal(means.n_trials, [1, 2])
    np.testing.assert_array_equal(means.response, [[5, 4], [2, 1]])
    with pytest.raises(ValueError, match=r"counts \(3, 2\) must be"):
        similarity.mean_by_odor(counts, [1, 2])


def test_averaging_many_small_counts_does_not_overflow():
    counts = np.full((300, 1), 250, dtype=np.uint8)
    assert similarity.mean_by_odor(counts, np.zeros(300, int)).response.item() == 250


def test_correlation_matrix_is_numpys_and_says_nothing_of_flat_responses(generator):
    response = generator.random((6, 40))
    response[3] = 0.1
    matrix = similarity.correlation_matrix(response)
    kept = [0, 1, 2, 4, 5]
    np.testing.assert_allclose(matrix[np.ix_(kept, kept)], np.corrcoef(response[kept]))
    assert np.isnan(matrix[3]).all()
    assert np.isnan(matrix[:, 3]).all()


def test_pair_correlation_is_the_mean_over_pairs_with_the_error_of_leaving_odors_out(generator):
    response = generator.random((12, 30)) + generator.random(30)

    def mean_over_pairs(values):
        return np.corrcoef(values)[np.triu_indices(len(values), 1)].mean()

    without = [mean_over_pairs(np.delete(response, i, axis=0)) for i in range(12)]
    found = similarity.odor_pair_correlation(response)
    expected = math.sqrt(11 / 12 * np.sum((without - np.mean(without)) ** 2))
    assert found == pytest.approx((mean_over_pairs(response), expected, 12))
    assert found.value == pytest.approx(activity.pair_correlation(response))


def test_participation_ratio_counts_equal_directions():
    # Odors at the corners of an octahedron: 3 axes of equal variance, whatever the 50 units are.
    corners = np.vstack([np.eye(3), -np.eye(3)])
    rotation = stats.ortho_group.rvs(50, random_state=1)[:3]
    assert similarity.participation_ratio(corners @ rotation).value == pytest.approx(3)
    line = np.outer(np.arange(5.0), np.ones(4))
    assert similarity.participation_ratio(line) == pytest.approx((1, 0, 5))


def test_participation_ratio_is_that_of_the_covariances_eigenvalues(generator):
    response = generator.random((15, 8)) * np.arange(1, 9)

    def ratio(values):
        eigenvalues = np.linalg.eigvalsh(np.cov(values.T))
        return eigenvalues.sum() ** 2 / (eigenvalues**2).sum()

    without = [ratio(np.delete(response, i, axis=0)) for i in range(15)]
    expected = math.sqrt(14 / 15 * np.sum((without - np.mean(without)) ** 2))
    assert similarity.participation_ratio(response) == pytest.approx(
        (ratio(response), expected, 15)
    )


@pytest.mark.parametrize("response", [np.zeros((9, 4)), np.eye(2)])
def test_what_cannot_be_measured_is_nan_and_not_zero(response):
    found = similarity.participation_ratio(response)
    assert math.isnan(found.value)
    assert found.n == 0


def test_groups_are_measured_apart_and_in_physical_units(generator):
    label = np.repeat(np.arange(5), 4)
    counts = generator.poisson(2.0, (20, 6)).astype(np.uint16)
    counts[:, 4:] = 0
    silent, busy = measure_groups(counts, label, ["b"] * 4 + ["a"] * 2, trial_ms=500)
    assert (silent.group, silent.n_units, silent.n_trials) == ("a", 2, 20)
    assert silent.active_fraction[:2] == (0, 0)
    assert math.isnan(silent.lifetime_sparseness.value)
    assert (busy.group, busy.n_units) == ("b", 4)
    assert busy.rate_hz.value == pytest.approx(counts[:, :4].mean() / 0.5)
    assert busy.active_fraction.value == pytest.approx((counts[:, :4] > 0).mean())
    assert busy.active_fraction.n == 5
    means = counts[:, :4].reshape(5, 4, 4).mean(axis=1)
    assert busy.lifetime_sparseness.value == pytest.approx(activity.lifetime_sparseness(means))
    assert busy.population_sparseness.value == pytest.approx(activity.population_sparseness(means))
    assert busy == measure_group("b", counts[:, :4], label, trial_ms=500)


def test_a_group_for_each_unit_is_asked_for():
    with pytest.raises(ValueError, match="groups names 2 units, counts has 3"):
        measure_groups(np.zeros((4, 3)), np.arange(4), ["a", "b"], trial_ms=500)


def ridge_by_hand(features, target, fold, penalties):
    """Every fold by scikit-learn, the penalty by a loop that leaves out each training odor."""
    predicted = np.empty_like(target)
    for number in np.unique(fold):
        train = fold != number
        mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
        scaled = (features - mean) / spread / math.sqrt(features.shape[1])
        x, y = scaled[train], target[train]
        errors = []
        for penalty in penalties:
            left_out = [
                y[i]
                - Ridge(alpha=penalty * len(y))
                .fit(np.delete(x, i, axis=0), np.delete(y, i))
                .predict(x[i : i + 1])[0]
                for i in range(len(y))
            ]
            errors.append(np.sum(np.square(left_out)))
        best = penalties[int(np.argmin(errors))]
        model = Ridge(alpha=best * len(y)).fit(x, y)
        predicted[~train] = model.predict(scaled[~train])
    return predicted


def test_readout_equals_scikit_learns_ridge_with_a_penalty_found_by_leaving_one_out(
    generator, monkeypatch
):
    monkeypatch.setattr(linear_readout, "PENALTIES", (1e-3, 1e-2, 1e-1, 1.0))
    features = generator.random((18, 7))
    target = features @ generator.normal(size=7) + 0.3 * generator.normal(size=18)
    fold = np.arange(18) % 3
    found = linear_readout.ridge_predictions(features, target[:, None], fold)[:, 0]
    expected = ridge_by_hand(features, target, fold, linear_readout.PENALTIES)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_readout_finds_what_is_there_and_nothing_in_noise(generator):
    features = generator.normal(size=(60, 40))
    signal = features[:, :3].sum(axis=1)
    options = {"n_folds": 10, "n_permutations": 99}
    found = linear_readout.score_readout(
        features, signal, generator=np.random.default_rng(0), **options
    )
    assert found.correlation > 0.5
    assert found.p == pytest.approx(0.01)
    assert found.chance_95 < 0.4
    assert 0 < found.error < 0.2
    noise = linear_readout.score_readout(
        features, generator.normal(size=60), generator=np.random.default_rng(0), **options
    )
    assert noise.p > 0.05
    assert (noise.n, noise.n_units) == (60, 40)


def test_p_values_of_pure_noise_are_not_too_small():
    # 60 independent tests at 10 %: more than 13 hits have probability 0.5 % (binomial).
    hits = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        found = linear_readout.score_readout(
            generator.normal(size=(20, 5)),
            generator.normal(size=20),
            n_folds=5,
            n_permutations=39,
            generator=generator,
        )
        hits += found.p <= 0.1
    assert hits <= stats.binom.isf(0.005, 60, 0.1)


def test_units_that_never_vary_change_no_prediction(generator):
    features, target = generator.normal(size=(20, 6)), generator.normal(size=(20, 1))
    fold = np.arange(20) % 4
    alone = linear_readout.ridge_predictions(features, target, fold)
    padded = np.hstack([features, np.full((20, 6), 3.0)])
    both = linear_readout.ridge_predictions(padded, target, fold)
    np.testing.assert_allclose(both, alone)


def test_readout_refuses_too_few_odors():
    with pytest.raises(ValueError, match="at least two odors for each of n_folds = 5"):
        linear_readout.score_readout(
            np.zeros((8, 2)),
            np.zeros(8),
            n_folds=5,
            n_permutations=9,
            generator=np.random.default_rng(0),
        )
