"""Recovered against true scaling factors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from neuro.metrics.recovery import (
    log_factor_correlation,
    mean_absolute_difference,
    median_relative_error,
)


@pytest.fixture
def factors():
    """Recovered and true factors, shape (2, 3), 20 % apart by a log-normal error."""
    generator = np.random.default_rng(0)
    true = generator.lognormal(0, 0.5, (2, 3))
    return true * generator.lognormal(0, 0.2, (2, 3)), true


def test_metrics_are_those_of_scipy_and_numpy(factors):
    recovered, true = factors
    expected = pearsonr(np.log(recovered.ravel()), np.log(true.ravel())).statistic
    assert log_factor_correlation(recovered, true) == pytest.approx(expected, rel=1e-12)
    assert median_relative_error(recovered, true) == np.median(abs(recovered - true) / true)
    assert mean_absolute_difference(recovered, true) == pytest.approx(
        np.mean(abs(recovered - true))
    )


def test_perfect_recovery(factors):
    _, true = factors
    assert log_factor_correlation(true, true) == pytest.approx(1)
    assert median_relative_error(true, true) == mean_absolute_difference(true, true) == 0


def test_correlation_is_blind_to_scale_and_the_error_is_not(factors):
    _, true = factors
    assert log_factor_correlation(3 * true, true) == pytest.approx(1)
    assert log_factor_correlation(1 / true, true) == pytest.approx(-1)
    assert median_relative_error(3 * true, true) == pytest.approx(2)


def test_equal_factors_have_no_correlation(factors):
    _, true = factors
    assert np.isnan(log_factor_correlation(np.full((2, 3), 0.7), true))


def test_factors_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"recovered \(2,\) and true \(3,\)"):
        median_relative_error([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"true holds .*-1\.0.*; factors must be positive"):
        log_factor_correlation([1, 2], [1, -1])
    with pytest.raises(ValueError, match="recovered holds .*nan"):
        mean_absolute_difference([1, np.nan], [1, 1])
