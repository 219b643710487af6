"""Spike rasters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike


def draw_raster(
    axes: Axes, spikes: ArrayLike, *, dt_ms: float, color: str | Sequence[str] = "black"
) -> None:
    """Draw a mark for each spike, time to the right and one row a unit, unit 0 at the top.

    A spike of step t is drawn at the step's middle, (t + 1/2) dt.

    Args:
        axes: where to draw.
        spikes: 0 or 1, shape (T, N).
        dt_ms: length of a time step in ms.
        color: one color for all units, or a list of N.

    Raises:
        ValueError: `spikes` does not have the two axes (T, N).
    """
    raster = np.asarray(spikes)
    if raster.ndim != 2:
        msg = f"spikes has shape {raster.shape}; a raster has two axes, (T, N)"
        raise ValueError(msg)
    n_steps, n_units = raster.shape
    times_ms = [(np.flatnonzero(unit) + 0.5) * dt_ms for unit in raster.T]
    axes.eventplot(
        times_ms, lineoffsets=range(n_units), linelengths=0.9, linewidths=1.5, colors=color
    )
    axes.set_xlim(0, n_steps * dt_ms)
    axes.set_ylim(n_units - 0.5, -0.5)
    axes.set_xlabel("Time (ms)")
    axes.set_ylabel("Unit")
