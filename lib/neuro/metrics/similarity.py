"""How alike a population's responses to odors are, and how many directions they spread over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.metrics.estimate import NOTHING, Estimate, jackknife

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Correlations and ratios of fewer odors say nothing.
_LEAST_ODORS = 3


class OdorMeans(NamedTuple):
    """Responses averaged over the trials of each odor.

    Attributes:
        label: odors that were presented, rising, shape (odor,).
        n_trials: of each, shape (odor,).
        response: spikes in a trial, shape (odor, unit).
    """

    label: NDArray[np.int64]
    n_trials: NDArray[np.int64]
    response: NDArray[np.float64]


def mean_by_odor(counts: ArrayLike, label: ArrayLike) -> OdorMeans:
    """Average the responses of each odor's trials.

    Args:
        counts: spikes, shape (trial, unit).
        label: of each trial's odor, shape (trial,).

    Raises:
        ValueError: there is not one label a trial.
    """
    spikes, odor = np.asarray(counts), np.asarray(label)
    if spikes.ndim != 2 or odor.shape != spikes.shape[:1]:
        msg = f"counts {spikes.shape} must be (trial, unit) and label {odor.shape} (trial,)"
        raise ValueError(msg)
    present, start, n_trials = np.unique(np.sort(odor), return_index=True, return_counts=True)
    in_order = spikes[np.argsort(odor, kind="stable")]
    if not len(present):
        return OdorMeans(present, n_trials, np.zeros((0, spikes.shape[1])))
    total = np.add.reduceat(in_order, start, axis=0, dtype=np.float64)
    return OdorMeans(present, n_trials, total / n_trials[:, None])


def correlation_matrix(response: ArrayLike) -> NDArray[np.float64]:
    """Return Pearson's correlation of the population vectors of each two odors.

    Args:
        response: shape (odor, unit).

    Returns:
        Shape (odor, odor); NaN in rows and columns of odors to which all units respond alike, as by
        silence.
    """
    values = np.asarray(response, dtype=np.float64)
    centered = values - values.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centered, axis=1)
    # Rounding leaves something of a response that is the same everywhere.
    flat = norm <= 1e-12 * np.linalg.norm(values, axis=1)
    unit = centered / np.where(flat, np.nan, norm)[:, None]
    return np.clip(unit @ unit.T, -1, 1)


def odor_pair_correlation(response: ArrayLike) -> Estimate:
    """Return the mean correlation of two different odors; the error leaves out each odor in turn.

    Args:
        response: shape (odor, unit).

    Returns:
        n counts the odors that correlate with anything.
    """
    matrix = correlation_matrix(response)
    defined = ~np.isnan(np.diag(matrix))
    matrix = matrix[np.ix_(defined, defined)]
    n = len(matrix)
    if n < _LEAST_ODORS:
        return NOTHING
    np.fill_diagonal(matrix, 0)
    row = matrix.sum(axis=1)
    total = row.sum()
    return jackknife(total / (n * (n - 1)), (total - 2 * row) / ((n - 1) * (n - 2)))


def participation_ratio(response: ArrayLike) -> Estimate:
    """Return how many directions the responses to all odors spread over.

        (sum of eigenvalues)^2 / sum of squared eigenvalues of the covariance over odors

    1: all responses on one line; at most the smaller of odors - 1 and units, when all directions
    hold equal variance, as after whitening. Abbott, Rajan and Sompolinsky 2011, arXiv:0912.3832.

    Args:
        response: shape (odor, unit).

    Returns:
        n counts the odors; the error leaves out each in turn. Nothing where all respond alike.
    """
    values = np.asarray(response, dtype=np.float64)
    n = len(values)
    if n < _LEAST_ODORS:
        return NOTHING
    values = values - values.mean(axis=0)
    # The covariance over units and this matrix over odors have the same eigenvalues.
    gram = values @ values.T
    norm, squared = np.diag(gram), (gram**2).sum(axis=0)
    if not squared.sum() > 0:
        return NOTHING
    # Leaving out odor i takes c x_i x_i^T off the scatter matrix, c = n / (n - 1).
    c = n / (n - 1)
    left = squared.sum() - 2 * c * squared + (c * norm) ** 2
    # Of odors that all but one are alike, nothing is left.
    ratio = np.where(left > 1e-12 * squared.sum(), (norm.sum() - c * norm) ** 2, np.nan)
    return jackknife(float(norm.sum() ** 2 / squared.sum()), ratio / np.where(left > 0, left, 1))
