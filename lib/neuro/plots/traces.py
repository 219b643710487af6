"""Potentials and conductances over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

# Share of the range between lowest and highest value that separates two traces.
_SPACING = 1.15


def draw_potentials(
    axes: Axes,
    potential: ArrayLike,
    *,
    dt_ms: float,
    threshold: ArrayLike | None = None,
    spikes: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    unit: str = "mV",
) -> None:
    """Draw the potentials of a few neurons above each other, to one scale.

    Args:
        axes: where to draw.
        potential: shape (T, N), N small; the value of step t is drawn at the step's end.
        dt_ms: length of a time step in ms.
        threshold: where a neuron spikes, one number or shape (N,); a dashed line.
        spikes: 0 or 1, shape (T, N); marked above the trace, at the end of their step.
        labels: of the neurons, shape (N,); their numbers by default.
        unit: of the potentials.

    Raises:
        ValueError: the potential does not have the two axes (T, N), or spikes another shape.
    """
    traces = np.asarray(potential, dtype=np.float64)
    marks = np.zeros(traces.shape) if spikes is None else np.asarray(spikes)
    if traces.ndim != 2 or marks.shape != traces.shape:
        msg = f"potential {traces.shape} and spikes {marks.shape} must have one shape, (T, N)"
        raise ValueError(msg)
    n_steps, n_units = traces.shape
    limit = None if threshold is None else np.broadcast_to(np.asarray(threshold), (n_units,))
    highest = max(np.nanmax(traces), -np.inf if limit is None else limit.max())
    lowest = np.nanmin(traces)
    offsets = -np.arange(n_units) * ((highest - lowest) or 1.0) * _SPACING
    time_ms = np.arange(1, n_steps + 1) * dt_ms
    for number, offset in enumerate(offsets):
        axes.plot(time_ms, traces[:, number] + offset, color=f"C{number % 10}", linewidth=0.6)
        if limit is not None:
            axes.axhline(limit[number] + offset, color="gray", linestyle="--", linewidth=0.4)
        at = np.flatnonzero(marks[:, number])
        axes.plot(time_ms[at], np.full(len(at), highest + offset), "|", color="black", markersize=4)
    axes.set_yticks(
        offsets + traces[0],
        [str(number) for number in range(n_units)] if labels is None else labels,
        minor=False,
    )
    axes.tick_params(axis="y", length=0)
    _scale_bar(axes, lowest, highest, unit)
    axes.set_xlim(0, n_steps * dt_ms)
    axes.set_xlabel("Time (ms)")
    axes.set_ylabel("Unit")


def draw_conductances(
    axes: Axes, conductances: Mapping[str, ArrayLike], *, dt_ms: float, unit: str = "nS"
) -> None:
    """Draw the conductances of one neuron by synapse type.

    Args:
        axes: where to draw.
        conductances: by name of the synapse type, shape (T,) each.
        dt_ms: length of a time step in ms; the value of step t is drawn at the step's end.
        unit: of the conductances.
    """
    end_ms = 0.0
    for name, values in conductances.items():
        trace = np.asarray(values)
        time_ms = np.arange(1, len(trace) + 1) * dt_ms
        axes.plot(time_ms, trace, linewidth=0.8, label=name)
        end_ms = max(end_ms, len(trace) * dt_ms)
    axes.set_xlim(0, end_ms)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Time (ms)")
    axes.set_ylabel(f"Conductance ({unit})")
    axes.legend(frameon=False)


def _scale_bar(axes: Axes, lowest: float, highest: float, unit: str) -> None:
    """Draw a bar of a round length at the right, as all traces share one scale."""
    span = (highest - lowest) or 1.0
    power = 10 ** np.floor(np.log10(span / 2))
    length = power * max(factor for factor in (1, 2, 5) if factor * power <= span / 2)
    axes.annotate(
        f" {length:g} {unit}",
        (1.01, lowest + length / 2),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=7,
        annotation_clip=False,
    )
    axes.plot(
        [1.01, 1.01],
        [lowest, lowest + length],
        color="black",
        linewidth=1,
        transform=axes.get_yaxis_transform(),
        clip_on=False,
    )
