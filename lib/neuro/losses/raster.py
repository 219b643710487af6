"""What all losses ask of the spikes they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_raster(name: str, values: torch.Tensor) -> None:
    """Refuse what has not the axes (T, B, N), or nothing along one of them.

    Raises:
        ValueError: see above.
    """
    if values.ndim != 3 or not values.numel():
        msg = f"{name} has shape {tuple(values.shape)}; it must be (T, B, N), none of them zero"
        raise ValueError(msg)


def per_unit(
    name: str, value: float | Sequence[float] | torch.Tensor, raster: torch.Tensor
) -> torch.Tensor:
    """Return a number for all units, shape (), or one for each, shape (N,).

    Args:
        name: what to call it in the error.
        value: a number or N of them.
        raster: gives N, type and device, shape (T, B, N).

    Raises:
        ValueError: there are neither one nor N values.
    """
    tensor = torch.as_tensor(value, dtype=raster.dtype, device=raster.device)
    if tensor.ndim and tensor.shape != raster.shape[2:]:
        msg = (
            f"{name} has shape {tuple(tensor.shape)}; give one number, or one for each of the "
            f"{raster.shape[2]} units"
        )
        raise ValueError(msg)
    return tensor
