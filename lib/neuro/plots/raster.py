"""Spike rasters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray


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
    raster = _two_axes(spikes)
    times_ms = [(np.flatnonzero(unit) + 0.5) * dt_ms for unit in raster.T]
    axes.eventplot(
        times_ms,
        lineoffsets=range(raster.shape[1]),
        linelengths=0.9,
        linewidths=1.5,
        colors=color,
    )
    _frame(axes, raster, dt_ms)


def draw_population_raster(
    axes: Axes,
    spikes: ArrayLike,
    *,
    dt_ms: float,
    group: Sequence[str] | None = None,
    size_pt: float = 0.8,
) -> None:
    """Draw a dot for each spike of a population too large for rows, sorted by group.

    Time of a spike as in `draw_raster`. Dots are drawn as pixels in vector files too.

    Args:
        axes: where to draw.
        spikes: 0 or 1, shape (T, N).
        dt_ms: length of a time step in ms.
        group: name of each unit's cell type or assembly, shape (N,). Units of a group stand
            together, in the order in which groups are first named, and share a color.
        size_pt: diameter of a dot in points.

    Raises:
        ValueError: `spikes` does not have the two axes (T, N), or there is not one group a unit.
    """
    raster = _two_axes(spikes)
    n_units = raster.shape[1]
    names = [""] * n_units if group is None else [str(name) for name in group]
    if len(names) != n_units:
        msg = f"group names {len(names)} units, spikes has {n_units}"
        raise ValueError(msg)
    first = {name: rank for rank, name in enumerate(dict.fromkeys(names))}
    member = np.array([first[name] for name in names], dtype=np.int64)
    order = np.argsort(member, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(member))])
    step, row = np.nonzero(raster[:, order])
    for name, rank in first.items():
        mine = (row >= edges[rank]) & (row < edges[rank + 1])
        axes.plot(
            (step[mine] + 0.5) * dt_ms,
            row[mine],
            linestyle="none",
            marker="o",
            markersize=size_pt,
            markeredgewidth=0,
            color="black" if group is None else f"C{rank % 10}",
            rasterized=True,
            label=name,
        )
    _frame(axes, raster, dt_ms)
    if group is not None:
        axes.set_yticks((edges[:-1] + edges[1:] - 1) / 2, list(first))
        axes.tick_params(axis="y", length=0)
        axes.set_ylabel("")


def _two_axes(spikes: ArrayLike) -> NDArray:
    raster = np.asarray(spikes)
    if raster.ndim != 2:
        msg = f"spikes has shape {raster.shape}; a raster has two axes, (T, N)"
        raise ValueError(msg)
    return raster


def _frame(axes: Axes, raster: NDArray, dt_ms: float) -> None:
    """Span the time of the trial and all units, unit 0 at the top."""
    n_steps, n_units = raster.shape
    axes.set_xlim(0, n_steps * dt_ms)
    axes.set_ylim(n_units - 0.5, -0.5)
    axes.set_xlabel("Time (ms)")
    axes.set_ylabel("Unit")
