"""Kinds of synapses that share a neuron's input: who listens to which block of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def check_channels(channels: Sequence[int]) -> None:
    """Refuse channels that are not numbered from 0 without gaps.

    Raises:
        ValueError: they are not, or there are none.
    """
    found = sorted(set(channels))
    if found != list(range(len(found))) or not found:
        msg = f"the synapses listen to the channels {found!r}; number them from 0 without gaps"
        raise ValueError(msg)


def heard(x: torch.Tensor, channels: Sequence[int], n_units: int) -> torch.Tensor:
    """Return what each of S kinds of synapses gets of the input.

    Args:
        x: shape (..., C * N).
        channels: that each kind listens to, S of them.
        n_units: N.

    Returns:
        Shape (..., S, N).
    """
    return x.unflatten(-1, (-1, n_units))[..., list(channels), :]


def heard_vjp(grad: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    """Return the gradient of x, shape (..., C * N), given that of what is heard, (..., S, N)."""
    shape = (*grad.shape[:-2], 1 + max(channels), grad.shape[-1])
    index = torch.tensor(channels, device=grad.device)
    return grad.new_zeros(shape).index_add_(grad.dim() - 2, index, grad).flatten(-2)
