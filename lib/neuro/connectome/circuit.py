"""A circuit of receptor neurons and the neurons behind them, as lists of signed weights.

`load_circuit` cuts the adult's out of the tables.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from neuro.connectome import wiring_controls
from neuro.connectome.flywire import check_choice, edge_class, load_adult
from neuro.connectome.lumped_inhibition import check_inhibition, lumped_inhibition
from neuro.connectome.synapse_file import read_synapses

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

INHIBITION = ("lumped", "none", "file")
COLUMNS = (
    *("root_id", "cell_class", "cell_type", "side", "glomerulus", "receptors"),
    *("transmitter_predicted", "transmitter", "sign", "sign_origin"),
)


class CircuitEdges(NamedTuple):
    """E edges, ordered by pre, then post; each pair is there once.

    Attributes:
        pre: positions in the presynaptic table, shape (E,).
        post: positions in the table of hidden neurons, shape (E,).
        weight: signed; the absolute weights onto a neuron sum to 1 in each edge class, since counts
            of different detections of synapses cannot be compared, shape (E,).
        edge_class: which of `edge_classes`, shape (E,).
        edge_classes: names: "ORN->ALPN", in alphabetical order.
        origin: of each edge class: "data", "modelled", or "shuffled" in a control.
    """

    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    weight: NDArray[np.float64]
    edge_class: NDArray[np.int64]
    edge_classes: tuple[str, ...]
    origin: tuple[str, ...]


@dataclass(frozen=True)
class Circuit:
    """Receptor neurons, hidden neurons, and who drives whom.

    Both tables have the columns `COLUMNS` and are ordered by root_id; see
    `neuro.connectome.flywire.AdultFly`.

    Attributes:
        inputs: the receptor neurons.
        hidden: all others.
        forward: inputs -> hidden.
        recurrent: hidden -> hidden.
        readout: positions of all Kenyon cells in `hidden`.

    Raises:
        ValueError: neurons out of order or twice, or a readout that is no Kenyon cell.
    """

    inputs: pd.DataFrame
    hidden: pd.DataFrame
    forward: CircuitEdges
    recurrent: CircuitEdges
    readout: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse what would put values at the wrong neuron."""
        for name, table in (("inputs", self.inputs), ("hidden", self.hidden)):
            if not (np.diff(table["root_id"]) > 0).all():
                msg = f"{name} are not in ascending order of root_id: sort them, each once"
                raise ValueError(msg)
        wrong = set(self.hidden["cell_class"].to_numpy()[self.readout]) - {"KC"}
        if wrong:
            msg = f"the readout holds {sorted(wrong)!r}: it reads Kenyon cells (KC) only"
            raise ValueError(msg)

    @property
    def fingerprint(self) -> bytes:
        """32 bytes of sha256 over all root ids and weights: equal wiring, equal bytes."""
        ids = (table["root_id"].to_numpy() for table in (self.inputs, self.hidden))
        edges = (part for set_ in (self.forward, self.recurrent) for part in set_[:3])
        digest = hashlib.sha256()
        for array in (*ids, *edges, self.readout):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def edge_table(self) -> pd.DataFrame:
        """Return one row an edge class, for records.

        Columns edge_class, pairs, origin ("data", "modelled" or "shuffled"), sign_origin (of the
        neurons that send, joined by "|": "known", "predicted", "assumed", or "shuffled").
        """
        rows = []
        for pre, edges in ((self.inputs, self.forward), (self.hidden, self.recurrent)):
            sign_origin = pre["sign_origin"].to_numpy()[edges.pre]
            for code, name in enumerate(edges.edge_classes):
                chosen = edges.edge_class == code
                origins = "|".join(sorted(set(sign_origin[chosen])))
                rows.append((name, int(chosen.sum()), edges.origin[code], origins))
        return pd.DataFrame(rows, columns=["edge_class", "pairs", "origin", "sign_origin"])


def load_circuit(
    folder: Path,
    *,
    inhibition: str = "lumped",
    inhibition_file: Path | None = None,
    shuffle: str | None = None,
    generator: np.random.Generator | None = None,
    sign_rule: str = "extract",
    receptor_map: str = "cell_type",
) -> Circuit:
    """Cut the adult's whole olfactory pathway out of the tables.

    Args:
        folder: where the tables lie.
        inhibition: "lumped" adds modelled pairs, see `neuro.connectome.lumped_inhibition`; "file"
            adds those of a table that the user has, as data, in the edge classes of which the
            shipped tables hold nothing, with its signs, if it has any, for neurons of sign 0 and
            unknown transmitter; "none" adds nothing.
        inhibition_file: that table, see `neuro.connectome.synapse_file`.
        shuffle: a control, see `neuro.connectome.wiring_controls`: "targets" permutes the targets
            of ALPN->KC over all pairs, "targets_within_type" among those onto one cell type and
            side, "signs" the signs over the neurons of each class; None keeps what was read.
        generator: source of chance of the shuffle.
        sign_rule: see `neuro.connectome.flywire.load_adult`.
        receptor_map: see the same.

    Raises:
        FileNotFoundError: a table is missing, or the file of inhibition.
        ValueError: no such choice, inhibition asked for as data, a file that says nothing new, or a
            shuffle without a generator.
    """
    check_inhibition(inhibition, INHIBITION)
    neurons, edges = load_adult(folder, sign_rule=sign_rule, receptor_map=receptor_map)
    neurons = neurons[neurons["is_input"] | neurons["is_hidden"]]
    inside = edges["pre"].isin(neurons.index) & edges["post"].isin(neurons.index)
    edges = edges[inside].reset_index(drop=True)
    if shuffle is not None:
        neurons, edges = _shuffled(neurons, edges, shuffle, generator)
    pairs = edges.rename(columns={"syn_count": "strength"}).assign(origin="data")
    pairs["sign"] = pairs["pre"].map(neurons["sign"])
    if shuffle in ("targets", "targets_within_type"):
        pairs.loc[pairs["edge_class"] == "ALPN->KC", "origin"] = "shuffled"
    if inhibition == "lumped":
        added = lumped_inhibition(neurons, edges).assign(origin="modelled")
        pairs = pd.concat([pairs, added], ignore_index=True)
    elif inhibition == "file":
        synapses = read_synapses(inhibition_file, among=neurons.index)
        added = _missing_classes(synapses, neurons, edges)
        pairs = pd.concat([pairs, added], ignore_index=True)
    return make_circuit(neurons, pairs)


def _missing_classes(
    synapses: pd.DataFrame, neurons: pd.DataFrame, edges: pd.DataFrame
) -> pd.DataFrame:
    """Return the pairs of the edge classes that the tables do not hold, ready for `make_edges`."""
    added = synapses.rename(columns={"syn_count": "strength", "sign": "sign_of_file"})
    added["edge_class"] = edge_class(added, neurons["cell_class"])
    # Counts of another detection cannot stand beside those of the tables in one edge class.
    added = added[~added["edge_class"].isin(edges["edge_class"])]
    if added.empty:
        msg = (
            "the file of inhibition holds no pair of this circuit in an edge class that the tables "
            "lack (ALLN->ALPN, KC->APL, APL->KC and others): is it of FlyWire v783?"
        )
        raise ValueError(msg)
    sign = added["pre"].map(neurons["sign"])
    # Where the rule of signs gives an unknown transmitter one, the neuron has that in all classes.
    open_ = (sign == 0) & added["pre"].map(neurons["transmitter"].isna())
    return added.assign(origin="data", sign=sign.mask(open_, added["sign_of_file"]))


def _shuffled(
    neurons: pd.DataFrame,
    edges: pd.DataFrame,
    shuffle: str,
    generator: np.random.Generator | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    check_choice("shuffle", shuffle, wiring_controls.SHUFFLES)
    if generator is None:
        msg = f"shuffle = {shuffle!r} needs a generator, that the control can be had again"
        raise ValueError(msg)
    if shuffle == "signs":
        return wiring_controls.shuffle_signs(neurons, generator), edges
    onto_kc = edges["edge_class"] == "ALPN->KC"
    pairs = edges[onto_kc]
    if shuffle == "targets":
        pairs = wiring_controls.shuffle_targets(pairs, generator)
    else:
        pairs = wiring_controls.shuffle_targets_within_type(pairs, neurons, generator)
    return neurons, pd.concat([edges[~onto_kc], pairs], ignore_index=True)


def make_circuit(neurons: pd.DataFrame, pairs: pd.DataFrame) -> Circuit:
    """Build a circuit of neurons and the pairs among them.

    Args:
        neurons: columns of `Circuit`, and is_input, is_hidden; indexed by and ordered by root_id.
        pairs: see `make_edges`.
    """
    columns = list(COLUMNS)
    inputs = neurons.loc[neurons["is_input"], columns]
    hidden = neurons.loc[neurons["is_hidden"], columns]
    return Circuit(
        inputs=inputs,
        hidden=hidden,
        forward=make_edges(pairs, inputs, hidden),
        recurrent=make_edges(pairs, hidden, hidden),
        readout=np.flatnonzero(hidden["cell_class"] == "KC"),
    )


def make_edges(pairs: pd.DataFrame, pre: pd.DataFrame, post: pd.DataFrame) -> CircuitEdges:
    """Turn pairs between two tables of neurons into edges with weights.

    Pairs of sign 0 are left out: they would weigh nothing. Repeated pairs are added up.

    Args:
        pairs: columns pre, post (indices of the tables), strength (> 0, comparable within an edge
            class), edge_class, origin, sign. Those between other neurons are passed over. A pair
            has one edge class, and an edge class one origin.
        pre: presynaptic neurons.
        post: postsynaptic neurons.
    """
    row = pre.index.get_indexer(pd.Index(pairs["pre"]))
    column = post.index.get_indexer(pd.Index(pairs["post"]))
    chosen = np.flatnonzero((row >= 0) & (column >= 0) & (pairs["sign"].to_numpy() != 0))
    pair, first, which = np.unique(
        row[chosen] * len(post) + column[chosen], return_index=True, return_inverse=True
    )
    strength = np.bincount(which, pairs["strength"].to_numpy()[chosen], minlength=len(pair))
    row, column = np.divmod(pair, max(len(post), 1))
    table = pairs.iloc[chosen[first]]
    code, names = pd.factorize(table["edge_class"], sort=True)
    total = np.bincount(column * len(names) + code, strength)
    share = strength / total[column * len(names) + code]
    return CircuitEdges(
        pre=row.astype(np.int64),
        post=column.astype(np.int64),
        weight=table["sign"].to_numpy() * share,
        edge_class=code.astype(np.int64),
        edge_classes=tuple(names),
        origin=tuple(table["origin"].iloc[np.flatnonzero(code == c)[0]] for c in range(len(names))),
    )
