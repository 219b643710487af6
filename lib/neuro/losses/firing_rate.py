"""Rates of single neurons at their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuro.losses.raster import per_unit, require_raster
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

# Keeps the weight of neurons with a target near 0 Hz finite.
SOFTENING_HZ = 1.0


def mean_rate_hz(spikes: torch.Tensor, *, dt_ms: float) -> torch.Tensor:
    """Return the rate of each neuron over all time and trials, shape (N,), with its gradient.

    Args:
        spikes: 0 or 1, shape (T, B, N).
        dt_ms: length of a time step.
    """
    return spikes.mean(dim=(0, 1)) * (MS_PER_S / dt_ms)


def firing_rate_loss(
    spikes: torch.Tensor, target_hz: float | Sequence[float] | torch.Tensor, *, dt_ms: float
) -> torch.Tensor:
    """Return the mean over neurons of (r - r*)^2 / (r* + 1 Hz), in Hz.

    The division makes an error weigh as in Poisson counts, whose variance grows with the rate.

    Args:
        spikes: 0 or 1, shape (T, B, N); r is their rate over all time and trials.
        target_hz: r*, for all neurons or each, >= 0.
        dt_ms: length of a time step.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the spikes have not the axes (T, B, N), or the targets do not fit them.
    """
    require_raster("spikes", spikes)
    target = per_unit("target_hz", target_hz, spikes)
    error = mean_rate_hz(spikes, dt_ms=dt_ms) - target
    return (error.square() / (target + SOFTENING_HZ)).mean()
