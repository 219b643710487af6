"""A student beside its teacher: learning, traces, and learned against true values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_COLORS = {"teacher": "black", "student": "tab:red"}
_MOST_TRACES = 6
_LABELS = {
    "bias": "Bias (thresholds)",
    "tau_mem_ms": "Membrane time constant (ms)",
    "feedforward_weight": "Weights of inputs",
    "recurrent_weight": "Recurrent weights",
    "readout_weight": "Readout weights",
}
_LOGARITHMIC = ("feedforward_weight", "recurrent_weight")


def draw_teacher_learning(history: Sequence[Mapping[str, float]], *, chance: float) -> Figure:
    """Draw loss and validation accuracy over epochs.

    Args:
        history: "train/loss" and "validation/accuracy" of each epoch.
        chance: accuracy of who guesses.
    """
    figure = new_figure(width_in=6.0, height_in=2.4)
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    left.plot(epochs, [row["train/loss"] for row in history], color="black")
    left.set_ylabel("Training loss")
    right.plot(epochs, [row["validation/accuracy"] for row in history], color="black")
    right.axhline(chance, color="gray", linestyle="--", linewidth=0.8)
    right.set_ylabel("Validation accuracy")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("Epoch")
    return figure


def draw_student_learning(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss, agreement with the teacher, and errors of recovered values over epochs.

    Args:
        history: of each epoch: "train/loss", "validation/..." and "recovery/..._relative_error";
            what is missing in an epoch leaves a gap.
    """
    figure = new_figure(width_in=7.0, height_in=2.6)
    left, middle, right = figure.subplots(1, 3)
    epochs = np.arange(1, len(history) + 1)
    left.plot(epochs, [row["train/loss"] for row in history], color="black")
    left.set_ylabel("Training loss")
    left.set_yscale("log")
    measures = ("decision_agreement", "output_correlation", "potential_correlation")
    for name in measures:
        values = [row.get(f"validation/{name}", np.nan) for row in history]
        middle.plot(epochs, values, label=name.replace("_", " "))
    middle.set_ylabel("Agreement with the teacher")
    middle.set_ylim(top=1)
    middle.legend(frameon=False, fontsize=6, loc="lower right")
    ending = "_relative_error"
    names = dict.fromkeys(key for row in history for key in row if key.endswith(ending))
    for key in names:
        label = key.removeprefix("recovery/").removesuffix(ending).replace("_", " ")
        right.plot(epochs, [row.get(key, np.nan) for row in history], label=label)
    right.axhline(1, color="gray", linestyle="--", linewidth=0.8)
    right.set_ylabel("Error of values (s.d. of the true ones)")
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=6)
    for axes in (left, middle, right):
        axes.set_xlabel("Epoch")
    return figure


def draw_beside(
    traces: Mapping[str, ArrayLike], *, dt_ms: float, ylabel: str, trial: int = 0
) -> Figure:
    """Draw traces of the first units in one trial, those of several networks over each other.

    Args:
        traces: by network, "teacher" and "student"; shape (T, B, N) each.
        dt_ms: length of a step.
        ylabel: what they are; the unit's number is added.
        trial: which of the B.
    """
    shown = {name: np.asarray(values)[:, trial] for name, values in traces.items()}
    n_steps, n_units = next(iter(shown.values())).shape
    n_units = min(n_units, _MOST_TRACES)
    figure = new_figure(width_in=6.0, height_in=0.4 + 0.9 * n_units)
    rows = figure.subplots(n_units, 1, sharex=True, squeeze=False)[:, 0]
    time_ms = np.arange(1, n_steps + 1) * dt_ms
    for unit, axes in enumerate(rows):
        for name, values in shown.items():
            axes.plot(time_ms, values[:, unit], color=_COLORS.get(name), linewidth=1, label=name)
        axes.set_ylabel(f"{ylabel} {unit}", fontsize=6)
    rows[0].legend(frameon=False, ncols=len(shown), loc="upper right")
    rows[-1].set_xlabel("Time (ms)")
    return figure


def draw_values(
    true: Mapping[str, ArrayLike],
    learned: Mapping[str, ArrayLike],
    *,
    start: Mapping[str, ArrayLike],
) -> Figure:
    """Draw learned against true values, one panel a kind, with those of the start behind.

    Args:
        true: of the teacher, by name.
        learned: of the student, the same names and shapes.
        start: before learning, likewise.
    """
    figure = new_figure(width_in=1.9 * len(true), height_in=2.2)
    for axes, (name, values) in zip(figure.subplots(1, len(true)), true.items(), strict=True):
        truth = np.asarray(values).ravel()
        for other, color, label in (
            (start[name], "lightgray", "start"),
            (learned[name], "tab:red", "learned"),
        ):
            axes.plot(truth, np.asarray(other).ravel(), ".", color=color, markersize=2, label=label)
        if name in _LOGARITHMIC:
            axes.set_xscale("log")
            axes.set_yscale("log")
        span = (truth.min(), truth.max())
        axes.plot(span, span, color="black", linewidth=0.8)
        axes.set_xlabel("true")
        axes.set_title(_LABELS.get(name, name))
    figure.axes[0].set_ylabel("student")
    figure.axes[0].legend(frameon=False)
    return figure
