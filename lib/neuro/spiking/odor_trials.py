"""Spike counts of olfactory receptor neurons while an odor comes and goes.

The law (Nanami et al. 2024, doi:10.3389/fnins.2024.1384336), in steps of 1 ms:

    p = (max(0, response * 192 * concentration) + 8) * 1e-3

with an 8 Hz baseline before, during and after the odor; no adaptation, no other noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAWS = ("poisson", "bernoulli")
STEP_MS = 1.0


@dataclass(frozen=True)
class OdorLaw:
    """How an odor drives a receptor neuron, and how long.

    Attributes:
        rate_at_response_1_hz: rate added by a full response at concentration 1, in Hz.
        concentration: 0 .. 1.
        baseline_hz: rate without odor.
        trial_ms: length of a trial, a whole number of ms; the odor starts with it.
        duration_min_ms: shortest odor.
        duration_end_ms: all odors are shorter than this; durations are whole ms.
        counts: "bernoulli", at most one spike a ms, or "poisson", the limit of small p.
    """

    rate_at_response_1_hz: float
    concentration: float
    baseline_hz: float
    trial_ms: int
    duration_min_ms: int
    duration_end_ms: int
    counts: str

    def __post_init__(self) -> None:
        """Refuse what is no law.

        Raises:
            ValueError: `counts` names no law, or the odor may be longer than the trial.
        """
        if self.counts not in LAWS:
            msg = f"counts = {self.counts!r} is none of {', '.join(map(repr, LAWS))}"
            raise ValueError(msg)
        if not 0 <= self.duration_min_ms < self.duration_end_ms <= self.trial_ms:
            msg = (
                f"durations from {self.duration_min_ms!r} to below {self.duration_end_ms!r} ms do "
                f"not fit into a trial of {self.trial_ms!r} ms"
            )
            raise ValueError(msg)

    def driven_hz(self, response: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rate that the odor adds to the baseline, in Hz, the shape of `response`."""
        full = self.rate_at_response_1_hz * self.concentration
        return np.clip(response * full, 0, None)

    def draw_duration_ms(self, generator: np.random.Generator) -> int:
        """Draw how long an odor lasts, a whole number of ms."""
        return int(generator.integers(self.duration_min_ms, self.duration_end_ms))


def draw_counts(
    law: OdorLaw,
    response: NDArray[np.float64],
    duration_ms: int,
    *,
    dt_ms: int,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw one trial.

    Args:
        law: rates and times.
        response: of each neuron to the odor, shape (N,).
        duration_ms: how long the odor lasts, from the start of the trial.
        dt_ms: length of a bin, a whole number of ms that divides the trial.
        generator: source of the randomness.

    Returns:
        Spike counts, shape (T, N). A bin in which the odor ends mixes both rates.

    Raises:
        ValueError: the bins do not divide the trial, or a rate is above one spike a ms.
    """
    if dt_ms <= 0 or law.trial_ms % dt_ms:
        msg = f"dt_ms = {dt_ms!r} does not divide the trial of {law.trial_ms!r} ms"
        raise ValueError(msg)
    bins = np.arange(0, law.trial_ms, dt_ms)
    on_ms = np.clip(duration_ms - bins, 0, dt_ms)[:, None]
    driven_hz = law.driven_hz(response)
    if law.counts == "poisson":
        expected = law.baseline_hz * dt_ms + driven_hz * on_ms
        return generator.poisson(expected / MS_PER_S)
    chance = STEP_MS / MS_PER_S
    if driven_hz.max(initial=0) + law.baseline_hz > 1 / chance:
        msg = f"a rate of {driven_hz.max() + law.baseline_hz!r} Hz is above one spike a ms"
        raise ValueError(msg)
    shape = (len(bins), len(response))
    during = generator.binomial(on_ms, (driven_hz + law.baseline_hz) * chance, size=shape)
    return during + generator.binomial(dt_ms - on_ms, law.baseline_hz * chance, size=shape)
