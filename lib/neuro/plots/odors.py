"""Odors being learned, what answers to them, and what is taken for what."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.ticker import MaxNLocator, PercentFormatter

from neuro.plots.style import new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Smaller probabilities stay white, so that the color scale stays readable.
_FAINTEST = 1e-3
# Chemical classes of fewer odors than this get no label of their own.
_SMALL_CLASS = 8


def draw_learning(
    loss: Sequence[float],
    accuracy: Sequence[float],
    standard_error: Sequence[float],
    *,
    ceiling: float,
    chance: float,
) -> Figure:
    """Draw the training loss, and the accuracy below its ceiling, epoch by epoch.

    Args:
        loss: cross-entropy in nats, one an epoch.
        accuracy: share named right, 0 .. 1, one an epoch.
        standard_error: of each accuracy.
        ceiling: share that the ideal observer names right.
        chance: share that guessing names right.

    Returns:
        A figure of 6.5 x 2.6 inches.
    """
    figure = new_figure(width_in=6.5, height_in=2.6)
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, len(loss) + 1)
    left.plot(epochs, loss, "o-", color="black", markersize=3, linewidth=1)
    left.set_ylim(bottom=0)
    left.set_ylabel("Training cross-entropy (nats)")
    right.errorbar(
        epochs, accuracy, yerr=standard_error, fmt="o-", color="tab:blue", markersize=3, linewidth=1
    )
    for level, label, style in ((ceiling, "ideal observer", "--"), (chance, "chance", ":")):
        right.axhline(level, color="gray", linestyle=style, linewidth=0.8)
        right.annotate(
            f"{label} {level:.1%}",
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color="dimgray",
            fontsize=7,
        )
    right.set_ylim(0, 1.08)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_ylabel("Validation accuracy (± s.e.)")
    for axes in (left, right):
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_activity(
    counts: Mapping[str, ArrayLike], cell_type: Sequence[str], *, trial_s: float
) -> Figure:
    """Draw how many units of two populations answer, to how many odors, and how often.

    Args:
        counts: spikes in a trial by population name, shape (trial, unit); the last population's
            units are of the types in `cell_type`.
        cell_type: types of its units.
        trial_s: length of a trial.

    Returns:
        A figure of 7.0 x 2.6 inches.
    """
    figure = new_figure(width_in=7.0, height_in=2.6)
    per_trial, per_unit, per_type = figure.subplots(1, 3)
    colors = dict(zip(counts, ("tab:orange", "tab:blue"), strict=True))
    spikes = {name: np.asarray(count) for name, count in counts.items()}
    for name, count in spikes.items():
        active = count > 0
        shares = np.linspace(0, 1, 41)
        per_trial.hist(active.mean(axis=1), shares, color=colors[name], alpha=0.75, label=name)
        share = np.sort(active.mean(axis=0))[::-1]
        rank = np.arange(len(share)) / len(share)
        per_unit.plot(rank, share, color=colors[name], linewidth=1, label=name)
    per_trial.set_xlabel("Share of units active in a trial")
    per_trial.set_ylabel("Trials")
    per_trial.legend(frameon=False)
    per_unit.set_xlabel("Unit, by rank")
    per_unit.set_ylabel("Share of trials it is active in")
    for axis in (per_trial.xaxis, per_unit.xaxis, per_unit.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    name, last = list(spikes.items())[-1]
    types, member = np.unique(np.asarray(cell_type), return_inverse=True)
    rate_hz = [last[:, member == code].mean() / trial_s for code in range(len(types))]
    labels = [f"{kind} ({np.sum(member == code)})" for code, kind in enumerate(types)]
    per_type.barh(labels, rate_hz, color=colors[name], height=0.7)
    per_type.invert_yaxis()
    per_type.set_xlabel(f"{name} rate by type (Hz)")
    return figure


def draw_probabilities(
    probability: ArrayLike,
    label: ArrayLike,
    group: Sequence[str],
    *,
    title: str,
    what: str = "Mean probability given",
) -> Figure:
    """Draw the probability given to every odor on presentation of each, ordered by group.

    Args:
        probability: of class c in each trial, shape (trial, C).
        label: true classes, shape (trial,); every class occurs.
        group: a name for each class, shape (C,), such as its chemical class.
        title: what the figure shows.
        what: what the probabilities are.

    Returns:
        A figure of 4.6 x 4.2 inches.
    """
    chances, true = np.asarray(probability), np.asarray(label)
    n_classes = chances.shape[1]
    mean = np.stack([chances[true == code].mean(axis=0) for code in range(n_classes)])
    # What has no name comes last.
    order = sorted(range(n_classes), key=lambda code: (not group[code], group[code], code))
    figure = new_figure(width_in=4.6, height_in=4.2)
    axes = figure.subplots()
    image = axes.imshow(
        np.ma.masked_less(mean[np.ix_(order, order)], _FAINTEST),
        cmap="magma_r",
        norm=LogNorm(_FAINTEST, 1),
        interpolation="nearest",
    )
    ticks, labels, start = [], [], 0
    for name, members in groupby(group[code] for code in order):
        size = len(list(members))
        if size >= _SMALL_CLASS:
            ticks.append(start + size / 2 - 0.5)
            labels.append(name or "unknown")
        start += size
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(start - 0.5, color="gray", linewidth=0.3)
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=0)
    axes.set_xlabel("Named odor, by chemical class")
    axes.set_ylabel("Presented odor")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.8, label=what)
    return figure
