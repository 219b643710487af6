"""Distributions of firing statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_N_BINS = 30


def draw_rate_distributions(
    axes: Axes,
    rates_hz: Mapping[str, ArrayLike],
    *,
    targets_hz: Mapping[str, float] | None = None,
) -> None:
    """Draw how the rates of each population are distributed, on a logarithmic axis.

    Silent neurons have no place there; the legend states their share.

    Args:
        axes: where to draw.
        rates_hz: by name of the population, >= 0, shape (unit,) each.
        targets_hz: by name of a population; a dashed line in its color.
    """
    rates = {name: np.asarray(values, dtype=np.float64) for name, values in rates_hz.items()}
    firing = np.concatenate([values[values > 0] for values in rates.values()])
    lowest, highest = (firing.min(), firing.max()) if firing.size else (0.1, 10.0)
    # A margin on both sides, as a single rate would span nothing.
    edges = np.geomspace(lowest / 1.5, highest * 1.5, _N_BINS + 1)
    for rank, (name, values) in enumerate(rates.items()):
        silent = float((values == 0).mean()) if values.size else 0.0
        axes.hist(
            values[values > 0],
            edges.tolist(),
            weights=np.full((values > 0).sum(), 1 / max(len(values), 1)),
            histtype="stepfilled",
            alpha=0.6,
            color=f"C{rank % 10}",
            label=f"{name} ({silent:.0%} silent)",
        )
        if targets_hz and name in targets_hz:
            axes.axvline(targets_hz[name], color=f"C{rank % 10}", linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("Rate (Hz)")
    axes.set_ylabel("Share of units")
    axes.legend(frameon=False)


def draw_distribution(
    axes: Axes, values: Mapping[str, ArrayLike], *, label: str, reference: float | None = None
) -> None:
    """Draw how a statistic, such as CV or Fano factor, is distributed in each population.

    Args:
        axes: where to draw.
        values: by name of the population, shape (unit,) each; NaN is left out and counted in the
            legend as undefined.
        label: what the values are.
        reference: a value to compare with, such as 1 for a Poisson process; a dotted line.
    """
    finite = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    defined = {name: value[np.isfinite(value)] for name, value in finite.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(defined.values())), _N_BINS)
    for rank, (name, value) in enumerate(defined.items()):
        missing = len(finite[name]) - len(value)
        note = f" ({missing} undefined)" if missing else ""
        axes.hist(
            value,
            edges.tolist(),
            weights=np.full(len(value), 1 / max(len(value), 1)),
            histtype="stepfilled",
            alpha=0.6,
            color=f"C{rank % 10}",
            label=name + note,
        )
    if reference is not None:
        axes.axvline(reference, color="gray", linestyle=":", linewidth=0.8)
    axes.set_xlabel(label)
    axes.set_ylabel("Share of units")
    axes.legend(frameon=False)
