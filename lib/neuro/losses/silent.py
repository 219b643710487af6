"""A penalty for neurons that do not fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuro.losses.firing_rate import mean_rate_hz
from neuro.losses.raster import per_unit, require_raster

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def silent_neuron_loss(
    spikes: torch.Tensor, alpha_s: float | Sequence[float] | torch.Tensor, *, dt_ms: float
) -> torch.Tensor:
    """Return the mean over neurons of exp(-alpha r): 1 for silence, near 0 for r >> 1 / alpha.

    Unlike the firing-rate loss, whose gradient on a silent neuron shrinks with its target, this one
    pulls hardest at zero.

    Args:
        spikes: 0 or 1, shape (T, B, N); r is their rate over all time and trials, in Hz.
        alpha_s: for all neurons or each, > 0.
        dt_ms: length of a time step.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the spikes have not the axes (T, B, N), or `alpha_s` does not fit them.
    """
    require_raster("spikes", spikes)
    alpha = per_unit("alpha_s", alpha_s, spikes)
    return (-alpha * mean_rate_hz(spikes, dt_ms=dt_ms)).exp().mean()
