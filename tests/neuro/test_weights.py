"""Weights of synthetic connectomes: their moments, factors on them, noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neuro.connectome.perturbation import add_noise, draw_perturbation
from neuro.connectome.weights import WeightLaw, draw_weights

N_DRAWS = 200_000


def seeded(seed=0):
    return np.random.default_rng(seed)


def draw(law, n_draws=N_DRAWS, seed=0):
    """Draw for one pair of types."""
    zeros = np.zeros(n_draws, dtype=np.int64)
    return draw_weights(law, (zeros, zeros), n_types=(1, 1), generator=seeded(seed))


# Oracle: scipy's distributions in their own parameters, worked out by hand for mean 0.4 and
# variance 0.04 (standard deviation 0.2, coefficient of variation 1/2).
ORACLES = {
    "log-normal": stats.lognorm(s=np.sqrt(np.log(1.25)), scale=0.4 / np.sqrt(1.25)),
    "gamma": stats.gamma(a=4, scale=0.1),
    "uniform": stats.uniform(loc=0.4 - 0.2 * np.sqrt(3), scale=0.4 * np.sqrt(3)),
}


@pytest.mark.parametrize("law", ORACLES)
@pytest.mark.parametrize("spread", [{"w_variance": 0.04}, {"w_std": 0.2}])
def test_weights_follow_the_law_with_the_mean_and_spread_asked_for(law, spread):
    oracle = ORACLES[law]
    assert oracle.mean() == pytest.approx(0.4)
    assert oracle.std() == pytest.approx(0.2)
    weights = draw(WeightLaw(law, w_mean=0.4, **spread))
    assert stats.kstest(weights, oracle.cdf).pvalue > 1e-4
    assert weights.mean() == pytest.approx(0.4, abs=5 * 0.2 / np.sqrt(N_DRAWS))
    assert weights.std() == pytest.approx(0.2, rel=0.02)
    assert weights.min() >= 0


def test_variance_of_heavy_tails_is_that_of_the_weights_and_not_of_their_logarithm():
    # The published case: mean 0.05, variance 0.1 make sigma^2 = ln(1 + 0.1 / 0.05^2) = 3.71.
    logarithm = np.log(draw(WeightLaw("log-normal", w_mean=0.05, w_variance=0.1)))
    assert logarithm.var() == pytest.approx(3.7136, rel=0.02)
    assert logarithm.mean() == pytest.approx(np.log(0.05) - 3.7136 / 2, abs=0.03)


def test_each_pair_of_types_has_its_own_mean_and_spread():
    law = WeightLaw("gamma", w_mean=[[0.1, 0.5], [2.0, 4.0]], w_std=[[0.05, 0.5], [0.1, 1.0]])
    pre = np.repeat([0, 0, 1, 1], 50_000)
    post = np.tile(np.repeat([0, 1], 50_000), 2)
    weights = draw_weights(law, (pre, post), n_types=(2, 2), generator=seeded())
    blocks = weights.reshape(2, 2, 50_000)
    np.testing.assert_allclose(blocks.mean(axis=2), [[0.1, 0.5], [2.0, 4.0]], rtol=0.03)
    np.testing.assert_allclose(blocks.std(axis=2), [[0.05, 0.5], [0.1, 1.0]], rtol=0.03)


@pytest.mark.parametrize("law", ORACLES)
def test_weights_without_spread_are_their_mean(law):
    np.testing.assert_allclose(draw(WeightLaw(law, w_mean=0.4, w_std=0.0), n_draws=10), 0.4)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"law": "normal"}, "'normal' is none of 'log-normal', 'gamma', 'uniform'"),
        ({"w_std": 0.2}, "and not both"),
        ({"w_variance": None}, "give the variance or the standard deviation"),
        ({"w_mean": 0.0}, "a mean weight of 0.0 is not positive"),
        ({"w_mean": -1.0}, "w_mean holds -1.0, which is not in 0 or above"),
        ({"w_variance": -0.1}, "w_variance holds -0.1"),
        ({"w_mean": [[0.1, 0.2]]}, "w_mean = .* is no table of 1 x 1"),
        ({"law": "uniform", "w_variance": 0.1}, "has negative weights"),
    ],
)
def test_impossible_weights_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        draw(WeightLaw(**{"law": "log-normal", "w_mean": 0.4, "w_variance": 0.04} | table))


def test_perturbation_has_mean_one_the_variance_asked_for_and_is_undone_by_its_target():
    perturbation = draw_perturbation(N_DRAWS, variance=0.1, generator=seeded())
    # Oracle: ln SF ~ N(-s^2 / 2, s^2), s^2 = ln 1.1; then ln of the target has mean +s^2 / 2.
    law = stats.lognorm(s=np.sqrt(np.log(1.1)), scale=1 / np.sqrt(1.1))
    assert law.mean() == pytest.approx(1)
    assert law.var() == pytest.approx(0.1)
    assert stats.kstest(perturbation.factor, law.cdf).pvalue > 1e-4
    np.testing.assert_allclose(perturbation.factor * perturbation.target, 1)
    assert np.log(perturbation.target).mean() == pytest.approx(np.log(1.1) / 2, abs=0.005)


def test_perturbation_is_one_factor_a_pair_of_types_spread_over_edges_by_type():
    perturbation = draw_perturbation((2, 2), variance=0.5, generator=seeded())
    pre, post = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    per_edge = perturbation.factor[pre, post]
    (a, b), (c, d) = perturbation.factor
    np.testing.assert_array_equal(per_edge, [a, c, d, b])
    assert len(set(per_edge.tolist())) == 4


def test_perturbation_without_variance_changes_nothing_and_negative_variance_is_refused():
    np.testing.assert_array_equal(
        draw_perturbation((3, 2), variance=0.0, generator=seeded()).factor, np.ones((3, 2))
    )
    with pytest.raises(ValueError, match="variance = -1"):
        draw_perturbation(3, variance=-1, generator=seeded())


@settings(max_examples=40, deadline=None)
@given(
    noise_fraction=st.floats(0.01, 0.6),
    spread=st.floats(0.1, 6.0),
    seed=st.integers(0, 2**32),
)
def test_noisy_weights_keep_mean_and_spread_and_are_never_negative(noise_fraction, spread, seed):
    law = WeightLaw("log-normal", w_mean=0.05, w_std=0.05 * spread)
    weights = draw(law, n_draws=2_000, seed=seed)
    weights[::7] = 0.0
    noisy = add_noise(weights, noise_fraction=noise_fraction, generator=seeded(seed + 1))
    assert noisy.min() >= 0
    assert not noisy[::7].any()
    kept, before = noisy[noisy > 0], weights[weights > 0]
    assert kept.mean() == pytest.approx(before.mean(), rel=1e-9)
    assert kept.std() == pytest.approx(before.std(), rel=1e-6)
    assert not np.array_equal(noisy, weights)


def test_noise_is_as_large_as_asked_for():
    # Weights that vary a lot are hardly rescaled: what is left is the noise itself.
    weights = draw(WeightLaw("uniform", w_mean=1.0, w_std=0.5), n_draws=N_DRAWS)
    noisy = add_noise(weights, noise_fraction=0.05, generator=seeded(1))
    assert np.std(noisy / weights) == pytest.approx(0.05, rel=0.1)


def test_weights_whose_factor_is_cut_off_become_zero_as_often_as_the_normal_law_says():
    weights = draw(WeightLaw("gamma", w_mean=1.0, w_std=0.5))
    noisy = add_noise(weights, noise_fraction=0.4, generator=seeded(1))
    share = stats.norm.cdf(-1 / 0.4)
    lowest, highest = stats.binom.interval(1 - 1e-6, N_DRAWS, share)
    assert lowest <= (noisy == 0).sum() <= highest


def test_an_affine_rescale_would_make_weights_negative_where_this_one_does_not():
    # The largest weight loses by chance, so that all others must be spread further apart.
    weights = np.array([0.001, 0.01, 0.1, 0.2, 5.0])
    for seed in range(40):
        noisy = weights * np.maximum(0, 1 + 0.4 * seeded(seed).standard_normal(5))
        scale = weights.std() / noisy.std()
        affine = weights.mean() + scale * (noisy - noisy.mean())
        if affine.min() < 0:
            break
    else:
        pytest.fail("no seed shows the fault")
    kept = add_noise(weights, noise_fraction=0.4, generator=seeded(seed))
    assert kept.min() > 0
    assert kept.std() == pytest.approx(weights.std(), rel=1e-6)


def test_noise_keeps_the_type_and_no_noise_keeps_the_bits():
    weights = draw(WeightLaw("gamma", w_mean=1.0, w_std=0.5), n_draws=100).astype(np.float32)
    assert add_noise(weights, noise_fraction=0.2, generator=seeded()).dtype == np.float32
    np.testing.assert_array_equal(
        add_noise(weights, noise_fraction=0.0, generator=seeded()), weights
    )


@pytest.mark.parametrize(
    ("weights", "noise_fraction", "message"),
    [
        ([1.0, 2.0], -0.1, "noise_fraction = -0.1"),
        ([1.0, -2.0], 0.1, "all weights must be >= 0"),
        ([2.0, 2.0, 2.0], 0.1, "all of the 3 non-zero weights are equal"),
        ([0.0, 0.0], 0.1, "all of the 0 non-zero weights are equal"),
    ],
)
def test_noise_that_cannot_be_added_is_refused(weights, noise_fraction, message):
    with pytest.raises(ValueError, match=message):
        add_noise(np.array(weights), noise_fraction=noise_fraction, generator=seeded())


def test_noise_that_leaves_too_few_weights_is_refused():
    # At this noise nearly half of the weights vanish; some seed leaves one, which has no spread.
    for seed in range(50):
        if (1 + 50 * seeded(seed).standard_normal(2) > 0).sum() == 1:
            break
    with pytest.raises(ValueError, match="1 noisy weights cannot have the mean"):
        add_noise(np.array([1.0, 2.0]), noise_fraction=50.0, generator=seeded(seed))
