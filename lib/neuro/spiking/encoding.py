"""Turning values into spike trains."""

from __future__ import annotations

import torch

from neuro.units import MS_PER_S


def spike_probability(rate_hz: torch.Tensor, *, dt_ms: float) -> torch.Tensor:
    """Return the chance of a spike in one time step, p = rate * dt.

    Args:
        rate_hz: firing rates in Hz, any shape, 0 <= rate_hz <= 1000 / dt_ms.
        dt_ms: length of a time step in ms, > 0.

    Returns:
        Probabilities in [0, 1], the shape of `rate_hz`.

    Raises:
        ValueError: `dt_ms` is not positive, or a rate is negative, NaN or above one spike a step.
    """
    if not dt_ms > 0:
        msg = f"dt_ms = {dt_ms!r} is not a positive number of milliseconds"
        raise ValueError(msg)
    probability = rate_hz * (dt_ms / MS_PER_S)
    outside = ~((probability >= 0) & (probability <= 1))
    if outside.any():
        rate = rate_hz[outside].flatten()[0].item()
        msg = (
            f"rate_hz holds {rate!r}: with dt_ms = {dt_ms!r} a rate must lie in 0 .. "
            f"{MS_PER_S / dt_ms:g} Hz (one spike a step); lower the rate or dt_ms"
        )
        raise ValueError(msg)
    return probability


def encode_rate(
    rate_hz: torch.Tensor,
    *,
    n_steps: int,
    dt_ms: float,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw spike trains of constant rate: every step is an independent Bernoulli trial.

    For small rate * dt this is a Poisson process seen in bins of dt; at rate * dt = 1 a unit spikes
    in every step.

    Args:
        rate_hz: firing rates in Hz, shape (B, N) or any other, 0 <= rate_hz <= 1000 / dt_ms.
        n_steps: number of time steps T, >= 0.
        dt_ms: length of a time step in ms, > 0.
        generator: source of the randomness; PyTorch's global stream if None.

    Returns:
        Spikes, 0 or 1 in the floating type of `rate_hz`, shape (T, *rate_hz.shape).

    Raises:
        ValueError: see `spike_probability`.
    """
    probability = spike_probability(rate_hz, dt_ms=dt_ms)
    return torch.bernoulli(probability.expand(n_steps, *rate_hz.shape), generator=generator)
