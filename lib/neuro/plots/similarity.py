"""Similarity of odors, layer by layer."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Groups of fewer odors than this get no label of their own.
_SMALL_GROUP = 8
_NO_RESPONSE = "lightgray"


def draw_similarity_matrices(
    matrices: Mapping[str, ArrayLike], group: Sequence[str], *, label: str = "Correlation"
) -> Figure:
    """Draw one matrix of odors by odors for each population, side by side and in one color scale.

    Args:
        matrices: correlations by name of the population, shape (odor, odor) each; NaN is gray.
        group: name of each odor's group, such as its chemical class, shape (odor,); "" is unknown.
            Odors of a group stand together.
        label: of the color scale, -1 .. 1.

    Returns:
        A figure of 2.5 inches a matrix and a little more.
    """
    figure = new_figure(width_in=2.35 * len(matrices) + 0.9, height_in=2.9)
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    # What has no name comes last.
    order = sorted(range(len(group)), key=lambda odor: (not group[odor], group[odor], odor))
    image = None
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        values = np.ma.masked_invalid(np.asarray(matrix, dtype=np.float64)[np.ix_(order, order)])
        image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_facecolor(_NO_RESPONSE)
        axes.set_title(name)
        _mark_groups(axes, [group[odor] for odor in order], named=axes is panels[0])
    if image is not None:
        figure.colorbar(image, ax=list(panels), shrink=0.7, label=label)
    return figure


def _mark_groups(axes: Axes, groups: Sequence[str], *, named: bool) -> None:
    """Separate groups by lines, and write the names of large ones at the left."""
    ticks, labels, start = [], [], 0
    for name, members in groupby(groups):
        size = len(list(members))
        if size >= _SMALL_GROUP:
            ticks.append(start + size / 2 - 0.5)
            labels.append(name or "unknown")
        start += size
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(start - 0.5, color="black", linewidth=0.2)
    axes.set_yticks(ticks, labels if named else [""] * len(ticks))
    axes.set_xticks([])
    axes.tick_params(length=0)
