"""Scaling factors: recovered against true, and on their way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from numpy.typing import ArrayLike


def draw_recovery(
    axes: Axes,
    true: ArrayLike,
    recovered: ArrayLike,
    *,
    start: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Draw recovered against true factors on logarithmic axes, beside the line of equality.

    Args:
        axes: where to draw.
        true: factors > 0, any shape.
        recovered: factors > 0, the same shape.
        start: factors before training, the same shape; hollow, with an arrow to the recovered one.
        labels: names of the factors, such as "E to I", as many.

    Raises:
        ValueError: the shapes differ.
    """
    truth, found = np.asarray(true, dtype=np.float64), np.asarray(recovered, dtype=np.float64)
    before = found if start is None else np.asarray(start, dtype=np.float64)
    if not truth.shape == found.shape == before.shape:
        msg = f"true {truth.shape}, recovered {found.shape} and start {before.shape} must be alike"
        raise ValueError(msg)
    truth, found, before = truth.ravel(), found.ravel(), before.ravel()
    values = np.concatenate([truth, found, before])
    span = (values.min() / 1.2, values.max() * 1.2)
    axes.plot(span, span, color="gray", linestyle="--", linewidth=0.8, label="equal")
    if start is not None:
        axes.plot(
            truth, before, "o", color="tab:gray", fillstyle="none", markersize=4, label="start"
        )
        for x, y_from, y_to in zip(truth, before, found, strict=True):
            axes.annotate(
                "",
                (x, y_to),
                (x, y_from),
                arrowprops={"arrowstyle": "->", "color": "tab:gray", "linewidth": 0.5},
            )
    axes.plot(truth, found, "o", color="tab:blue", markersize=4, label="recovered")
    for x, y, name in zip(truth, found, labels or (), strict=bool(labels)):
        axes.annotate(name, (x, y), xytext=(4, -3), textcoords="offset points", fontsize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis, span[1] / span[0])
    _plain_numbers(axes.yaxis, span[1] / span[0])
    axes.set_xlim(span)
    axes.set_ylim(span)
    axes.set_aspect("equal")
    axes.set_xlabel("True scaling factor")
    axes.set_ylabel("Recovered scaling factor")
    axes.legend(frameon=False)


def draw_factor_paths(
    axes: Axes,
    updates: ArrayLike,
    factors: ArrayLike,
    *,
    true: ArrayLike,
    labels: Sequence[str] | None = None,
) -> None:
    """Draw factors over training, and their true values as dashed lines of the same color.

    Args:
        axes: where to draw.
        updates: number of the update, shape (K,).
        factors: > 0, shape (K, F).
        true: shape (F,).
        labels: names of the factors, shape (F,).
    """
    path, truth = np.asarray(factors), np.asarray(true)
    for number, target in enumerate(truth):
        name = labels[number] if labels else None
        axes.plot(updates, path[:, number], color=f"C{number % 10}", linewidth=1, label=name)
        axes.axhline(target, color=f"C{number % 10}", linestyle="--", linewidth=0.6)
    axes.set_yscale("log")
    _plain_numbers(axes.yaxis, max(path.max(), truth.max()) / min(path.min(), truth.min()))
    axes.set_xlabel("Update")
    axes.set_ylabel("Scaling factor")
    if labels:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _plain_numbers(axis: Axis, span: float) -> None:
    """Write 0.5, 1 and 2, denser where the factors span less than a power of ten."""
    subs = (1, 2, 5) if span > 10 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
