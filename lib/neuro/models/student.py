"""A network that knows its wiring but not how strong each kind of connection is.

A student has the teacher's graph with every weight multiplied by an unknown factor of its group of
connections; what it learns are scaling factors, and the right ones undo the unknown factors. Cells
whose spikes were recorded act on the others by the recording ("given"), all others by what the
student makes them do ("recurrent"):

    every cell free     a recurrent network that runs by itself
    no cell free        a feed-forward network, driven by inputs and recorded spikes alone
    some cells free     hidden cells, simulated between recorded ones
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from neuro.connectome.network_structure import WeightedEdges
from neuro.models.assembly_network import (
    DELAY_STEPS,
    Cells,
    assembly_neuron,
    assembly_projection,
    assign_channels,
)
from neuro.spiking.network import Network
from neuro.spiking.scaling import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuro.connectome.network_structure import NetworkStructure
    from neuro.models.physiology import Physiology
    from neuro.spiking.scaling import ScalingFactors
    from neuro.spiking.surrogate import Surrogate

GROUPINGS = ("cell_types", "assemblies")


class Groups(NamedTuple):
    """Which group each cell and each input belongs to; a factor belongs to a pair of groups.

    Attributes:
        cells: of N cells.
        inputs: of N_in inputs.
    """

    cells: Labels
    inputs: Labels

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Shape of the table of factors, by kind of connection."""
        n_cells, n_inputs = len(self.cells.names), len(self.inputs.names)
        return {"recurrent": (n_cells, n_cells), "feedforward": (n_inputs, n_cells)}


class FactorTables(NamedTuple):
    """A value for each pair of groups.

    Attributes:
        recurrent: shape [group of pre, group of post].
        feedforward: shape [group of inputs, group of post].
    """

    recurrent: torch.Tensor
    feedforward: torch.Tensor

    def flat(self) -> NDArray[np.float64]:
        """Return all values, recurrent ones first."""
        parts = [table.detach().double().numpy().ravel() for table in self]
        return np.concatenate(parts)


def make_groups(structure: NetworkStructure, grouping: str) -> Groups:
    """Group cells and inputs.

    Args:
        structure: the network.
        grouping: "cell_types": cells of a type; "assemblies": cells of a type in an assembly, those
            without assembly making a group of their own. Inputs are grouped by type in both.

    Raises:
        ValueError: there is no such grouping.
    """
    if grouping not in GROUPINGS:
        msg = f"grouping = {grouping!r} is none of {', '.join(map(repr, GROUPINGS))}"
        raise ValueError(msg)
    inputs = Cells(structure.input_type_names, structure.input_type_ids).labels
    types = Cells(structure.cell_type_names, structure.cell_type_ids).labels
    if grouping == "cell_types":
        return Groups(types, inputs)
    key = structure.assembly_ids * len(types.names) + structure.cell_type_ids
    found, ids = np.unique(key, return_inverse=True)
    names = []
    for assembly, cell_type in zip(*np.divmod(found, len(types.names)), strict=True):
        where = "" if assembly < 0 else str(assembly)
        names.append(f"{types.names[cell_type]}{where}")
    return Groups(Labels(torch.from_numpy(ids), tuple(names)), inputs)


def student_network(
    structure: NetworkStructure,
    physiology: Physiology,
    groups: Groups,
    *,
    free: NDArray[np.bool_],
    dt_ms: float,
    surrogate: Surrogate,
    backend: str = "auto",
    share: Network | None = None,
) -> Network:
    """Make a student; it reads "feedforward" and, where cells are not free, "given".

    Args:
        structure: graph and weights, as the student knows them.
        physiology: of its types of cells and inputs.
        groups: whose factors are learned.
        free: cells that act by what the student makes them do, shape (N,).
        dt_ms: length of a step.
        surrogate: see ConductanceLIF.
        backend: see `simulate`.
        share: a student whose factors this one uses too.
    """
    cells = Cells(structure.cell_type_names, structure.cell_type_ids)
    inputs = Cells(structure.input_type_names, structure.input_type_ids)
    channels = assign_channels(physiology, [*cells.names.tolist(), *inputs.names.tolist()])
    sources = {name: (cells, groups.cells, "recurrent") for name in ("given", "recurrent")}
    sources["feedforward"] = (inputs, groups.inputs, "feedforward")
    projections = {
        name: assembly_projection(
            part,
            pre=sources[name][0],
            post=cells,
            channels=channels,
            trainable="type_pairs",
            delay_steps=DELAY_STEPS[sources[name][2]],
            groups=(sources[name][1], groups.cells),
        )
        for name, part in _parts(structure, free).items()
    }
    network = Network(
        assembly_neuron(physiology, cells, channels, surrogate),
        projections,
        n_units=structure.n_cells,
        dt_ms=dt_ms,
        recurrent=("recurrent",) if "recurrent" in projections else (),
        backend=backend,
    )
    _share_factors(network, share or network)
    return network


def log_factors(network: Network) -> FactorTables:
    """Return the parameters of a student: logarithms of its scaling factors."""
    among_cells = "given" if "given" in network.projections else "recurrent"
    return FactorTables(
        *(_scaling(network, name).log_factors for name in (among_cells, "feedforward"))
    )


def used_pairs(structure: NetworkStructure, groups: Groups) -> FactorTables:
    """Return which factors any synapse has; the others mean nothing and cannot be learned."""
    tables = [torch.zeros(size, dtype=torch.bool) for size in groups.sizes.values()]
    for table, edges, pre in zip(
        tables,
        (structure.recurrent, structure.feedforward),
        (groups.cells, groups.inputs),
        strict=True,
    ):
        table[
            pre.ids[torch.from_numpy(edges.pre)], groups.cells.ids[torch.from_numpy(edges.post)]
        ] = True
    return FactorTables(*tables)


def _parts(structure: NetworkStructure, free: NDArray[np.bool_]) -> dict[str, WeightedEdges]:
    """Return the edges of each projection that has some."""
    edges = structure.recurrent
    starts = {"given": ~free[edges.pre], "recurrent": free[edges.pre]}
    return {"feedforward": structure.feedforward} | {
        name: WeightedEdges(edges.pre[own], edges.post[own], edges.weight[own])
        for name, own in starts.items()
        if own.any()
    }


def _scaling(network: Network, name: str) -> ScalingFactors:
    return cast("ScalingFactors", network.projections[name].scaling)


def _share_factors(network: Network, owner: Network) -> None:
    """Let all recurrent connections of both networks have one table of factors, and all inputs."""
    tables = log_factors(owner)
    for name in network.projections:
        table = tables.feedforward if name == "feedforward" else tables.recurrent
        _scaling(network, name).log_factors = cast("torch.nn.Parameter", table)
