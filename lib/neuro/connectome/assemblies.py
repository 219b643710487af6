"""Synthetic connectomes whose cells form assemblies: denser within an assembly than between.

Probabilities are matrices [pre type, post type]. The self-loop test is on cells: unlike in
connectome-snns (github.com/rory-bedford/connectome-snns, 06bd03d), cells of equal rank in two
different assemblies may be joined.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.connectome.graph_laws import LAWS, Pairs, check_law
from neuro.connectome.type_pairs import type_pair_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from neuro.connectome.type_pairs import TypePairs

logger = logging.getLogger(__name__)

UNASSIGNED = -1


@dataclass(frozen=True)
class AssemblyWiring:
    """How cells that form assemblies project to each other.

    Attributes:
        n_assemblies: >= 1; with 1, all cells form one assembly.
        law: "erdos-renyi" or "configuration"; see graph_laws.
        conn_within: probabilities within an assembly, [pre type][post type], 0 .. 1.
        conn_between: between two assemblies, and from, to and among cells without assembly.
    """

    n_assemblies: int
    law: str
    conn_within: TypePairs
    conn_between: TypePairs

    def __post_init__(self) -> None:
        """Refuse an unknown law.

        Raises:
            ValueError: `law` is no law.
        """
        check_law(self.law)


@dataclass(frozen=True)
class FeedforwardWiring:
    """How inputs project to cells, whatever the assembly.

    Attributes:
        law: "erdos-renyi" or "configuration"; see graph_laws.
        probability: of a pair, [input type][cell type] or one number for all, 0 .. 1.
    """

    law: str
    probability: TypePairs

    def __post_init__(self) -> None:
        """Refuse an unknown law.

        Raises:
            ValueError: `law` is no law.
        """
        check_law(self.law)


class Group(NamedTuple):
    """Cells of one type in one assembly."""

    assembly: int
    type: int
    cells: NDArray[np.int64]


def assign_assemblies(n_cells: int, n_assemblies: int) -> NDArray[np.int64]:
    """Cut the cells into contiguous assemblies of n_cells // n_assemblies cells.

    Args:
        n_cells: number of cells N.
        n_assemblies: number of assemblies, 1 .. n_cells.

    Returns:
        Assembly ids, shape (N,); the last n_cells % n_assemblies cells get `UNASSIGNED`, and their
        number is logged.

    Raises:
        ValueError: there are no assemblies, or more than cells.
    """
    if not 1 <= n_assemblies <= n_cells:
        msg = f"n_assemblies = {n_assemblies!r} must lie in 1 .. {n_cells} (the number of cells)"
        raise ValueError(msg)
    size, n_left = divmod(n_cells, n_assemblies)
    if n_left:
        logger.warning(
            "%d of %d cells belong to no assembly (%d assemblies of %d)",
            *(n_left, n_cells, n_assemblies, size),
        )
    ids = np.full(n_cells, UNASSIGNED, dtype=np.int64)
    ids[: n_assemblies * size] = np.repeat(np.arange(n_assemblies), size)
    return ids


def draw_recurrent(
    wiring: AssemblyWiring,
    type_ids: NDArray[np.int64],
    assembly_ids: NDArray[np.int64],
    *,
    n_types: int,
    generator: np.random.Generator,
) -> Pairs:
    """Draw the edges among cells.

    Args:
        wiring: law and probabilities.
        type_ids: of the cells, shape (N,).
        assembly_ids: of the cells, `UNASSIGNED` for none, shape (N,).
        n_types: number of cell types.
        generator: source of the randomness.

    Returns:
        Edges, sorted by (pre, post), none twice and none from a cell to itself.

    Raises:
        ValueError: a probability is none, or asks for more edges than there are pairs.
        RuntimeError: see graph_laws.configuration.
    """
    shape = (n_types, n_types)
    within = type_pair_matrix("conn_within", wiring.conn_within, shape, most=1)
    between = type_pair_matrix("conn_between", wiring.conn_between, shape, most=1)
    groups = _group(type_ids, assembly_ids)
    blocks = []
    for pre in groups:
        for post in groups:
            same = pre.assembly == post.assembly != UNASSIGNED
            name, matrix = ("conn_within", within) if same else ("conn_between", between)
            block = _Block(wiring.law, name, matrix[pre.type, post.type], pre, post)
            blocks.append(_draw_block(block, recurrent=True, generator=generator))
    return _sort(blocks, n_post=len(type_ids))


def draw_feedforward(
    wiring: FeedforwardWiring,
    input_type_ids: NDArray[np.int64],
    type_ids: NDArray[np.int64],
    *,
    n_types: tuple[int, int],
    generator: np.random.Generator,
) -> Pairs:
    """Draw the edges from inputs to cells.

    Args:
        wiring: law and probabilities.
        input_type_ids: of the inputs, shape (N_in,).
        type_ids: of the cells, shape (N,).
        n_types: number of input types and of cell types.
        generator: source of the randomness.

    Returns:
        Edges, sorted by (pre, post), none twice.

    Raises:
        ValueError: a probability is none.
        RuntimeError: see graph_laws.configuration.
    """
    matrix = type_pair_matrix("probability", wiring.probability, n_types, most=1)
    blocks = []
    for pre in _group(input_type_ids, np.zeros_like(input_type_ids)):
        for post in _group(type_ids, np.zeros_like(type_ids)):
            block = _Block(wiring.law, "probability", matrix[pre.type, post.type], pre, post)
            blocks.append(_draw_block(block, recurrent=False, generator=generator))
    return _sort(blocks, n_post=len(type_ids))


class _Block(NamedTuple):
    """Two groups and what joins them; `name` is that of the table the probability is from."""

    law: str
    name: str
    probability: float
    pre: Group
    post: Group


def _group(type_ids: NDArray[np.int64], assembly_ids: NDArray[np.int64]) -> list[Group]:
    """Return the groups that have cells, ordered by assembly, then type."""
    pairs = np.unique(np.column_stack([assembly_ids, type_ids]), axis=0)
    return [
        Group(int(a), int(t), np.flatnonzero((assembly_ids == a) & (type_ids == t)))
        for a, t in pairs
    ]


def _draw_block(block: _Block, *, recurrent: bool, generator: np.random.Generator) -> Pairs:
    """Draw the edges from one group to another, as ids of cells."""
    pre, post = block.pre, block.post
    try:
        pairs = LAWS[block.law](
            len(pre.cells),
            len(post.cells),
            float(block.probability),
            within=recurrent and pre[:2] == post[:2],
            generator=generator,
        )
    except (ValueError, RuntimeError) as error:
        msg = f"{block.name}[{pre.type}][{post.type}]: {error}"
        raise type(error)(msg) from error
    return Pairs(pre.cells[pairs.pre], post.cells[pairs.post])


def _sort(blocks: Iterable[Pairs], *, n_post: int) -> Pairs:
    """Join the blocks' edges into one list, sorted by (pre, post)."""
    pre = np.concatenate([block.pre for block in blocks])
    post = np.concatenate([block.post for block in blocks])
    return Pairs(*np.divmod(np.sort(pre * n_post + post), n_post))
