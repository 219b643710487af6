"""One stimulus presentation: what was shown, and what every layer answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.plots.raster import draw_raster
from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_DECIDED = "tab:red"


def draw_presentation(
    image: ArrayLike, layers: Mapping[str, ArrayLike], *, dt_ms: float, title: str
) -> Figure:
    """Draw an image, the rasters of all layers, and the spike counts of the last one.

    The unit of the last layer that spikes most, the decision, is highlighted.

    Args:
        image: brightness in 0 .. 1, shape (row, column).
        layers: spikes of each layer by name, input first, 0 or 1, shape (T, N).
        dt_ms: length of a time step in ms.
        title: what the image shows.

    Returns:
        A figure of 7.0 x 4.6 inches.
    """
    figure = new_figure(width_in=7.0, height_in=4.6)
    columns = figure.add_gridspec(1, 2, width_ratios=[1, 3.4])
    left, right = figure.add_subfigure(columns[0]), figure.add_subfigure(columns[1])
    rasters = {name: np.asarray(spikes) for name, spikes in layers.items()}
    counts = list(rasters.values())[-1].sum(axis=0)
    colors = ["black"] * len(counts)
    colors[int(counts.argmax())] = _DECIDED
    panels = left.subplots(2, 1, height_ratios=[1, 1])
    panels[0].imshow(np.asarray(image), cmap="gray", vmin=0, vmax=1)
    panels[0].set_title(title)
    panels[0].set_axis_off()
    _draw_counts(panels[1], counts, colors)
    # A few units of a small layer need more height each than many units of a large one.
    heights = [max(raster.shape[1], 40) for raster in rasters.values()]
    stack = right.subplots(len(rasters), 1, sharex=True, height_ratios=heights)
    for axes, (name, raster) in zip(stack, rasters.items(), strict=True):
        last = axes is stack[-1]
        draw_raster(axes, raster, dt_ms=dt_ms, color=colors if last else "black")
        axes.set_ylabel(f"{name} unit")
        axes.set_xlabel("Time (ms)" if last else "")
    right.align_ylabels()
    return figure


def _draw_counts(axes: Axes, counts: ArrayLike, colors: list[str]) -> None:
    """Draw a bar a unit, in the order and the colors of the raster."""
    spikes = np.asarray(counts)
    axes.barh(range(len(spikes)), spikes, color=colors, height=0.7)
    axes.set_yticks(range(len(spikes)))
    axes.set_ylim(len(spikes) - 0.5, -0.5)
    axes.set_xlabel("Spikes")
    axes.set_ylabel("Output unit")
