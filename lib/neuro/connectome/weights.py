"""Strengths of synapses, drawn from a distribution of given mean and spread.

Strengths are >= 0 and without unit (multiples of a synapse's peak conductance); the sign of a
synapse is its type's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuro.connectome.type_pairs import type_pair_matrix

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from neuro.connectome.type_pairs import TypePairs


@dataclass(frozen=True)
class WeightLaw:
    """The distribution of weights for each pair of types.

    Mean and spread are those of the weights themselves in every law, not of their logarithm.

    Attributes:
        law: "log-normal", "gamma" or "uniform".
        w_mean: mean weight, > 0, [pre type][post type] or one number for all.
        w_variance: variance of the weights, >= 0, likewise.
        w_std: standard deviation of the weights, >= 0, likewise; give this or `w_variance`.
    """

    law: str
    w_mean: TypePairs
    w_variance: TypePairs | None = None
    w_std: TypePairs | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown law and a spread that is missing or given twice.

        Raises:
            ValueError: so it is.
        """
        if self.law not in LAWS:
            msg = f"law = {self.law!r} is none of {', '.join(map(repr, LAWS))}"
            raise ValueError(msg)
        if (self.w_variance is None) == (self.w_std is None):
            msg = (
                f"w_variance = {self.w_variance!r} and w_std = {self.w_std!r}: give the variance "
                "or the standard deviation of the weights, and not both"
            )
            raise ValueError(msg)

    def moments(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation as tables [pre type, post type].

        Args:
            shape: number of presynaptic and of postsynaptic types.

        Raises:
            ValueError: a table has another shape or a value out of range.
        """
        mean = type_pair_matrix("w_mean", self.w_mean, shape)
        if self.w_std is not None:
            return mean, type_pair_matrix("w_std", self.w_std, shape)
        return mean, np.sqrt(type_pair_matrix("w_variance", self.w_variance or 0.0, shape))


def draw_weights(
    law: WeightLaw,
    type_pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    n_types: tuple[int, int],
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw a weight for each edge, from the law of its pair of types.

    Args:
        law: the distribution.
        type_pairs: type of the presynaptic and of the postsynaptic cell of each edge, shape (E,).
        n_types: number of presynaptic and of postsynaptic types.
        generator: source of the randomness.

    Returns:
        Weights, >= 0, shape (E,).

    Raises:
        ValueError: mean and spread cannot be had from this law; see `WeightLaw`.
    """
    mean, std = law.moments(n_types)
    return LAWS[law.law](mean[type_pairs], std[type_pairs], generator)


def log_normal(
    mean: NDArray[np.float64], std: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw from log-normal distributions: ln w ~ N(ln mean - s^2 / 2, s^2).

    With s^2 = ln(1 + (std / mean)^2) this gives w that mean and standard deviation.

    Args:
        mean: of w, > 0.
        std: of w, >= 0, the shape of `mean`.
        generator: source of the randomness.

    Returns:
        One draw for each mean.

    Raises:
        ValueError: a mean is not positive.
    """
    _check_mean(mean)
    variance_of_log = np.log1p((std / mean) ** 2)
    return generator.lognormal(np.log(mean) - variance_of_log / 2, np.sqrt(variance_of_log))


def gamma(
    mean: NDArray[np.float64], std: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw from gamma distributions of shape (mean / std)^2 and scale std^2 / mean.

    Args, returns and errors are those of `log_normal`; std = 0 gives the mean.
    """
    _check_mean(mean)
    spread = np.where(std > 0, std, 1.0)
    drawn = generator.gamma((mean / spread) ** 2, spread**2 / mean)
    return np.where(std > 0, drawn, mean)


def uniform(
    mean: NDArray[np.float64], std: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw from uniform distributions between mean - sqrt(3) std and mean + sqrt(3) std.

    Args, returns and errors are those of `log_normal`.

    Raises:
        ValueError: the lower bound is negative.
    """
    _check_mean(mean)
    half_width = np.sqrt(3) * std
    if (half_width > mean * (1 + 1e-12)).any():
        worst = int(np.argmax(half_width - mean))
        msg = (
            f"law = 'uniform' with mean {float(mean.flat[worst])!r} and standard deviation "
            f"{float(std.flat[worst])!r} has negative weights: the standard deviation may be at "
            "most mean / sqrt(3); lower it, or use 'gamma' or 'log-normal'"
        )
        raise ValueError(msg)
    return generator.uniform(np.maximum(mean - half_width, 0), mean + half_width)


LAWS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "log-normal": log_normal,
    "gamma": gamma,
    "uniform": uniform,
}


def _check_mean(mean: NDArray[np.float64]) -> None:
    if not (mean > 0).all():
        msg = f"a mean weight of {float(mean.min())!r} is not positive"
        raise ValueError(msg)
