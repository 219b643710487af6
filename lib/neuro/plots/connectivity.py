"""Sparse connections as an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike, NDArray

_N_PIXELS = 400


def assembly_order(assembly: ArrayLike, cell_type: ArrayLike) -> NDArray[np.int64]:
    """Order neurons by assembly, within it by cell type, within that by number.

    Args:
        assembly: of each neuron, -1 for none, which comes last, shape (N,).
        cell_type: of each neuron, as number or name, shape (N,).

    Returns:
        Numbers of the neurons in the order to be drawn, shape (N,).
    """
    member = np.asarray(assembly)
    # lexsort is stable and its last key leads.
    return np.lexsort((np.asarray(cell_type), member, member < 0))


def connectivity_image(
    pre: ArrayLike,
    post: ArrayLike,
    weight: ArrayLike,
    *,
    order_pre: ArrayLike,
    order_post: ArrayLike,
    n_pixels: int = _N_PIXELS,
) -> NDArray[np.float64]:
    """Average weights over pixels, absent edges as zeros, without an N x N array.

    Args:
        pre: presynaptic neuron of each edge, shape (E,).
        post: postsynaptic neuron of each edge, shape (E,).
        weight: of each edge, signed, shape (E,); ones give the connection probability.
        order_pre: presynaptic neurons from top to bottom, a permutation of 0 .. N_pre - 1.
        order_post: postsynaptic neurons from left to right, likewise.
        n_pixels: rows and columns at most; fewer for fewer neurons.

    Returns:
        Sum of the weights over the number of pairs, in each pixel, shape (row, column).
    """
    row, n_rows, rows_each = _pixels(np.asarray(order_pre), n_pixels)
    column, n_columns, columns_each = _pixels(np.asarray(order_post), n_pixels)
    cell = row[np.asarray(pre)] * n_columns + column[np.asarray(post)]
    total = np.bincount(cell, np.asarray(weight, dtype=np.float64), n_rows * n_columns)
    return total.reshape(n_rows, n_columns) / np.outer(rows_each, columns_each)


def draw_connectivity(axes: Axes, image: ArrayLike, *, n_pre: int, n_post: int) -> AxesImage:
    """Draw an image of connections: excitation red, inhibition blue where there is any, none white.

    Args:
        axes: where to draw.
        image: from `connectivity_image`.
        n_pre: neurons from top to bottom.
        n_post: neurons from left to right.

    Returns:
        The image, for a color bar.
    """
    pixels = np.asarray(image)
    # Heavy tails would leave all but a few pixels white.
    limit = float(np.quantile(np.abs(pixels), 0.995)) or float(np.abs(pixels).max()) or 1.0
    signed = bool((pixels < 0).any())
    shown = axes.imshow(
        pixels,
        cmap="RdBu_r" if signed else "Reds",
        norm=Normalize(-limit if signed else 0, limit),
        interpolation="nearest",
        extent=(-0.5, n_post - 0.5, n_pre - 0.5, -0.5),
        aspect="auto",
    )
    axes.set_xlabel("Postsynaptic unit")
    axes.set_ylabel("Presynaptic unit")
    return shown


def _pixels(order: NDArray, n_pixels: int) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """Return each neuron's pixel, the number of pixels, and how many neurons each holds."""
    n_units = len(order)
    count = min(n_pixels, n_units)
    pixel = np.empty(n_units, dtype=np.int64)
    pixel[order] = np.arange(n_units) * count // n_units
    return pixel, count, np.bincount(pixel, minlength=count)
