"""How near recovered scaling factors came to the true ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def log_factor_correlation(recovered: ArrayLike, true: ArrayLike) -> float:
    """Return Pearson's correlation between the logarithms of recovered and true factors.

    Blind to a common scale, log r = log t + c, and to a common power; `median_relative_error` sees
    both.

    Args:
        recovered: factors > 0, any shape, as everywhere in this file.
        true: the same shape, as everywhere in this file.

    Returns:
        -1 .. 1; NaN when either has fewer than two different values.

    Raises:
        ValueError: the shapes differ, or are empty, or a factor is not positive, as everywhere in
            this file.
    """
    found, truth = (np.log(factors) for factors in _factors(recovered, true))
    if not np.ptp(found) or not np.ptp(truth):
        return math.nan
    return float(np.corrcoef(found, truth)[0, 1])


def median_relative_error(recovered: ArrayLike, true: ArrayLike) -> float:
    """Return the median of |recovered - true| / true, which a few lost factors do not move."""
    found, truth = _factors(recovered, true)
    return float(np.median(np.abs(found - truth) / truth))


def mean_absolute_difference(recovered: ArrayLike, true: ArrayLike) -> float:
    """Return the mean of |recovered - true|."""
    found, truth = _factors(recovered, true)
    return float(np.abs(found - truth).mean())


def _factors(
    recovered: ArrayLike, true: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as checked, flat arrays."""
    found, truth = np.asarray(recovered, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if found.shape != truth.shape or not found.size:
        msg = f"recovered {found.shape} and true {truth.shape} must have one shape, not empty"
        raise ValueError(msg)
    for name, factors in (("recovered", found), ("true", truth)):
        if not (factors > 0).all():
            msg = f"{name} holds {factors.min()!r}; factors must be positive"
            raise ValueError(msg)
    return found.ravel(), truth.ravel()
