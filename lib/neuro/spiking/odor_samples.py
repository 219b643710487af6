"""Odor trials by number: sample k is the same spikes wherever and beside whatever it is made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from neuro.spiking.odor_trials import OdorLaw, TrialSpikes, draw_spikes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

SEED_END = 2**64


@dataclass(frozen=True)
class OdorSamples:
    """The trials of C odors, `repetitions` of each, none of them kept.

    Sample k presents odor k % C for the (k // C)-th time. Its duration and spikes come from a
    stream of random numbers of its own, Philox (Salmon et al. 2011, doi:10.1145/2063384.2063405)
    with the key (seed, k). So they depend on nothing else: not on the process, the batch, the
    number of workers or the order; and as spikes are drawn in steps of 1 ms and then summed, not on
    the length of a bin either. More repetitions leave the samples before as they are.

    Attributes:
        law: rates and times.
        response: of each neuron to each odor, shape (C, N).
        seed: 0 .. 2^64 - 1.
        repetitions: of each odor, >= 1.
    """

    law: OdorLaw
    response: NDArray[np.float64]
    seed: int
    repetitions: int

    def __post_init__(self) -> None:
        """Refuse what no sample can be drawn from.

        Raises:
            ValueError: the responses have not two axes or are not finite, a rate is too high for
                the law, or seed or repetitions are out of range.
        """
        if self.response.ndim != 2 or not self.response.size:
            msg = f"response has shape {self.response.shape}; it must be (odor, neuron)"
            raise ValueError(msg)
        if not np.isfinite(self.response).all():
            msg = "response holds values that are no numbers; give 0 where a response is unknown"
            raise ValueError(msg)
        if not 0 <= self.seed < SEED_END:
            msg = f"seed = {self.seed!r} is not a whole number from 0 to 2^64 - 1"
            raise ValueError(msg)
        if self.repetitions < 1:
            msg = f"repetitions = {self.repetitions!r}; present every odor at least once"
            raise ValueError(msg)
        self.law.hazard(self.response)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.repetitions * self.n_odors

    @property
    def n_odors(self) -> int:
        """C."""
        return self.response.shape[0]

    @property
    def n_neurons(self) -> int:
        """N."""
        return self.response.shape[1]

    @property
    def ids(self) -> NDArray[np.int64]:
        """The numbers of all samples."""
        return np.arange(len(self))

    def label(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return which odor each sample presents, the shape of `ids`."""
        return np.asarray(ids, dtype=np.int64) % self.n_odors

    def repetition(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return how many samples of the same odor come before each, the shape of `ids`."""
        return np.asarray(ids, dtype=np.int64) // self.n_odors

    def duration_ms(self, k: int) -> int:
        """Return how long the odor of sample k lasts."""
        return self.law.draw_duration_ms(self._generator(k))

    def spikes(self, k: int) -> TrialSpikes:
        """Return the spikes of sample k, in steps of 1 ms."""
        generator = self._generator(k)
        duration_ms = self.law.draw_duration_ms(generator)
        odor = self.response[k % self.n_odors]
        return draw_spikes(self.law, odor, duration_ms, generator=generator)

    def counts(self, k: int, dt_ms: int) -> NDArray[np.int64]:
        """Count the spikes of sample k in bins.

        Args:
            k: number of the sample.
            dt_ms: length of a bin, a whole number of ms that divides the trial.

        Returns:
            Counts, shape (T, N).

        Raises:
            ValueError: the bins do not divide the trial.
            IndexError: there is no such sample.
        """
        shape = (self.law.n_bins(dt_ms), self.n_neurons)
        time_ms, neuron = self.spikes(k)
        cells = time_ms // dt_ms * self.n_neurons + neuron
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    def batch(self, ids: ArrayLike, dt_ms: int) -> torch.Tensor:
        """Count the spikes of several samples in bins.

        Args:
            ids: numbers of the samples, shape (B,).
            dt_ms: length of a bin, a whole number of ms that divides the trial.

        Returns:
            Counts, time first, shape (T, B, N), float32.

        Raises:
            ValueError: the bins do not divide the trial.
            IndexError: there is no such sample.
        """
        chosen = np.asarray(ids, dtype=np.int64).tolist()
        shape = (self.law.n_bins(dt_ms), len(chosen), self.n_neurons)
        counts = np.zeros(shape, dtype=np.float32)
        for place, k in enumerate(chosen):
            time_ms, neuron = self.spikes(k)
            cells = (time_ms // dt_ms * shape[1] + place) * self.n_neurons + neuron
            np.add.at(counts.reshape(-1), cells, np.float32(1))
        return torch.from_numpy(counts)

    def total_counts(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Count the spikes of several samples over the whole trial, shape (B, N)."""
        chosen = np.asarray(ids, dtype=np.int64).tolist()
        every = [np.bincount(self.spikes(k).neuron, minlength=self.n_neurons) for k in chosen]
        return np.stack(every)

    def split(self, ids: ArrayLike, parts: Sequence[int] = (7, 2, 1)) -> list[NDArray[np.int64]]:
        """Divide samples, say into those to train, to validate and to test with.

        Of every sum(parts) repetitions of an odor in a row, parts[0] go into the first set,
        parts[1] into the second and so on; a hash of odor and repetition chooses which. So every
        odor has its share in every set, and the set of a sample depends on nothing but its odor
        and repetition: not on seed, order, the samples it is asked with, or how many there are.

        Args:
            ids: numbers of the samples, shape (B,).
            parts: sizes of the sets, in samples of an odor; (7, 2, 1) are 70, 20 and 10 %.

        Returns:
            The numbers of each set, in the order of `ids`.

        Raises:
            ValueError: a part is negative, or all are zero.
        """
        if min(parts) < 0 or not sum(parts):
            msg = f"parts = {tuple(parts)!r} must be whole numbers >= 0, one of them more"
            raise ValueError(msg)
        chosen = np.asarray(ids, dtype=np.int64)
        block = self.repetition(chosen) // sum(parts)
        place = {
            (odor, number): _places(odor, number, sum(parts))
            for odor, number in set(zip(self.label(chosen).tolist(), block.tolist(), strict=True))
        }
        within = (self.repetition(chosen) % sum(parts)).tolist()
        keys = zip(self.label(chosen).tolist(), block.tolist(), within, strict=True)
        rank = np.array([place[odor, number][one] for odor, number, one in keys], dtype=np.int64)
        which = np.cumsum(parts).searchsorted(rank, side="right")
        return [chosen[which == number] for number in range(len(parts))]

    def _generator(self, k: int) -> np.random.Generator:
        if not 0 <= k < len(self):
            msg = f"there is no sample {k!r}; they are numbered from 0 to {len(self) - 1}"
            raise IndexError(msg)
        key = np.array([self.seed, k], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))


class OdorBatch(NamedTuple):
    """Several samples.

    Attributes:
        spikes: counts in bins, time first, shape (T, B, N), float32.
        label: their odors, shape (B,).
        sample_id: their numbers, shape (B,).
    """

    spikes: torch.Tensor
    label: torch.Tensor
    sample_id: torch.Tensor


class OdorDataset(Dataset[int]):
    """Samples for a DataLoader, which gives `OdorBatch`es with `collate_fn=dataset.collate`.

    An item is only a sample's number; its spikes are made where the batch is put together, in the
    worker if there are any, and straight into the batch.

    Args:
        samples: all of them.
        ids: numbers of those in this set, shape (n,).
        dt_ms: length of a bin.

    Raises:
        ValueError: the bins do not divide the trial.
    """

    def __init__(self, samples: OdorSamples, ids: ArrayLike, *, dt_ms: int) -> None:
        """Keep the numbers; see the class."""
        samples.law.n_bins(dt_ms)
        self.samples, self.dt_ms = samples, dt_ms
        self.ids = np.asarray(ids, dtype=np.int64)

    def __len__(self) -> int:
        """Return n."""
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        """Return the number of a sample."""
        return int(self.ids[index])

    def collate(self, ids: Sequence[int]) -> OdorBatch:
        """Make the spikes of these samples."""
        chosen = np.asarray(ids, dtype=np.int64)
        return OdorBatch(
            spikes=self.samples.batch(chosen, self.dt_ms),
            label=torch.from_numpy(self.samples.label(chosen)),
            sample_id=torch.from_numpy(chosen),
        )


def _places(odor: int, block: int, length: int) -> list[int]:
    """Return the rank of each of a block's repetitions by the hash of odor and repetition."""

    def digest(within: int) -> bytes:
        return hashlib.sha256(f"{odor}/{block * length + within}".encode()).digest()

    ranked = sorted(range(length), key=digest)
    return [ranked.index(within) for within in range(length)]
