"""Balance of recurrent and feed-forward strength."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def weight_ratio_loss(
    recurrent: torch.Tensor, feedforward: torch.Tensor, *, target: float
) -> torch.Tensor:
    """Return (mean recurrent / mean feed-forward - target)^2.

    Args:
        recurrent: strengths of excitatory recurrent synapses, > 0, or their scaling factors, any
            shape. Of a sparse projection give the values of its edges, not zeros between them.
        feedforward: the same of the inputs, any shape.
        target: aim, > 0.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: one of the two is empty.
    """
    for name, values in (("recurrent", recurrent), ("feedforward", feedforward)):
        if not values.numel():
            msg = f"{name} is empty: there is no mean to compare"
            raise ValueError(msg)
    return (recurrent.mean() / feedforward.mean() - target).square()
