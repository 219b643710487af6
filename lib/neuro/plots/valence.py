"""Predicted against measured valence of odors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from neuro.metrics.linear_readout import ReadoutScore


def draw_valence_readout(measured: ArrayLike, scores: Mapping[str, ReadoutScore]) -> Figure:
    """Draw a panel for each population: every odor predicted by readouts that have not seen it.

    Args:
        measured: valence of each odor, -1 (avoided) .. 1 (approached), shape (odor,).
        scores: by name of the population.

    Returns:
        A figure of 2.3 inches a population by 2.5 inches.
    """
    figure = new_figure(width_in=2.3 * max(len(scores), 1) + 0.3, height_in=2.5)
    panels = figure.subplots(1, len(scores), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (name, score) in zip(panels, scores.items(), strict=True):
        axes.axhline(0, color="lightgray", linewidth=0.6)
        axes.axvline(0, color="lightgray", linewidth=0.6)
        axes.plot(measured, score.predicted, "o", markersize=3, markeredgewidth=0, alpha=0.7)
        axes.set_title(f"{name}: r = {score.correlation:.2f} ± {score.error:.2f}")
        axes.set_xlabel("Measured attraction index")
    panels[0].set_ylabel("Predicted from the others")
    return figure
