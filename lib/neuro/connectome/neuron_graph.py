"""Who drives whom, in which cell group each neuron is: all that a teacher's students are told.

A common form of synthetic networks and of circuits from data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neuro.connectome.assemblies import AssemblyWiring, FeedforwardWiring
from neuro.connectome.cell_types import Population
from neuro.connectome.synthetic import SyntheticConnectome, draw_structure
from neuro.connectome.weights import WeightLaw
from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from neuro.connectome.circuit import Circuit
    from neuro.connectome.network_structure import WeightedEdges

EDGES = ("feedforward", "recurrent")


class SignedEdges(NamedTuple):
    """E edges, each pair there once.

    Attributes:
        pre: presynaptic unit, shape (E,).
        post: postsynaptic unit, shape (E,).
        weight: signed, one sign a presynaptic unit, none of them 0, shape (E,).
    """

    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    weight: NDArray[np.float32]


class NeuronGraph(NamedTuple):
    """N neurons driven by P inputs.

    Attributes:
        feedforward: from the inputs.
        recurrent: among the neurons.
        input_id: what each input is called elsewhere, integers, shape (P,).
        unit_id: what each neuron is called elsewhere, shape (N,).
        group: cell group of each neuron, a number, shape (N,).
        group_names: of the groups.
        readout: neurons that are read out, shape (R,).
    """

    feedforward: SignedEdges
    recurrent: SignedEdges
    input_id: NDArray[np.int64]
    unit_id: NDArray[np.int64]
    group: NDArray[np.int64]
    group_names: tuple[str, ...]
    readout: NDArray[np.int64]

    @property
    def n_inputs(self) -> int:
        """P."""
        return len(self.input_id)

    @property
    def n_units(self) -> int:
        """N."""
        return len(self.unit_id)


@dataclass(frozen=True)
class RandomGraphLaw:
    """A synthetic network: groups of one sign each, and assemblies that are wired more densely.

    Attributes:
        n_inputs, n_units: P and N.
        n_excitatory, n_inhibitory: cell groups of each sign, >= 1.
        excitatory_share: of the neurons.
        n_assemblies: 1 for none.
        feedforward_probability: of an edge from an input to a neuron.
        within_probability, between_probability: of an edge inside an assembly and between two.
        weight_cv: standard deviation of log-normal weights over their mean.
    """

    n_inputs: int
    n_units: int
    n_excitatory: int
    n_inhibitory: int
    excitatory_share: float
    n_assemblies: int
    feedforward_probability: float
    within_probability: float
    between_probability: float
    weight_cv: float


def random_graph(law: RandomGraphLaw, generator: np.random.Generator) -> NeuronGraph:
    """Draw a graph; every neuron is read out.

    Raises:
        ValueError: the numbers do not fit together.
    """
    shares = {"E": law.excitatory_share, "I": 1 - law.excitatory_share}
    numbers = {"E": law.n_excitatory, "I": law.n_inhibitory}
    names = [f"{sign}{number}" for sign in numbers for number in range(numbers[sign])]
    proportions = [shares[name[0]] / numbers[name[0]] for name in names]
    weights = WeightLaw("log-normal", 1.0, w_std=law.weight_cv)
    structure = draw_structure(
        SyntheticConnectome(
            Population(law.n_units, names, proportions),
            AssemblyWiring(
                law.n_assemblies,
                "erdos-renyi",
                _table(law.within_probability, len(names)),
                _table(law.between_probability, len(names)),
            ),
            weights,
            Population(law.n_inputs, ["input"], [1.0]),
            FeedforwardWiring("erdos-renyi", law.feedforward_probability),
            weights,
        ),
        generator=generator,
    )
    sign = np.array([1.0 if name[0] == "E" else -1.0 for name in names])
    every = np.arange(law.n_units)
    return NeuronGraph(
        feedforward=_signed(structure.feedforward, np.ones(law.n_inputs)),
        recurrent=_signed(structure.recurrent, sign[structure.cell_type_ids]),
        input_id=np.arange(law.n_inputs),
        unit_id=every,
        group=structure.cell_type_ids,
        group_names=tuple(names),
        readout=every,
    )


def circuit_graph(circuit: Circuit, *, group_by: str = "cell_class") -> NeuronGraph:
    """Turn a circuit into a graph; only its readout is read out.

    Args:
        circuit: with signs.
        group_by: column of its hidden neurons that says which group each is in.
    """
    names, group = np.unique(circuit.hidden[group_by].to_numpy(dtype=str), return_inverse=True)
    feedforward, recurrent = (
        SignedEdges(edges.pre, edges.post, edges.weight.astype(np.float32))
        for edges in (circuit.forward, circuit.recurrent)
    )
    return NeuronGraph(
        feedforward=feedforward,
        recurrent=recurrent,
        input_id=circuit.inputs["root_id"].to_numpy(dtype=np.int64),
        unit_id=circuit.hidden["root_id"].to_numpy(dtype=np.int64),
        group=group.astype(np.int64),
        group_names=tuple(names.tolist()),
        readout=circuit.readout,
    )


def save_graph(path: Path, graph: NeuronGraph) -> None:
    """Write a graph as one file of arrays."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(graph, name)) for name in graph._fields[2:]}
    for name in EDGES:
        parts = getattr(graph, name)._asdict()
        arrays |= {f"{name}_{part}": values for part, values in parts.items()}
    write_whole(path, lambda file: np.savez(file, **arrays))


def load_graph(path: Path) -> NeuronGraph:
    """Read what `save_graph` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays: dict[str, Any] = dict(file)
    for name in EDGES:
        parts = (arrays.pop(f"{name}_{part}") for part in SignedEdges._fields)
        arrays[name] = SignedEdges(*parts)
    arrays["group_names"] = tuple(arrays["group_names"].tolist())
    return NeuronGraph(**arrays)


def _signed(edges: WeightedEdges, sign: NDArray[np.float64]) -> SignedEdges:
    """Give weights signs, and let the absolute ones onto a neuron sum to 1, as in a circuit."""
    total = np.bincount(edges.post, edges.weight)
    weight = sign[edges.pre] * edges.weight / total[edges.post]
    return SignedEdges(edges.pre, edges.post, weight.astype(np.float32))


def _table(value: float, size: int) -> list[list[float]]:
    return [[value] * size for _ in range(size)]
