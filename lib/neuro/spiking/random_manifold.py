"""Spikes on smooth random manifolds: classes that only the times of spikes tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

# Counters of Philox that the samples of a seed never reach: manifolds are drawn from there.
_MANIFOLDS = 2**62


@dataclass(frozen=True)
class ManifoldLaw:
    """What the manifolds of all classes have in common.

    Attributes:
        n_classes: C, each a manifold of its own.
        n_dimensions: D of each manifold.
        smoothness: alpha, >= 0; the larger, the fewer folds a manifold has.
        n_modes: K, sine waves a dimension.
        duration_ms: in which every input spikes once.
    """

    n_classes: int
    n_dimensions: int
    smoothness: float
    n_modes: int
    duration_ms: float

    def __post_init__(self) -> None:
        """Refuse what is no manifold.

        Raises:
            ValueError: a number is not positive, or the smoothness is negative.
        """
        for name in ("n_classes", "n_dimensions", "n_modes", "duration_ms"):
            if not getattr(self, name) > 0:
                msg = f"{name} = {getattr(self, name)!r} must be above 0"
                raise ValueError(msg)
        if not self.smoothness >= 0:
            msg = f"smoothness = {self.smoothness!r} must be >= 0"
            raise ValueError(msg)


class RandomManifolds:
    """Samples of C classes in the spike times of P inputs; sample k is of class k % C.

    Sample k is a point x of the unit cube in D dimensions, the same whatever its class. The
    manifold of a class maps it to one spike time of each input i,

        t_i(x) = T Phi( prod_d f_id(x_d) ),
        f_id(x) = sqrt(2 / norm) sum_k a_k k^-alpha sin(2 pi (k x + phi_k)),    k = 1 .. K

    with amplitudes a and phases phi of their own for each class, input and dimension. The norm,
    sum_k a_k^2 k^-2alpha, gives f a variance of 1 over the cube; Phi, the cumulative distribution
    of the normal law, spreads times over the whole duration T. After the random manifolds of Zenke
    & Vogels 2021, doi:10.1162/neco_a_01367, whose times are scaled to the extremes of the drawn
    samples instead, so that a sample there depends on the others.

    Everything comes from Philox, a counter-based generator, keyed by the seed and the sample's
    number: a sample is the same in any process, order and batch.
    """

    def __init__(self, law: ManifoldLaw, *, n_inputs: int, seed: int) -> None:
        """Draw the manifolds.

        Args:
            law: of the manifolds.
            n_inputs: P.
            seed: >= 0, of manifolds and samples.

        Raises:
            ValueError: there is no input, or the seed is negative.
        """
        if n_inputs < 1 or seed < 0:
            msg = f"n_inputs = {n_inputs!r} must be at least 1 and seed = {seed!r} at least 0"
            raise ValueError(msg)
        self.law, self.n_inputs, self.seed = law, n_inputs, seed
        shape = (law.n_classes, n_inputs, law.n_dimensions, law.n_modes)
        generator = np.random.Generator(np.random.Philox(key=[seed, _MANIFOLDS]))
        amplitude = generator.random(shape) * self._order ** (-law.smoothness)
        norm = np.sqrt((amplitude**2).sum(axis=-1, keepdims=True) / 2)
        self._amplitude, self._phase = amplitude / norm, generator.random(shape)

    @property
    def _order(self) -> NDArray[np.float64]:
        """Number of waves over the cube of each mode, shape (K,)."""
        return np.arange(1.0, self.law.n_modes + 1)

    def labels(self, samples: Iterable[int]) -> NDArray[np.int64]:
        """Return the class of each sample, shape (B,)."""
        return np.fromiter(samples, dtype=np.int64) % self.law.n_classes

    def points(self, samples: Iterable[int]) -> NDArray[np.float64]:
        """Return the point of the cube of each sample, shape (B, D)."""
        streams = (np.random.Philox(key=[self.seed, int(sample)]) for sample in samples)
        size = self.law.n_dimensions
        return np.stack([np.random.Generator(stream).random(size) for stream in streams])

    def spike_times_ms(self, samples: Iterable[int]) -> NDArray[np.float64]:
        """Return when each input spikes, shape (B, P), in 0 .. duration_ms."""
        chosen = list(samples)
        return self.times_at_ms(self.points(chosen), self.labels(chosen))

    def times_at_ms(
        self, points: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return when inputs spike at points of the cube, (B, D), of classes, (B,)."""
        angle = points[:, None, :, None] * self._order + self._phase[labels]
        waves = (self._amplitude[labels] * np.sin(2 * np.pi * angle)).sum(axis=-1)
        times: NDArray[np.float64] = ndtr(waves.prod(axis=-1)) * self.law.duration_ms
        return times

    def batch(self, samples: Iterable[int], *, dt_ms: float, n_steps: int) -> torch.Tensor:
        """Return spikes, 0 or 1, float32, shape (T, B, P).

        Args:
            samples: their numbers, >= 0.
            dt_ms: length of a step.
            n_steps: T, at least the duration; steps after it are silent.

        Raises:
            ValueError: the steps end before the samples do.
        """
        if n_steps * dt_ms < self.law.duration_ms - 1e-9:
            msg = f"{n_steps!r} steps of {dt_ms!r} ms end before {self.law.duration_ms!r} ms"
            raise ValueError(msg)
        step = np.floor(self.spike_times_ms(samples) / dt_ms).astype(np.int64)
        place = torch.from_numpy(np.minimum(step, n_steps - 1))
        return torch.zeros(n_steps, *place.shape).scatter_(0, place[None], 1.0)
