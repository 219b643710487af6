"""What drives a whole-brain simulation: kicks to the potentials of some neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Schedule(NamedTuple):
    """Kicks, random and given; either part may be empty.

    Attributes:
        inputs: neurons kicked at random, int32, shape (K,).
        limits: chance of a kick in a step times 2^64, uint64, shape (K,).
        key: of the random numbers.
        event_steps, event_neurons: given kicks, ascending by step, int64 and int32, shape (M,).
    """

    inputs: NDArray[np.int32]
    limits: NDArray[np.uint64]
    key: int
    event_steps: NDArray[np.int64]
    event_neurons: NDArray[np.int32]


@dataclass(frozen=True)
class PoissonKicks:
    """Random kicks to v: in each step each neuron gets one with chance rate * dt.

    The draws are numbered by step and place in `neurons`: they depend on nothing but the seed.

    Attributes:
        neurons: who is kicked, shape (K,).
        rate_hz: one value or one for each, shape (K,), at most one kick a step.
        kick_mv: size; the default, 250 synapses of 0.275 mV, always makes a neuron at rest spike.
        seed: of the random numbers, >= 0.
        refractory_ms: of the kicked neurons, instead of the model's; None leaves it.
    """

    neurons: ArrayLike
    rate_hz: ArrayLike = 150.0
    kick_mv: float = 68.75
    seed: int = 0
    refractory_ms: float | None = 0.0

    def schedule(self, kicked: NDArray[np.int32], *, dt_ms: float, n_steps: int) -> Schedule:
        """Return whom to kick with which chance.

        Raises:
            ValueError: a rate is negative or above one kick a step.
        """
        del n_steps
        chance = np.broadcast_to(np.asarray(self.rate_hz, float), kicked.shape) * dt_ms / MS_PER_S
        if not ((chance >= 0) & (chance <= 1)).all():
            msg = f"rate_hz = {self.rate_hz!r}: rates must lie in 0 .. {MS_PER_S / dt_ms:g} Hz"
            raise ValueError(msg)
        # A chance of 1 must stay within 64 bits.
        limits = (np.minimum(chance, 1 - 2.0**-53) * 2.0**64).astype(np.uint64)
        key = int(mix(np.array([self.seed], np.uint64))[0])
        return Schedule(kicked, limits, key, np.empty(0, np.int64), np.empty(0, np.int32))


@dataclass(frozen=True)
class GivenKicks:
    """Kicks to v at given steps.

    Attributes:
        steps: shape (K,), >= 0, in any order.
        neurons: shape (K,).
        kick_mv, refractory_ms: see `PoissonKicks`.
    """

    steps: ArrayLike
    neurons: ArrayLike
    kick_mv: float = 68.75
    refractory_ms: float | None = 0.0

    def schedule(self, kicked: NDArray[np.int32], *, dt_ms: float, n_steps: int) -> Schedule:
        """Return the kicks in order.

        Raises:
            ValueError: there is not one step for each kick, or one is outside the simulation.
        """
        del dt_ms
        steps = np.asarray(self.steps, np.int64)
        if steps.shape != kicked.shape or steps.ndim != 1:
            msg = f"steps has shape {steps.shape}, neurons {kicked.shape}; both must be (K,)"
            raise ValueError(msg)
        if len(steps) and not 0 <= steps.min() <= steps.max() < n_steps:
            msg = f"kicks at steps {steps.min()} .. {steps.max()} lie outside 0 .. {n_steps - 1}"
            raise ValueError(msg)
        order = np.argsort(steps, kind="stable")
        nobody = np.empty(0, np.int32), np.empty(0, np.uint64)
        return Schedule(*nobody, 0, steps[order], kicked[order])


def kicked_neurons(schedule: Schedule, step: int) -> NDArray[np.int32]:
    """Return who is kicked in a step, a neuron as often as it is kicked."""
    drawn = draw(schedule.key, step, len(schedule.inputs)) < schedule.limits
    first, last = np.searchsorted(schedule.event_steps, [step, step + 1])
    return np.concatenate([schedule.inputs[drawn], schedule.event_neurons[first:last]])


def draw(key: int, step: int, n_inputs: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each input in one step.

    The generator is splitmix64, read at position step * 2^32 + input of the stream of `key`.
    """
    place = np.uint64(step << 32) | np.arange(n_inputs, dtype=np.uint64)
    return mix(np.uint64(key) + place * np.uint64(0x9E3779B97F4A7C15))


def mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits as splitmix64 does (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
