"""The complete connectome of a larval fly's brain (Winding et al. 2023), as read, and as a circuit.

Which neuron connects to which, with how many synapses, and what kind each neuron is, are data. What
a neuron releases is not in the tables: signs are assumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from neuro.connectome import fly_tables
from neuro.connectome.circuit import Circuit, make_circuit
from neuro.connectome.flywire import edge_class

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

INHIBITORY = ("LN", "APL")

_CELL_CLASS = {
    **{"sensories": "sensory", "PNs": "PN", "LNs": "LN", "KCs": "KC"},
    **{"MBONs": "MBON", "MBINs": "MBIN", "LHNs": "LHN", "unk": "unknown"},
}
_SIDE = {"L": "left", "R": "right", "C": "center"}


class LarvalBrain(NamedTuple):
    """What the tables hold.

    Attributes:
        neurons: indexed by and ordered by skid. Columns root_id (the skid), name, cell_class
            ("sensory", "PN", "LN", "APL", "KC", "MBON", "MBIN", "LHN", and others as published),
            cell_type ("KC-4claw"), side, pair (skid of the same neuron on the other side, or -1).
        edges: one row a connected pair, ordered by pre and post, both skids. Columns pre, post,
            syn_count, edge_class ("PN->KC").
    """

    neurons: pd.DataFrame
    edges: pd.DataFrame


def load_larva(folder: Path) -> LarvalBrain:
    """Read all neurons and pairs.

    Args:
        folder: where the tables lie.

    Raises:
        FileNotFoundError: a table is missing.
    """
    table = fly_tables.read_table(folder, fly_tables.LARVA_NEURONS).rename_axis(None).sort_index()
    neurons = table[["name"]].copy()
    neurons.insert(0, "root_id", table.index)
    group = table["simple_group"].replace(_CELL_CLASS)
    # The two APLs carry other names and count as local neurons.
    neurons["cell_class"] = group.mask(table["class1"] == "APL", "APL")
    neurons["cell_type"] = table["merge_class"]
    neurons["side"] = table["hemisphere"].map(_SIDE)
    neurons["pair"] = table["pair"].astype("int64")
    edges = fly_tables.read_table(folder, fly_tables.LARVA_CONNECTIONS)
    edges = edges.sort_values(["pre", "post"], ignore_index=True)
    edges["edge_class"] = edge_class(edges, neurons["cell_class"])
    return LarvalBrain(neurons, edges)


def larva_circuit(folder: Path) -> Circuit:
    """Make a circuit of the whole larval brain: sensory neurons -> all others.

    Signs are assumed: local neurons and APL inhibit, all others excite. What others send to sensory
    neurons is left out, for those are spike sources.

    Args:
        folder: where the tables lie.

    Raises:
        FileNotFoundError: a table is missing.
    """
    brain = load_larva(folder)
    inhibits = brain.neurons["cell_class"].isin(INHIBITORY)
    is_input = brain.neurons["cell_class"] == "sensory"
    neurons = brain.neurons.assign(
        glomerulus=None,
        receptors="",
        transmitter_predicted=None,
        transmitter=None,
        sign=1 - 2 * inhibits.astype("int8"),
        sign_origin="assumed",
        is_input=is_input,
        is_hidden=~is_input,
    )
    pairs = brain.edges.rename(columns={"syn_count": "strength"}).assign(origin="data")
    pairs["sign"] = pairs["pre"].map(neurons["sign"])
    return make_circuit(neurons, pairs)
