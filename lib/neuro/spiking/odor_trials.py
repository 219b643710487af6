"""Spikes of olfactory receptor neurons while an odor comes and goes.

The law (Nanami et al. 2024, doi:10.3389/fnins.2024.1384336), in steps of 1 ms:

    p = (max(0, response * 192 * concentration) + 8) * 1e-3

with an 8 Hz baseline before, during and after the odor; no adaptation, no other noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
            ValueError: `counts` names no law, a rate is negative or no number, the concentration is
                not within 0 .. 1, or the odor may be longer than the trial.
        """
        for name in ("rate_at_response_1_hz", "baseline_hz"):
            if not 0 <= (rate_hz := getattr(self, name)) < math.inf:
                msg = f"{name} = {rate_hz!r} must be a rate of at least 0 Hz"
                raise ValueError(msg)
        if not 0 <= self.concentration <= 1:
            msg = f"concentration = {self.concentration!r} must lie within 0 .. 1"
            raise ValueError(msg)
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

    def n_bins(self, dt_ms: int) -> int:
        """Return how many bins a trial has.

        Args:
            dt_ms: length of a bin, a whole number of ms that divides the trial.

        Raises:
            ValueError: it does not.
        """
        if dt_ms <= 0 or self.trial_ms % dt_ms:
            msg = f"dt_ms = {dt_ms!r} does not divide the trial of {self.trial_ms!r} ms"
            raise ValueError(msg)
        return int(self.trial_ms // dt_ms)

    def hazard(self, response: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return h of a step of 1 ms with odor, the shape of `response`; see `draw_spikes`.

        Raises:
            ValueError: a rate reaches one spike a ms, which "bernoulli" cannot give.
        """
        rate_hz = self.driven_hz(response) + self.baseline_hz
        if self.counts == "poisson":
            return rate_hz * (STEP_MS / MS_PER_S)
        if rate_hz.max(initial=0) >= MS_PER_S / STEP_MS:
            msg = (
                f"a rate of {rate_hz.max()!r} Hz is not below one spike a ms; lower "
                "rate_at_response_1_hz or concentration, or take counts = 'poisson'"
            )
            raise ValueError(msg)
        return -np.log1p(-rate_hz * (STEP_MS / MS_PER_S))


class TrialSpikes(NamedTuple):
    """The spikes of one trial, ordered by time, then neuron.

    Attributes:
        time_ms: the step of 1 ms that a spike falls into, shape (S,).
        neuron: whose spike it is, shape (S,).
    """

    time_ms: NDArray[np.int64]
    neuron: NDArray[np.int64]


def draw_spikes(
    law: OdorLaw,
    response: NDArray[np.float64],
    duration_ms: int,
    *,
    generator: np.random.Generator,
) -> TrialSpikes:
    """Draw one trial, in time proportional to its spikes.

    Points of a Poisson process with hazard h fall into a step of 1 ms with the chance
    1 - exp(-h), independently of all other steps: h = -log(1 - p) gives the Bernoulli law, if
    points that share a step of a neuron count once. Baseline and odor are two such processes.

    Args:
        law: rates and times.
        response: of each neuron to the odor, shape (N,).
        duration_ms: how long the odor lasts, from the start of the trial.
        generator: source of the randomness.

    Returns:
        The spikes; a pair of step and neuron comes twice only under the law "poisson".

    Raises:
        ValueError: a rate reaches one spike a ms, which the law "bernoulli" cannot give.
    """
    n_neurons = len(response)
    base = law.hazard(np.zeros(1))[0]
    added = law.hazard(response) - base
    n_cells = law.trial_ms * n_neurons
    always = generator.integers(0, n_cells, size=generator.poisson(base * n_cells))
    edges = np.cumsum(added)
    n_driven = generator.poisson(edges[-1] * duration_ms)
    drawn = edges.searchsorted(edges[-1] * generator.random(n_driven), side="right")
    neuron = np.minimum(drawn, n_neurons - 1)  # a product of floats may round up to the last edge
    step = generator.integers(0, max(duration_ms, 1), size=n_driven)
    cells = np.concatenate([always, step * n_neurons + neuron])
    if law.counts == "bernoulli":
        spiked = np.zeros(n_cells, dtype=bool)
        spiked[cells] = True
        cells = np.flatnonzero(spiked)
    else:
        cells.sort()
    return TrialSpikes(*np.divmod(cells, n_neurons))
