"""Values for each pair (presynaptic type, postsynaptic type), given as one number or a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TypePairs = float | Sequence[Sequence[float]]


def type_pair_matrix(
    name: str, value: TypePairs, shape: tuple[int, int], *, most: float = np.inf
) -> NDArray[np.float64]:
    """Return a table [pre type, post type] out of one number or rows of numbers.

    Args:
        name: what the values are called where they come from, for messages.
        value: one number for all pairs, or one row for each presynaptic type.
        shape: number of presynaptic and of postsynaptic types.
        most: the largest value allowed; the least is 0.

    Returns:
        The values, shape `shape`.

    Raises:
        ValueError: the shape does not fit, or a value is not finite or out of range.
    """
    n_pre, n_post = shape
    if isinstance(value, (int, float)):
        matrix = np.full(shape, float(value))
    elif len(value) == n_pre and all(np.ndim(row) and len(row) == n_post for row in value):
        matrix = np.array(value, dtype=float)
    else:
        msg = (
            f"{name} = {value!r} is no table of {n_pre} x {n_post}: give one row for each "
            "presynaptic type with one number for each postsynaptic type, or one number for all"
        )
        raise ValueError(msg)
    outside = ~((matrix >= 0) & (matrix <= most) & np.isfinite(matrix))
    if outside.any():
        upper = "" if np.isinf(most) else f" .. {most:g}"
        msg = f"{name} holds {float(matrix[outside][0])!r}, which is not in 0{upper or ' or above'}"
        raise ValueError(msg)
    return matrix
