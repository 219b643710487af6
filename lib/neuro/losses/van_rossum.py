"""The van Rossum distance between spikes and target spikes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from neuro.losses.raster import require_raster
from neuro.spiking.filters import exponential_filter
from neuro.spiking.neurons.decay import decay_per_step


class VanRossumState(NamedTuple):
    """Filtered difference, output minus target, after the last step seen.

    Attributes:
        rise: behind the first filter, shape (B, N).
        decay: behind both filters, shape (B, N).
    """

    rise: torch.Tensor
    decay: torch.Tensor


class VanRossumLoss(NamedTuple):
    """A loss and what the next chunk of the same trials needs.

    Attributes:
        value: the loss, shape ().
        state: to be given with the next chunk; carries no gradient.
    """

    value: torch.Tensor
    state: VanRossumState


def van_rossum_loss(
    output: torch.Tensor,
    target: torch.Tensor,
    *,
    tau_rise_ms: float,
    tau_decay_ms: float,
    dt_ms: float,
    state: VanRossumState | None = None,
) -> VanRossumLoss:
    """Compare spike trains by the mean squared difference of their filtered versions.

        r[t] = exp(-dt / tau_rise) r[t-1] + output[t] - target[t]
        d[t] = exp(-dt / tau_decay) d[t-1] + r[t]
        loss = mean over T, B and N of d^2

    The filters are linear, so the difference is filtered, not each train. They are not normalized:
    a lone spike peaks above 1, the more so the longer the time constants. Time and memory are O(T).
    With the state of the chunk before, chunks give the same d as the whole sequence; the gradient
    stops at the start of the chunk. After van Rossum 2001, doi:10.1162/089976601300014321, with a
    second filter in place of the instantaneous rise.

    Args:
        output: spikes, shape (T, B, N).
        target: spikes to be reproduced, any type, shape (T, B, N).
        tau_rise_ms: time constant of the first filter, > 0.
        tau_decay_ms: time constant of the second, > 0.
        dt_ms: length of a time step.
        state: from the chunk before; None at the start of the trials.

    Returns:
        The loss and the state after the last step.

    Raises:
        ValueError: the shapes differ or are not (T, B, N), or a time is not positive.
    """
    require_raster("output", output)
    if target.shape != output.shape:
        msg = f"target has shape {tuple(target.shape)}, output {tuple(output.shape)}; make them one"
        raise ValueError(msg)
    # Half precision cannot hold sums over many steps.
    dtype = torch.promote_types(output.dtype, torch.float32)
    difference = output.to(dtype) - target.to(dtype)
    rise_before, decay_before = state or (None, None)
    rise_decay = decay_per_step(dt_ms=dt_ms, tau_ms=tau_rise_ms)
    decay = decay_per_step(dt_ms=dt_ms, tau_ms=tau_decay_ms)
    rise = exponential_filter(difference, rise_decay, rise_before)
    both = exponential_filter(rise.values, decay, decay_before)
    # Copies, as views would keep whole chunks in memory.
    after = VanRossumState(rise.last.detach().clone(), both.last.detach().clone())
    return VanRossumLoss(both.values.square().mean(), after)
