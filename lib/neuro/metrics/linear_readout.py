"""How well a linear readout of a population predicts a quantity of held-out odors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PENALTIES = tuple(float(power) for power in 10.0 ** np.arange(-4, 4))


class ReadoutScore(NamedTuple):
    """A cross-validated prediction and what chance gives.

    Attributes:
        correlation: of predicted and true values, every odor predicted without having been seen.
        error: standard deviation of that over bootstrap samples of the odors.
        chance: mean correlation when the true values are permuted among the odors.
        chance_95: correlation that 5 % of the permutations exceed.
        p: share of permutations that reach the correlation, the real order counted as one.
        n: odors.
        n_units: that vary between odors.
        predicted: shape (n,).
    """

    correlation: float
    error: float
    chance: float
    chance_95: float
    p: float
    n: int
    n_units: int
    predicted: NDArray[np.float64]


def score_readout(
    response: ArrayLike,
    target: ArrayLike,
    *,
    n_folds: int,
    n_permutations: int,
    generator: np.random.Generator,
) -> ReadoutScore:
    """Predict the target of each odor by ridge regression on all others but its fold.

    Units are scaled by the training odors of each fold, the penalty is chosen among them by their
    leave-one-out error, and permuted targets go through exactly the same, so that the choice is
    part of the chance level. Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634.

    Args:
        response: mean response of each unit, shape (odor, unit).
        target: shape (odor,).
        n_folds: groups of odors that are held out in turn.
        n_permutations: of the targets.
        generator: draws folds, permutations and bootstrap samples.

    Raises:
        ValueError: shapes differ, or there are fewer odors than twice the folds.
    """
    features, truth = np.asarray(response, dtype=np.float64), np.asarray(target, dtype=np.float64)
    n = len(truth)
    if features.ndim != 2 or truth.shape != features.shape[:1] or n < 2 * n_folds or n_folds < 2:
        msg = (
            f"response {features.shape} must be (odor, unit), target {truth.shape} (odor,), with "
            f"at least two odors for each of n_folds = {n_folds!r} >= 2"
        )
        raise ValueError(msg)
    fold = generator.permutation(np.arange(n) % n_folds)
    permuted = [truth[generator.permutation(n)] for _ in range(n_permutations)]
    targets = np.column_stack([truth, *permuted])
    predicted = ridge_predictions(features, targets, fold)
    scores = _correlations(predicted, targets)
    resampled = [generator.integers(0, n, n) for _ in range(n_permutations)]
    spread = [_correlations(predicted[drawn, :1], targets[drawn, :1])[0] for drawn in resampled]
    chance = scores[1:]
    return ReadoutScore(
        correlation=float(scores[0]),
        error=float(np.std(spread, ddof=1)) if n_permutations > 1 else math.nan,
        chance=float(chance.mean()) if n_permutations else math.nan,
        chance_95=float(np.quantile(chance, 0.95)) if n_permutations else math.nan,
        p=float((1 + (chance >= scores[0]).sum()) / (1 + n_permutations)),
        n=n,
        n_units=int((features.std(axis=0) > 0).sum()),
        predicted=predicted[:, 0],
    )


def ridge_predictions(
    features: NDArray[np.float64], targets: NDArray[np.float64], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predict each fold from the others, for many targets at once.

    Args:
        features: shape (n, unit).
        targets: shape (n, K); each column has penalties of its own.
        fold: number of each row's fold, shape (n,).

    Returns:
        Predictions, shape (n, K).
    """
    predicted = np.empty_like(targets)
    for number in np.unique(fold):
        held_out = fold == number
        train, test = _standardize(features[~held_out], features[held_out])
        offset = targets[~held_out].mean(axis=0)
        centered = targets[~held_out] - offset
        predicted[held_out] = offset + _ridge(train @ train.T, test @ train.T, centered)
    return predicted


def _standardize(
    train: NDArray[np.float64], test: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale both by mean and standard deviation of the first; units that never vary become 0."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    scale /= math.sqrt(max(int(np.count_nonzero(scale)), 1))
    return (train - mean) * scale, (test - mean) * scale


def _ridge(
    inner: NDArray[np.float64], outer: NDArray[np.float64], centered: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return predictions with, for each column, the penalty of least leave-one-out error.

    In the eigenbasis of the inner products, prediction k (k + penalty I)^-1 y costs one product a
    penalty. Leaving an odor out changes the mean too: 1 / n in the leverage.
    """
    values, vectors = np.linalg.eigh(inner)
    values = np.clip(values, 0, None)
    projected = vectors.T @ centered
    n = len(inner)
    best = np.full(centered.shape[1], np.inf)
    predicted = np.zeros((len(outer), centered.shape[1]))
    for penalty in PENALTIES:
        shrink = values / (values + penalty * n)
        leverage = (vectors**2) @ shrink + 1 / n
        residual = centered - vectors @ (shrink[:, None] * projected)
        error = ((residual / (1 - leverage)[:, None]) ** 2).sum(axis=0)
        weights = vectors @ (projected / (values + penalty * n)[:, None])
        predicted = np.where(error < best, outer @ weights, predicted)
        best = np.minimum(best, error)
    return predicted


def _correlations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's correlation of each two columns; 0 where one never changes."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)
