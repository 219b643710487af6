"""What happens to a few measures when something about a network is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from neuro.metrics.estimate import Estimate


def draw_interventions(
    measures: Mapping[str, Mapping[str, Estimate]],
    by_seed: Mapping[str, Mapping[str, Sequence[float]]],
) -> Figure:
    """Draw a panel for each measure, a point with its error for each condition.

    Args:
        measures: estimates by measure, then condition; every measure has the same conditions.
        by_seed: values behind an estimate by measure, then condition, drawn as small dots; may lack
            any.

    Returns:
        A figure of 6.8 inches width.
    """
    conditions = list(next(iter(measures.values())))
    figure = new_figure(width_in=6.8, height_in=0.9 + 0.28 * len(conditions))
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    places = np.arange(len(conditions))
    for axes, (measure, estimates) in zip(panels, measures.items(), strict=True):
        found = [estimates[condition] for condition in conditions]
        axes.axvline(found[0].value, color="gray", linestyle=":", linewidth=0.8)
        for place, condition in enumerate(conditions):
            values = by_seed.get(measure, {}).get(condition, ())
            axes.plot(values, np.full(len(values), place), ".", color="gray", markersize=3)
        axes.errorbar(
            [one.value for one in found],
            places,
            xerr=[one.error for one in found],
            fmt="o",
            color="black",
            markersize=4,
            elinewidth=1,
        )
        axes.set_xlabel(measure)
    panels[0].set_yticks(places, conditions)
    panels[0].set_ylim(len(conditions) - 0.5, -0.5)
    return figure
