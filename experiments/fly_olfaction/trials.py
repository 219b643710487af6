"""Trials as a network takes them: made when they are needed, or once and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from classification import Build, prepared_batch

from engram import progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Trials that are made at a time to be kept.
TOGETHER = 32


class Trials(NamedTuple):
    """n trials of a set.

    Attributes:
        built: network and samples.
        ids: numbers of the samples, shape (n,).
        label: their odors, shape (n,).
        dt_ms: length of a step.
        kept: all of them, prepared, in half precision; None to make them when they are needed.
    """

    built: Build
    ids: NDArray[np.int64]
    label: torch.Tensor
    dt_ms: int
    kept: Any | None

    def prepared(self, which: torch.Tensor) -> Any:  # noqa: ANN401
        """Return some trials for the network, by their places in the set."""
        if self.kept is None:
            return prepared_batch(self.built, self.ids[which.numpy()], self.dt_ms)
        return type(self.kept)(*(part[:, which].float() for part in self.kept))


def make_trials(built: Build, ids: NDArray[np.int64], dt_ms: int, *, keep: bool) -> Trials:
    """Make a set of trials.

    Args:
        built: network and samples.
        ids: numbers of the samples.
        dt_ms: length of a step.
        keep: whether to make all now; worthwhile where what fixed weights make of them is small.
    """
    label = torch.from_numpy(built.samples.label(ids))
    kept = _all(built, ids, dt_ms) if keep else None
    return Trials(built, ids, label, dt_ms, kept)


def _all(built: Build, ids: NDArray[np.int64], dt_ms: int) -> Any:  # noqa: ANN401
    parts: list[Any] = []
    with progress.bar("draw odor trials", total=len(ids)) as bar:
        for first in range(0, len(ids), TOGETHER):
            some = ids[first : first + TOGETHER]
            prepared = prepared_batch(built, some, dt_ms)
            # Rounded by one part in two thousand at most, for half of the memory.
            parts.append(type(prepared)(*(part.half() for part in prepared)))
            bar.advance(len(some))
    columns = zip(*parts, strict=True)
    return type(parts[0])(*(torch.cat(cast("Any", column), dim=1) for column in columns))
