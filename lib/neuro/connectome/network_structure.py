"""The file that hands a network from stage to stage: cells, inputs, edges and weights.

One .npz file holds these arrays, no more and no fewer (N cells, N_in inputs, E and F edges):

    name                 type     shape               meaning
    cell_type_names      str      (cell types,)       names; a type's id is its place
    cell_type_ids        int64    (N,)                type of each cell
    assembly_ids         int64    (N,)                assembly of each cell, -1 for none
    input_type_names     str      (input types,)      names of the inputs' types
    input_type_ids       int64    (N_in,)             type of each input
    recurrent_pre        int64    (E,)                cell that projects
    recurrent_post       int64    (E,)                cell that is projected to, never the same
    recurrent_weight     float32  (E,)                >= 0
    feedforward_pre      int64    (F,)                input that projects
    feedforward_post     int64    (F,)                cell that is projected to
    feedforward_weight   float32  (F,)                >= 0

Edges are sorted by (pre, post), and none occurs twice. Weights have no sign: the sign is that of
the presynaptic type's synapses, which belong to the physiology and not to the graph.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

REMEDY = "write it with neuro.connectome.network_structure.save_structure"


class WeightedEdges(NamedTuple):
    """Edges of a projection, sorted by (pre, post), each array of shape (E,)."""

    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    weight: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkStructure:
    """A network's graph; the attributes are the arrays drawn in the module's docstring.

    Whoever changes weights makes a new one: `dataclasses.replace(structure, recurrent_weight=w)`.
    """

    cell_type_names: NDArray[np.str_]
    cell_type_ids: NDArray[np.int64]
    assembly_ids: NDArray[np.int64]
    input_type_names: NDArray[np.str_]
    input_type_ids: NDArray[np.int64]
    recurrent_pre: NDArray[np.int64]
    recurrent_post: NDArray[np.int64]
    recurrent_weight: NDArray[np.float32]
    feedforward_pre: NDArray[np.int64]
    feedforward_post: NDArray[np.int64]
    feedforward_weight: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Convert types without loss of meaning, then check shapes and ranges.

        Raises:
            ValueError: an array has another kind of value, another shape, or values out of range.
        """
        for field in fields(self):
            value = _convert(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        _check_ids("cell_type_ids", self.cell_type_ids, end=len(self.cell_type_names))
        _check_ids("input_type_ids", self.input_type_ids, end=len(self.input_type_names))
        _check_ids("assembly_ids", self.assembly_ids, start=-1, end=self.n_cells)
        if len(self.assembly_ids) != self.n_cells:
            msg = f"assembly_ids has {len(self.assembly_ids)} entries for {self.n_cells} cells"
            raise ValueError(msg)
        _check_edges("recurrent", self.recurrent, n_pre=self.n_cells, n_post=self.n_cells)
        _check_edges("feedforward", self.feedforward, n_pre=self.n_inputs, n_post=self.n_cells)
        if (self.recurrent_pre == self.recurrent_post).any():
            msg = "recurrent_pre and recurrent_post hold an edge from a cell to itself"
            raise ValueError(msg)

    @property
    def n_cells(self) -> int:
        """Number of cells N."""
        return len(self.cell_type_ids)

    @property
    def n_inputs(self) -> int:
        """Number of inputs N_in."""
        return len(self.input_type_ids)

    @property
    def n_assemblies(self) -> int:
        """Number of assemblies."""
        return int(self.assembly_ids.max(initial=-1)) + 1

    @property
    def recurrent(self) -> WeightedEdges:
        """Edges among cells."""
        return WeightedEdges(self.recurrent_pre, self.recurrent_post, self.recurrent_weight)

    @property
    def feedforward(self) -> WeightedEdges:
        """Edges from inputs to cells."""
        return WeightedEdges(self.feedforward_pre, self.feedforward_post, self.feedforward_weight)

    @property
    def recurrent_type_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Type of the presynaptic and of the postsynaptic cell of each recurrent edge.

        An index: `factor[structure.recurrent_type_pairs]` spreads a table [pre type, post type]
        over the edges.
        """
        types = self.cell_type_ids
        return types[self.recurrent_pre], types[self.recurrent_post]

    @property
    def feedforward_type_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Type of the input and of the cell of each feed-forward edge; an index, as above."""
        return self.input_type_ids[self.feedforward_pre], self.cell_type_ids[self.feedforward_post]

    def cell_type(self, name: str) -> int:
        """Return the id of a cell type.

        Raises:
            ValueError: there is no type of that name.
        """
        names = self.cell_type_names.tolist()
        if name not in names:
            msg = f"cell type {name!r} is none of {', '.join(map(repr, names))}"
            raise ValueError(msg)
        return names.index(name)


def save_structure(path: Path, structure: NetworkStructure) -> None:
    """Write a structure; equal structures give equal bytes. The file appears whole or not at all.

    Args:
        path: the file, NAME.npz.
        structure: what to write.
    """
    arrays = {field.name: getattr(structure, field.name) for field in fields(structure)}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_structure(path: Path) -> NetworkStructure:
    """Read a structure and check it.

    Args:
        path: a file that `save_structure` wrote.

    Returns:
        The structure.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or arrays that do not fit together.
    """
    if not path.is_file():
        msg = f"there is no network structure {path}: name the run of the stage that writes it"
        raise FileNotFoundError(msg)
    try:
        # Opened here, since numpy leaves a file open that turns out to be broken.
        with path.open("rb") as file, zipfile.ZipFile(file):
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        msg = f"{path} is no whole .npz file of plain arrays ({error}): {REMEDY}"
        raise ValueError(msg) from error
    expected = {field.name for field in fields(NetworkStructure)}
    if missing := sorted(expected - arrays.keys()):
        extra = sorted(arrays.keys() - expected)
        msg = f"{path} lacks {', '.join(missing)} (it also holds: {extra}): {REMEDY}"
        raise ValueError(msg)
    if extra := sorted(arrays.keys() - expected):
        msg = f"{path} holds {', '.join(extra)}, which no network structure has: {REMEDY}"
        raise ValueError(msg)
    try:
        return NetworkStructure(**arrays)
    except ValueError as error:
        msg = f"{path}: {error}: {REMEDY}"
        raise ValueError(msg) from error


def _convert(name: str, value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array in the type of the schema, which its name tells."""
    array = np.asarray(value)
    kinds, dtype = _type_of(name)
    if array.ndim != 1 or array.dtype.kind not in kinds:
        what = {"U": "names", "f": "real numbers", "iu": "whole numbers"}[kinds]
        msg = f"{name} has shape {array.shape} and type {array.dtype}, not one axis of {what}"
        raise ValueError(msg)
    if kinds == "U" and len(set(array.tolist())) != array.size:
        msg = f"{name} = {array.tolist()!r} holds a name twice"
        raise ValueError(msg)
    if kinds == "f" and not ((array >= 0) & (array <= np.finfo(np.float32).max)).all():
        msg = f"{name} holds a value that is negative, infinite or no number"
        raise ValueError(msg)
    return array.astype(dtype, copy=False)


def _type_of(name: str) -> tuple[str, type[np.generic]]:
    """Return the kinds of values that are taken under a name, and the type they are kept in."""
    if name.endswith("_names"):
        return "U", np.str_
    if name.endswith("_weight"):
        return "f", np.float32
    return "iu", np.int64


def _check_ids(name: str, ids: NDArray[np.int64], *, start: int = 0, end: int) -> None:
    """Refuse ids outside of start .. end - 1."""
    if not ids.size:
        return
    if ids.min() < start or ids.max() >= end:
        worst = ids.min() if ids.min() < start else ids.max()
        msg = f"{name} holds {int(worst)}, which is not in {start} .. {end - 1}"
        raise ValueError(msg)


def _check_edges(name: str, edges: WeightedEdges, *, n_pre: int, n_post: int) -> None:
    """Refuse edges that lead nowhere, are not in order, or repeat."""
    sizes = {f"{name}_{part}": len(array) for part, array in edges._asdict().items()}
    if len(set(sizes.values())) > 1:
        msg = f"arrays of one projection differ in length: {sizes}"
        raise ValueError(msg)
    _check_ids(f"{name}_pre", edges.pre, end=n_pre)
    _check_ids(f"{name}_post", edges.post, end=n_post)
    if not (np.diff(edges.pre * n_post + edges.post) > 0).all():
        msg = f"{name}_pre and {name}_post are not sorted by (pre, post), or hold an edge twice"
        raise ValueError(msg)
