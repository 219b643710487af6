"""Which odors cells answer to, and how selectively."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.plots.rates import draw_distribution
from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from neuro.metrics.estimate import Estimate

# Cells drawn one by one behind the mean of all, evenly spaced by their strongest response.
_N_SHOWN = 40


class RankedType(NamedTuple):
    """A cell type and how much it answers; errors as in neuro.metrics.estimate."""

    name: str
    n_units: int
    active_fraction: Estimate
    rate_hz: Estimate


def draw_tuning_curves(rates_hz: Mapping[str, ArrayLike]) -> Figure:
    """Draw the rates of cells with their odors in falling order, a panel for each population.

    Each cell has an order of its own; a broadly tuned one falls slowly. Cells that never respond
    are left out, and their share is stated.

    Args:
        rates_hz: mean rate by name of the population, shape (odor, unit) each.

    Returns:
        A figure of 3.2 inches a population by 2.6 inches.
    """
    figure = new_figure(width_in=3.2 * max(len(rates_hz), 1), height_in=2.6)
    panels = figure.subplots(1, len(rates_hz), squeeze=False)[0]
    for rank, (axes, (name, values)) in enumerate(zip(panels, rates_hz.items(), strict=True)):
        rates = np.asarray(values, dtype=np.float64)
        responsive = rates[:, rates.any(axis=0)]
        curves = -np.sort(-responsive, axis=0)
        curves = curves[:, np.argsort(curves[0], kind="stable")]
        number = np.arange(1, len(rates) + 1)
        n_cells = curves.shape[1]
        shown = np.unique(np.linspace(0, n_cells - 1, min(_N_SHOWN, n_cells)).astype(int))
        axes.plot(number, curves[:, shown], color="gray", linewidth=0.3, alpha=0.6)
        if n_cells:
            label = f"mean of {n_cells} cells"
            axes.plot(number, curves.mean(axis=1), color=f"C{rank}", linewidth=1.5, label=label)
            axes.legend(frameon=False)
        silent = 1 - n_cells / max(rates.shape[1], 1)
        axes.set_title(f"{name} ({silent:.0%} never respond)")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Odor, by rank for each cell")
        axes.set_ylabel("Rate (Hz)")
    return figure


def draw_sparseness(
    lifetime: Mapping[str, ArrayLike], population: Mapping[str, ArrayLike]
) -> Figure:
    """Draw how Treves and Rolls' sparseness is distributed over cells and over odors.

    Args:
        lifetime: of each cell by name of the population, 0 .. 1; NaN where it never responds.
        population: of each odor by name of the population, 0 .. 1; NaN where nothing responds.

    Returns:
        A figure of 6.8 x 2.6 inches.
    """
    figure = new_figure(width_in=6.8, height_in=2.6)
    left, right = figure.subplots(1, 2)
    for axes, values, label, unit in (
        (left, lifetime, "Lifetime sparseness", "cells"),
        (right, population, "Population sparseness", "odors"),
    ):
        draw_distribution(axes, values, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylabel(f"Share of {unit}")
    return figure


def draw_ranked_types(types: Sequence[RankedType], *, title: str = "") -> Figure:
    """Draw the cell types, most active first, with their errors.

    Args:
        types: in the order in which they are drawn, from the top.
        title: of the figure.

    Returns:
        A figure of 6.8 inches width.
    """
    figure = new_figure(width_in=6.8, height_in=0.9 + 0.22 * max(len(types), 1))
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(types))
    for axes, label, values, color in (
        (left, "Active in a trial (share of cells)", [one.active_fraction for one in types], "C0"),
        (right, "Rate (Hz)", [one.rate_hz for one in types], "C1"),
    ):
        axes.barh(
            places,
            [one.value for one in values],
            xerr=[one.error for one in values],
            color=color,
            height=0.7,
            error_kw={"elinewidth": 0.8},
        )
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    left.set_yticks(places, [f"{one.name} ({one.n_units})" for one in types])
    left.set_ylim(len(types) - 0.4, -0.6)
    return figure
