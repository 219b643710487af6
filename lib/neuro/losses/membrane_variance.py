"""Fluctuation of potentials, relative to their distance from threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from neuro.losses.raster import per_unit, require_raster

if TYPE_CHECKING:
    from collections.abc import Sequence

# A resting potential has no fluctuation, and the root's slope there is infinite.
_VARIANCE_FLOOR = 1e-6
# A mean at or above threshold has no distance to it.
_LEAST_GAP = 1e-2


def membrane_variance_loss(
    potential: torch.Tensor,
    threshold: float | Sequence[float] | torch.Tensor,
    *,
    ratio: float,
) -> torch.Tensor:
    """Return the mean of (std_t V / (threshold - mean_t V) - ratio)^2 over trials and neurons.

    A ratio of 0.2 to 0.5 lets fluctuations, not the mean, drive the spikes.

    Args:
        potential: V as simulated, with its gradient, shape (T, B, N); potential and threshold in
            one unit, mV or multiples of the threshold.
        threshold: where a neuron spikes, for all neurons or each.
        ratio: aim, > 0.

    Returns:
        The loss, shape (). The distance to threshold counts as no less than 0.01.

    Raises:
        ValueError: the potential carries no gradient while gradients are recorded, so that this
            loss would do nothing; or the shapes do not fit.
    """
    require_raster("potential", potential)
    if torch.is_grad_enabled() and not potential.requires_grad:
        msg = (
            "potential requires no gradient, so the membrane-variance loss would train nothing; "
            "record the potential attached, give the loss no weight, or use torch.no_grad"
        )
        raise ValueError(msg)
    limit = per_unit("threshold", threshold, potential)
    variance = potential.var(dim=0, correction=0)
    gap = (limit - potential.mean(dim=0)).clamp_min(_LEAST_GAP)
    return ((variance + _VARIANCE_FLOOR).sqrt() / gap - ratio).square().mean()
