"""The spikes of every layer in one trial, above each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.plots.raster import draw_population_raster
from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Heights of panels in inches, by the number of their units.
_LEAST_HEIGHT, _MOST_HEIGHT = 0.45, 1.7


def draw_layer_rasters(
    layers: Mapping[str, ArrayLike], *, dt_ms: float, odor_ms: float, title: str
) -> Figure:
    """Draw a panel for each layer, input first, with the time of the odor shaded.

    Args:
        layers: spikes by name of the layer, 0 or more in a step, shape (T, unit) each.
        dt_ms: length of a step.
        odor_ms: when the odor ends; it starts with the trial.
        title: what was presented.

    Returns:
        A figure of 6.8 inches width.
    """
    rasters = {name: np.asarray(spikes) for name, spikes in layers.items()}
    most = max(raster.shape[1] for raster in rasters.values())
    heights = [
        _LEAST_HEIGHT + (_MOST_HEIGHT - _LEAST_HEIGHT) * (raster.shape[1] / most) ** 0.5
        for raster in rasters.values()
    ]
    figure = new_figure(width_in=6.8, height_in=sum(heights) + 0.9)
    panels = figure.subplots(
        len(rasters), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, (name, raster) in zip(panels, rasters.items(), strict=True):
        axes.axvspan(0, odor_ms, color="tab:orange", alpha=0.12, linewidth=0)
        draw_population_raster(axes, raster, dt_ms=dt_ms, size_pt=1.2)
        axes.set_ylabel(f"{name}\n({raster.shape[1]})", rotation=0, ha="right", va="center")
        axes.set_yticks([])
        axes.set_xlabel("")
    panels[0].set_title(f"{title} (shaded: odor, {odor_ms:g} ms)")
    panels[-1].set_xlabel("Time (ms)")
    return figure
