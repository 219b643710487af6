"""Figures of homeostatic plasticity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuro import plots

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch


def draw_rates(
    path: Path, rates: dict[str, dict[str, np.ndarray]], targets_hz: dict[str, float]
) -> None:
    """Draw rates by title and cell type, shape (cells,) each, beside their targets."""
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=2.8)
        for axes, (title, by_type) in zip(
            figure.subplots(1, len(rates), sharex=True), rates.items(), strict=True
        ):
            plots.draw_rate_distributions(axes, by_type, targets_hz=targets_hz)
            axes.set_title(title)
        plots.save_png(figure, path)


def draw_training(
    path: Path, history: list[dict[str, float]], targets_hz: dict[str, float]
) -> None:
    """Draw losses and rates over training; nothing, where no line of metrics was written."""
    if not history:
        return
    chunks = [row["step"] for row in history]
    losses = [name for name in history[-1] if name.startswith("loss/")]
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=2.8)
        left, right = figure.subplots(1, 2)
        curves = {name.removeprefix("loss/"): [row[name] for row in history] for name in losses}
        plots.draw_curves(left, chunks, curves, ylabel="Loss", log=True)
        rates = {name: [row[f"rate_hz/{name}"] for row in history] for name in targets_hz}
        plots.draw_curves(right, chunks, rates, ylabel="Rate (Hz)", log=True, targets=targets_hz)
        for axes in (left, right):
            axes.set_xlabel("Chunk")
        plots.save_png(figure, path)


def draw_raster(path: Path, spikes: torch.Tensor, types: list[str], dt_ms: float) -> None:
    """Draw one trial, shape (T, N), by type of each cell."""
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=4.0)
        axes = figure.subplots()
        plots.draw_population_raster(axes, spikes, dt_ms=dt_ms, group=types)
        axes.set_title("After: one trial")
        plots.save_png(figure, path)
