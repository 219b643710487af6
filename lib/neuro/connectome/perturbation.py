"""Weights made wrong: by factors that a student is to find, and by noise that it has to bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import optimize, special

from neuro.connectome.weights import log_normal

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_EXPONENT = 1e3


class Perturbation(NamedTuple):
    """Factors on weights and what undoes them, of one shape.

    Attributes:
        factor: the weights are multiplied by it before the student gets them.
        target: 1 / factor: the scaling factors that the student is to find.
    """

    factor: NDArray[np.float64]
    target: NDArray[np.float64]


def draw_perturbation(
    shape: int | tuple[int, ...], *, variance: float, generator: np.random.Generator
) -> Perturbation:
    """Draw log-normal factors of mean 1.

    Args:
        shape: (pre types, post types) for one factor a pair of types, which is what students with
            scaling factors find; the number of edges for one factor a synapse.
        variance: of the factors, >= 0; with 0 all are 1.
        generator: source of the randomness.

    Returns:
        The factors and their inverses.

    Raises:
        ValueError: the variance is negative or not finite.
    """
    if not 0 <= variance < np.inf:
        msg = f"variance = {variance!r} is no finite number >= 0"
        raise ValueError(msg)
    factor = log_normal(np.ones(shape), np.full(shape, np.sqrt(variance)), generator)
    return Perturbation(factor, 1 / factor)


def add_noise(
    weights: NDArray[np.floating], *, noise_fraction: float, generator: np.random.Generator
) -> NDArray[np.floating]:
    """Multiply each weight with max(0, 1 + noise_fraction * N(0, 1)), then restore the moments.

    Weights whose factor is 0 become and stay 0. The others are raised to a power and multiplied,
    w -> c w^g with g > 0, so that their mean and standard deviation are those of the non-zero
    weights before. Unlike the affine w -> a w + b, which does the same to the moments, this keeps
    every weight >= 0, keeps 0 at 0, and keeps a log-normal distribution log-normal. The order of
    the noisy weights is kept. Without noise the weights come back as they are.

    Args:
        weights: >= 0, shape (E,).
        noise_fraction: standard deviation of the noise, relative to each weight, >= 0.
        generator: source of the randomness.

    Returns:
        Noisy weights, >= 0, in the shape and type of `weights`.

    Raises:
        ValueError: `noise_fraction` or a weight is negative, all weights are equal (to restore
            their spread would undo the noise), or too few are left to have that spread.
    """
    if not 0 <= noise_fraction < np.inf or not (weights >= 0).all():
        msg = f"noise_fraction = {noise_fraction!r} and all weights must be >= 0"
        raise ValueError(msg)
    if noise_fraction == 0:
        return weights.copy()
    exact = weights.astype(float)
    factor = np.maximum(0, 1 + noise_fraction * generator.standard_normal(weights.shape))
    noisy, before = exact * factor, exact[exact > 0]
    left = noisy > 0
    if not before.size or before.std() == 0:
        msg = f"all of the {before.size} non-zero weights are equal: their spread cannot be kept"
        raise ValueError(msg)
    noisy[left] = _with_moments(noisy[left], before.mean(), before.std())
    return noisy.astype(weights.dtype)


def _with_moments(values: NDArray[np.float64], mean: float, std: float) -> NDArray[np.float64]:
    """Return c values^g of this mean and standard deviation; values > 0.

    The coefficient of variation of values^g grows with g from 0, so that one g gives it.
    """
    log_values = np.log(values)
    wanted = np.log1p((std / mean) ** 2)

    def excess(exponent: float) -> float:
        # ln(1 + CV^2) = ln E[v^2g] - 2 ln E[v^g], without overflow.
        second = special.logsumexp(2 * exponent * log_values)
        first = special.logsumexp(exponent * log_values)
        return float(second - 2 * first + np.log(len(values)) - wanted)

    highest = 2.0
    while values.size and excess(highest) < 0 and highest < MAX_EXPONENT:
        highest *= 2
    if not values.size or excess(highest) < 0:
        msg = (
            f"{values.size} noisy weights cannot have the mean {mean:g} and standard deviation "
            f"{std:g} of the weights without noise; lower noise_fraction"
        )
        raise ValueError(msg)
    exponent = optimize.brentq(excess, 0.0, highest, xtol=1e-14)
    powers = np.exp(exponent * (log_values - log_values.max()))
    return powers * (mean / powers.mean())
