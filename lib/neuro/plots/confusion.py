"""Confusion matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

# Above this share of its row a cell is so dark that its number must be light.
_DARK = 0.5


def count_confusions(
    targets: ArrayLike, predictions: ArrayLike, *, n_classes: int
) -> NDArray[np.int64]:
    """Count how often each class was taken for each.

    Args:
        targets: true classes, 0 .. n_classes - 1, shape (trial,).
        predictions: decided classes, the same range and shape.
        n_classes: number of classes C; a slice of the data cannot know it.

    Returns:
        Counts, shape (C, C); row = true class, column = decided class.

    Raises:
        ValueError: the shapes differ, or a class lies outside the range.
    """
    true, decided = np.asarray(targets), np.asarray(predictions)
    if true.shape != decided.shape or true.ndim != 1:
        msg = f"targets {true.shape} and predictions {decided.shape} must have one shape (trial,)"
        raise ValueError(msg)
    for name, classes in (("targets", true), ("predictions", decided)):
        if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
            msg = f"{name} spans {classes.min()} .. {classes.max()}, outside 0 .. {n_classes - 1}"
            raise ValueError(msg)
    cells = np.bincount(true * n_classes + decided, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def draw_confusion(axes: Axes, counts: ArrayLike, *, labels: Sequence[str]) -> None:
    """Draw counts in cells that are shaded by their share of the true class.

    Args:
        axes: where to draw.
        counts: trials, shape (C, C); row = true class, column = decided class.
        labels: names of the C classes.
    """
    trials = np.asarray(counts)
    share = trials / np.maximum(trials.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(trials):
        if count:
            color = "white" if share[row, column] > _DARK else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, size=7)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("Decided class")
    axes.set_ylabel("True class")
