"""How many cells of which type there are, and which cell is which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Population:
    """Cells of several types; a type's id is its place among the names.

    Attributes:
        n_cells: number of cells, >= 1.
        names: the types' names, all different.
        proportions: the types' shares of the cells, >= 0; they sum to 1.
    """

    n_cells: int
    names: Sequence[str]
    proportions: Sequence[float]

    def __post_init__(self) -> None:
        """Refuse what is no population; lists, as TOML gives them, become tuples.

        Raises:
            ValueError: a name repeats, or the proportions do not fit the names or sum to 1.
        """
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "proportions", tuple(self.proportions))
        if self.n_cells < 1:
            msg = f"n_cells = {self.n_cells!r} is not a positive number of cells"
            raise ValueError(msg)
        if not self.names or len(set(self.names)) != len(self.names):
            msg = f"names = {self.names!r} must hold at least one name, each once"
            raise ValueError(msg)
        if len(self.proportions) != len(self.names):
            msg = f"proportions = {self.proportions!r} must hold one share for each of {self.names}"
            raise ValueError(msg)
        if min(self.proportions) < 0 or abs(sum(self.proportions) - 1) > SUM_TOLERANCE:
            msg = f"proportions = {self.proportions!r} must be >= 0 and sum to 1"
            raise ValueError(msg)


def count_types(n_cells: int, proportions: Sequence[float]) -> NDArray[np.int64]:
    """Round shares to whole cells so that they add up (largest remainders are rounded up).

    Args:
        n_cells: number of cells, >= 0.
        proportions: shares of the types, >= 0, summing to 1.

    Returns:
        Number of cells of each type, summing to `n_cells`; less than 1 off share * n_cells.
    """
    shares = np.asarray(proportions, dtype=float)
    exact = shares / shares.sum() * n_cells
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: n_cells - counts.sum()]] += 1
    return counts


def draw_types(
    population: Population,
    *,
    generator: np.random.Generator,
    assembly_ids: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Deal the types out to the cells at random; their numbers are not random.

    Args:
        population: how many cells, of what types.
        generator: source of the randomness.
        assembly_ids: every assembly gets the types in proportion, and so do the cells without
            assembly (-1), shape (N,); None deals over all cells.

    Returns:
        Type ids, shape (N,).

    Raises:
        ValueError: `assembly_ids` holds another number of cells.
    """
    n_cells = population.n_cells
    groups = np.zeros(n_cells, dtype=np.int64) if assembly_ids is None else assembly_ids
    if len(groups) != n_cells:
        msg = f"assembly_ids has {len(groups)} entries for n_cells = {n_cells}"
        raise ValueError(msg)
    types = np.empty(n_cells, dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        counts = count_types(len(members), population.proportions)
        types[members] = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    return types
