"""A synthetic connectome from its parameters: types, assemblies, graph, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuro.connectome.assemblies import (
    AssemblyWiring,
    FeedforwardWiring,
    assign_assemblies,
    draw_feedforward,
    draw_recurrent,
)
from neuro.connectome.cell_types import Population, draw_types
from neuro.connectome.network_structure import NetworkStructure, WeightedEdges
from neuro.connectome.weights import WeightLaw, draw_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SyntheticConnectome:
    """What a synthetic connectome is drawn from; each attribute is a table of parameters.

    Attributes:
        cells: the neurons.
        recurrent: graph among cells.
        recurrent_weights: their weights, tables [pre cell type][post cell type].
        inputs: what drives the cells (mitral cells).
        feedforward: graph from inputs to cells.
        feedforward_weights: their weights, tables [input type][cell type].
    """

    cells: Population
    recurrent: AssemblyWiring
    recurrent_weights: WeightLaw
    inputs: Population
    feedforward: FeedforwardWiring
    feedforward_weights: WeightLaw


def draw_structure(
    parameters: SyntheticConnectome, *, generator: np.random.Generator
) -> NetworkStructure:
    """Draw a network.

    Types, graphs and weights have random streams of their own, spawned from `generator`: other
    weights, say, leave the graph as it is.

    Args:
        parameters: what to draw from.
        generator: source of the randomness, made by numpy.random.default_rng(seed).

    Returns:
        The network; cells are numbered assembly by assembly, those without assembly last.

    Raises:
        ValueError: the parameters do not fit together.
        RuntimeError: see graph_laws.configuration.
    """
    cells, inputs = parameters.cells, parameters.inputs
    of_cells, of_inputs, of_recurrent, of_feedforward = generator.spawn(4)
    assembly_ids = assign_assemblies(cells.n_cells, parameters.recurrent.n_assemblies)
    type_ids = draw_types(cells, generator=of_cells, assembly_ids=assembly_ids)
    input_type_ids = draw_types(inputs, generator=of_inputs)
    recurrent = _draw_recurrent(parameters, type_ids, assembly_ids, of_recurrent)
    feedforward = _draw_feedforward(parameters, input_type_ids, type_ids, of_feedforward)
    return NetworkStructure(
        cell_type_names=np.array(cells.names),
        cell_type_ids=type_ids,
        assembly_ids=assembly_ids,
        input_type_names=np.array(inputs.names),
        input_type_ids=input_type_ids,
        recurrent_pre=recurrent.pre,
        recurrent_post=recurrent.post,
        recurrent_weight=recurrent.weight,
        feedforward_pre=feedforward.pre,
        feedforward_post=feedforward.post,
        feedforward_weight=feedforward.weight,
    )


def _draw_recurrent(
    parameters: SyntheticConnectome,
    type_ids: NDArray[np.int64],
    assembly_ids: NDArray[np.int64],
    generator: np.random.Generator,
) -> WeightedEdges:
    """Draw edges and weights among cells, from a random stream each."""
    of_graph, of_weights = generator.spawn(2)
    n_types = len(parameters.cells.names)
    edges = draw_recurrent(
        parameters.recurrent, type_ids, assembly_ids, n_types=n_types, generator=of_graph
    )
    weight = draw_weights(
        parameters.recurrent_weights,
        (type_ids[edges.pre], type_ids[edges.post]),
        n_types=(n_types, n_types),
        generator=of_weights,
    )
    return WeightedEdges(*edges, weight.astype(np.float32))


def _draw_feedforward(
    parameters: SyntheticConnectome,
    input_type_ids: NDArray[np.int64],
    type_ids: NDArray[np.int64],
    generator: np.random.Generator,
) -> WeightedEdges:
    """Draw edges and weights from inputs to cells, from a random stream each."""
    of_graph, of_weights = generator.spawn(2)
    n_types = (len(parameters.inputs.names), len(parameters.cells.names))
    edges = draw_feedforward(
        parameters.feedforward, input_type_ids, type_ids, n_types=n_types, generator=of_graph
    )
    weight = draw_weights(
        parameters.feedforward_weights,
        (input_type_ids[edges.pre], type_ids[edges.post]),
        n_types=n_types,
        generator=of_weights,
    )
    return WeightedEdges(*edges, weight.astype(np.float32))
