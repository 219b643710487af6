"""Spike trains kept as events, and read back as dense chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SpikeTrains:
    """K spikes of N units in B trials of T steps, sorted by (step, trial, unit), none twice.

    Attributes:
        offsets: the spikes of step t are offsets[t] .. offsets[t + 1] - 1, int64, shape (T + 1,).
        trial: of each spike, int32, shape (K,).
        unit: of each spike, int32, shape (K,).
        n_trials: B.
        n_units: N.
    """

    offsets: NDArray[np.int64]
    trial: NDArray[np.int32]
    unit: NDArray[np.int32]
    n_trials: int
    n_units: int

    def __post_init__(self) -> None:
        """Check that the arrays fit together.

        Raises:
            ValueError: they do not, or are out of order.
        """
        offsets, n_spikes = np.asarray(self.offsets), len(self.unit)
        if (
            not len(offsets)
            or offsets[0] != 0
            or offsets[-1] != n_spikes
            or (np.diff(offsets) < 0).any()
            or len(self.trial) != n_spikes
        ):
            msg = (
                f"offsets must rise from 0 to the number of spikes; there are {n_spikes} units and "
                f"{len(self.trial)} trials of spikes"
            )
            raise ValueError(msg)
        for name, values, end in (
            ("trial", self.trial, self.n_trials),
            ("unit", self.unit, self.n_units),
        ):
            if n_spikes and not (values.min() >= 0 and values.max() < end):
                msg = f"{name} holds {int(values.min())} .. {int(values.max())}, not 0 .. {end - 1}"
                raise ValueError(msg)
        if not (np.diff(self._place(0, self.n_steps)) > 0).all():
            msg = "the spikes are not sorted by (step, trial, unit), or one is there twice"
            raise ValueError(msg)

    @property
    def n_steps(self) -> int:
        """T."""
        return len(self.offsets) - 1

    @classmethod
    def from_dense(cls, spikes: torch.Tensor) -> SpikeTrains:
        """Keep the events of a raster of 0 and 1, shape (T, B, N)."""
        step, trial, unit = (index.numpy() for index in spikes.nonzero(as_tuple=True))
        offsets = np.zeros(len(spikes) + 1, dtype=np.int64)
        np.cumsum(np.bincount(step, minlength=len(spikes)), out=offsets[1:])
        return cls(offsets, trial.astype(np.int32), unit.astype(np.int32), *spikes.shape[1:])

    @classmethod
    def join(cls, parts: Sequence[SpikeTrains]) -> SpikeTrains:
        """Put spans of time of the same trials and units one after the other.

        Raises:
            ValueError: there are none, or the spans differ in trials or units.
        """
        sizes = {(part.n_trials, part.n_units) for part in parts}
        if len(sizes) != 1:
            msg = f"the parts have (trials, units) = {sorted(sizes)}; they must agree"
            raise ValueError(msg)
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]),
            np.concatenate([part.trial for part in parts]),
            np.concatenate([part.unit for part in parts]),
            *sizes.pop(),
        )

    def dense(
        self, first: int = 0, last: int | None = None, *, like: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the steps first .. last - 1 as 0 and 1.

        Args:
            first: step, 0 .. T.
            last: step after the last, None for T.
            like: gives type and device; float32 on the CPU by default.

        Returns:
            Shape (last - first, B, N); costs what it holds and the spikes in it.

        Raises:
            ValueError: the steps are not there.
        """
        last = self._last(first, last)
        raster = torch.zeros(last - first, self.n_trials, self.n_units)
        raster.view(-1)[torch.from_numpy(self._place(first, last))] = 1
        return raster if like is None else raster.to(like)

    def span(self, first: int, last: int | None = None) -> SpikeTrains:
        """Return the steps first .. last - 1 alone; the first of them becomes step 0.

        Raises:
            ValueError: the steps are not there.
        """
        last = self._last(first, last)
        offsets = self.offsets[first : last + 1]
        span = slice(offsets[0], offsets[-1])
        return SpikeTrains(
            offsets - offsets[0], self.trial[span], self.unit[span], self.n_trials, self.n_units
        )

    def of_trial(self, trial: int) -> SpikeTrains:
        """Return one trial alone, which becomes trial 0.

        Raises:
            ValueError: there is no such trial.
        """
        if not 0 <= trial < self.n_trials:
            msg = f"trial = {trial!r} is none of 0 .. {self.n_trials - 1}"
            raise ValueError(msg)
        own = self.trial == trial
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(own)])
        unit = self.unit[own]
        return SpikeTrains(before[self.offsets], np.zeros_like(unit), unit, 1, self.n_units)

    def of_units(self, units: NDArray[np.int64]) -> SpikeTrains:
        """Return some units alone, numbered by their place in `units`, each of them once."""
        number = np.full(self.n_units, -1, dtype=np.int32)
        number[units] = np.arange(len(units))
        own = number[self.unit] >= 0
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(own)])
        offsets, trial, unit = before[self.offsets], self.trial[own], number[self.unit[own]]
        step = np.repeat(np.arange(self.n_steps), np.diff(offsets))
        order = np.lexsort((unit, trial, step))
        return SpikeTrains(offsets, trial[order], unit[order], self.n_trials, len(units))

    def without(self, units: NDArray[np.int64]) -> SpikeTrains:
        """Return all units, some of them silenced."""
        left = ~np.isin(self.unit, units)
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(left)])
        return SpikeTrains(
            before[self.offsets], self.trial[left], self.unit[left], self.n_trials, self.n_units
        )

    def places(self) -> NDArray[np.int64]:
        """Return (step * B + trial) * N + unit of each spike, rising."""
        return self._place(0, self.n_steps)

    def counts(self) -> NDArray[np.int64]:
        """Return how often each unit spiked in each trial, shape (B, N)."""
        place = self.trial.astype(np.int64) * self.n_units + self.unit
        size = self.n_trials * self.n_units
        return np.bincount(place, minlength=size).reshape(self.n_trials, self.n_units)

    def _last(self, first: int, last: int | None) -> int:
        """Return the step after the last, or refuse steps that are not there."""
        last = self.n_steps if last is None else last
        if not 0 <= first <= last <= self.n_steps:
            msg = f"steps {first!r} .. {last!r} are asked for; there are 0 .. {self.n_steps}"
            raise ValueError(msg)
        return last

    def _place(self, first: int, last: int) -> NDArray[np.int64]:
        """Return where the spikes of some steps stand in the flat raster of these steps."""
        span = slice(self.offsets[first], self.offsets[last])
        step = np.repeat(np.arange(last - first), np.diff(self.offsets[first : last + 1]))
        return (step * self.n_trials + self.trial[span]) * self.n_units + self.unit[span]
