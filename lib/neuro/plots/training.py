"""Losses and other quantities over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def draw_curves(
    axes: Axes,
    updates: ArrayLike,
    curves: Mapping[str, ArrayLike],
    *,
    ylabel: str,
    log: bool = False,
    targets: Mapping[str, float] | None = None,
    window: int = 1,
) -> None:
    """Draw quantities over training by name, such as losses or rates.

    Args:
        axes: where to draw.
        updates: number of the update, shape (K,).
        curves: values by name, shape (K,) each; NaN leaves a gap.
        ylabel: what they are, with unit.
        log: whether the axis of values is logarithmic.
        targets: values to be reached, by name of a curve; a dashed line of its color.
        window: values averaged for each point; above 1 the raw ones are drawn faintly behind, and
            averages start with the first full window.

    Raises:
        ValueError: a curve has not K values, a window is below 1, or targets names no curve.
    """
    x = np.asarray(updates)
    aims = dict(targets or {})
    if window < 1 or aims.keys() - curves.keys():
        msg = f"window = {window!r} must be >= 1, and targets {sorted(aims)} among the curves"
        raise ValueError(msg)
    for rank, (name, values) in enumerate(curves.items()):
        y, color = np.asarray(values, dtype=np.float64), f"C{rank % 10}"
        if y.shape != x.shape:
            msg = f"{name} has shape {y.shape}, updates {x.shape}"
            raise ValueError(msg)
        smooth = window > 1 and len(y) >= window
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.3 if smooth else 1, label=name)
        if smooth:
            axes.lines[-1].set_label("_raw")
            mean = np.convolve(y, np.full(window, 1 / window), mode="valid")
            axes.plot(x[window - 1 :], mean, color=color, linewidth=1.2, label=name)
        if name in aims:
            axes.axhline(aims[name], color=color, linestyle="--", linewidth=0.6)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("Update")
    axes.set_ylabel(ylabel)
    if len(curves) > 1:
        axes.legend(frameon=False)
