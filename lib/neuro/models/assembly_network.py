"""A network of cell types as a simulation: a graph, its physiology, and what may be trained.

    structure = load_structure(folder / "network_structure.npz")
    physiology = load_physiology(folder / "physiology.json")
    network = assembly_network(structure, physiology, dt_ms=1.0, surrogate=FastSigmoid(0.5),
                               trainable={"recurrent": "type_pairs"})
    simulation = network({"feedforward": input_spikes})

With `clamped=True` the recurrent projection reads recorded spikes instead of the network's own:
`network({"feedforward": input_spikes, "recurrent": teacher_spikes})`. Its parameters have the same
names and its cells receive the same, as long as it spikes as the recording does.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from neuro.spiking.network import Network
from neuro.spiking.neurons import ConductanceLIF, Synapse
from neuro.spiking.neurons.currents import CurrentLIF, CurrentSynapse
from neuro.spiking.projection import Projection
from neuro.spiking.scaling import Labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from neuro.connectome.network_structure import NetworkStructure, WeightedEdges
    from neuro.models.physiology import Physiology
    from neuro.spiking.surrogate import Surrogate

PROJECTIONS = ("recurrent", "feedforward")
FROZEN = "frozen"
# In steps. A spike needs a step to reach other cells; what comes from outside is there at once.
DELAY_STEPS = {"recurrent": 1, "feedforward": 0}


class Cells(NamedTuple):
    """Types of cells or inputs.

    Attributes:
        names: of the types; a type's id is its place.
        type_ids: of each cell, int64, shape (N,).
    """

    names: NDArray[np.str_]
    type_ids: NDArray[np.int64]

    @property
    def labels(self) -> Labels:
        """The types as projections take them."""
        return Labels(torch.from_numpy(self.type_ids), tuple(self.names.tolist()))


class Channels(NamedTuple):
    """Which channel of a neuron each type of source feeds, and the synapses that listen there.

    Sources with the same kinds of synapses share a channel: conductances of one kind add up, so
    that nothing is lost, and each one less is state and time saved.

    Attributes:
        of_source: channel by type of source.
        synapses: kinds of synapses on all channels.
    """

    of_source: Mapping[str, int]
    synapses: tuple[Synapse | CurrentSynapse, ...]

    @property
    def number(self) -> int:
        """How many channels."""
        return 1 + max(self.of_source.values())


def assembly_network(
    structure: NetworkStructure,
    physiology: Physiology,
    *,
    dt_ms: float,
    surrogate: Surrogate,
    trainable: Mapping[str, str] | None = None,
    clamped: bool = False,
    backend: str = "auto",
    segment_steps: int | None = None,
) -> Network:
    """Make a network of cells with the projections "recurrent" and "feedforward".

    Args:
        structure: graph and weights.
        physiology: of its types of cells and inputs.
        dt_ms: length of a step.
        surrogate: of the potential in its unit, mV or thresholds.
        trainable: scope by projection, see Projection; "frozen" where nothing is said.
        clamped: whether the recurrent projection reads an input of that name.
        backend: see `simulate`.
        segment_steps: see `simulate`.

    Raises:
        ValueError: the physiology lacks a type, or `trainable` names no projection.
    """
    scopes = dict.fromkeys(PROJECTIONS, FROZEN) | dict(trainable or {})
    if unknown := sorted(scopes.keys() - set(PROJECTIONS)):
        msg = f"trainable names {unknown}; the projections are {list(PROJECTIONS)}"
        raise ValueError(msg)
    cells, inputs = cells_and_inputs(structure)
    channels = assign_channels(physiology, [*cells.names.tolist(), *inputs.names.tolist()])
    projections = {
        name: assembly_projection(
            getattr(structure, name),
            pre=pre,
            post=cells,
            channels=channels,
            trainable=scopes[name],
            delay_steps=DELAY_STEPS[name],
        )
        for name, pre in zip(PROJECTIONS, (cells, inputs), strict=True)
    }
    return Network(
        assembly_neuron(physiology, cells, channels, surrogate),
        projections,
        n_units=structure.n_cells,
        dt_ms=dt_ms,
        recurrent=() if clamped else ("recurrent",),
        backend=backend,
        segment_steps=segment_steps,
    )


def cells_and_inputs(structure: NetworkStructure) -> tuple[Cells, Cells]:
    """Return the types of a network's cells and of its inputs."""
    return (
        Cells(structure.cell_type_names, structure.cell_type_ids),
        Cells(structure.input_type_names, structure.input_type_ids),
    )


def assign_channels(physiology: Physiology, sources: Iterable[str]) -> Channels:
    """Give each type of source a channel, in the order of the sources.

    Raises:
        ValueError: the physiology says nothing of a source.
    """
    kinds = {source: physiology.kinds_of(source) for source in sources}
    number = {names: channel for channel, names in enumerate(dict.fromkeys(kinds.values()))}
    make = Synapse if physiology.model == "conductance" else CurrentSynapse
    synapses = tuple(
        make(name=name, channel=channel, **asdict(physiology.synapses[name]))
        for names, channel in number.items()
        for name in names
    )
    return Channels({source: number[names] for source, names in kinds.items()}, synapses)


def assembly_neuron(
    physiology: Physiology, cells: Cells, channels: Channels, surrogate: Surrogate
) -> ConductanceLIF | CurrentLIF:
    """Return the model of all cells, each with the values of its type.

    Raises:
        ValueError: the physiology lacks a type.
    """
    rows = [asdict(physiology.cell(name)) for name in cells.names.tolist()]
    values: dict[str, Any] = {"synapses": channels.synapses, "surrogate": surrogate}
    for name in rows[0]:
        table = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        values[name] = table[torch.from_numpy(cells.type_ids)]
    make = ConductanceLIF if physiology.model == "conductance" else CurrentLIF
    return make(**values)


def thresholds(physiology: Physiology, cells: Cells) -> torch.Tensor:
    """Return the threshold of each cell in the unit of potentials, shape (N,)."""
    table = torch.tensor([physiology.cell(name).threshold for name in cells.names.tolist()])
    return table[torch.from_numpy(cells.type_ids)]


def assembly_projection(
    edges: WeightedEdges,
    *,
    pre: Cells,
    post: Cells,
    channels: Channels,
    trainable: str,
    delay_steps: int,
    groups: tuple[Labels, Labels] | None = None,
) -> Projection:
    """Return the edges from one population to another as synapses on the channels of their type.

    Weights stay >= 0 however they are trained: what a cell does to others is its transmission.
    `groups` of both sides, whose pairs have a factor each, are the types where none are given.
    """
    pre_group, post_group = groups or (pre.labels, post.labels)
    of_type = np.array([channels.of_source[name] for name in pre.names.tolist()], dtype=np.int64)
    return Projection(
        n_pre=len(pre.type_ids),
        n_post=len(post.type_ids),
        weights=torch.from_numpy(edges.weight),
        edges=(torch.from_numpy(edges.pre), torch.from_numpy(edges.post)),
        n_channels=channels.number,
        channel_of_pre=torch.from_numpy(of_type[pre.type_ids]),
        delay_steps=delay_steps,
        trainable=trainable,
        pre_type=pre_group,
        post_type=post_group,
        signs=1,
    )
