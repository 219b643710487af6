"""Naming a trial's class by the highest value that each output reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from neuro.losses.raster import require_raster

if TYPE_CHECKING:
    import torch


def max_over_time(outputs: torch.Tensor) -> torch.Tensor:
    """Return the highest value of each output in a trial, shape (B, C): the logits.

    The gradient goes to the step of the maximum, the first of equals, and to no other.

    Args:
        outputs: of a readout, shape (T, B, C).

    Raises:
        ValueError: the outputs have not the axes (T, B, C).
    """
    require_raster("outputs", outputs)
    return outputs.max(dim=0).values


def max_over_time_loss(outputs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the classes, log softmax of `max_over_time`, mean over trials.

    After Cramer et al. 2020, arXiv:1910.07407.

    Args:
        outputs: of a readout, shape (T, B, C), with their gradient.
        label: true classes, 0 .. C - 1, shape (B,).

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the outputs have not the axes (T, B, C), or there is not one label a trial.
    """
    logits = max_over_time(outputs)
    if label.shape != logits.shape[:1]:
        msg = f"label has shape {tuple(label.shape)}; there are {len(logits)} trials"
        raise ValueError(msg)
    return functional.cross_entropy(logits, label)
