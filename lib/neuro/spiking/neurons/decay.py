"""Constants of discretized neurons."""

from __future__ import annotations

import math


def decay_per_step(*, dt_ms: float, tau_ms: float) -> float:
    """Return the fraction of a leaky potential that is left after one step, exp(-dt / tau).

    This solves tau dU/dt = -U exactly over a step; the Euler approximation would be 1 - dt / tau.

    Args:
        dt_ms: length of a time step in ms, > 0.
        tau_ms: time constant of the leak in ms, > 0.

    Returns:
        The decay factor, between 0 and 1.

    Raises:
        ValueError: `dt_ms` or `tau_ms` is not positive.
    """
    for name, value in (("dt_ms", dt_ms), ("tau_ms", tau_ms)):
        if not value > 0:
            msg = f"{name} = {value!r} is not a positive number of milliseconds"
            raise ValueError(msg)
    return math.exp(-dt_ms / tau_ms)
