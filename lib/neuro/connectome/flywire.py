"""The adult fly's olfactory pathway (FlyWire v783): its neurons and connected pairs, as read.

Two detections of synapses are mixed: the receptor neurons' come from Codex (Buhmann et al. 2021),
all others from the Princeton release. Counts are comparable within an edge class only, of which
each has one detection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from neuro.connectome import door, fly_tables
from neuro.connectome.fly_connections import CODEX
from neuro.connectome.fly_neurons import KNOWN_TRANSMITTER

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# What the tables call the classes of neurons; those of ORNs there are two of are one here.
CELL_CLASSES = (
    *("ALLN", "ALPN", "AN", "APL", "CX", "DAN", "KC", "LHCENT", "LHLN", "MBIN", "MBON", "ORN"),
    *("WEDPN", "other"),
)
SIGN_RULES = ("extract", "published")
RECEPTOR_MAPS = ("cell_type", "published")

# Two files of the published network name receptor neurons differently.
_CELL_CLASS = {"ALRN": "ORN"}
# The files that tell sides leave out these two (FlyWire v783).
_APL_SIDE = {720575940613583001: "right", 720575940624547622: "left"}


class AdultFly(NamedTuple):
    """What the tables hold.

    Attributes:
        neurons: indexed by and ordered by root_id. Columns root_id, cell_class, cell_type
            ("untyped" where the tables have none), side ("left", "right", "center", "unknown"),
            glomerulus, receptors (names of DoOR, joined by "|", "" where none),
            transmitter_predicted, transmitter (with what is known better), sign, sign_origin
            ("predicted", "known", or "assumed" where the transmitter has no sign or is unknown),
            is_input (a receptor neuron of the published network), is_hidden (another of it).
        edges: one row a connected pair, ordered by pre and post, both root ids. Columns pre, post,
            syn_count (summed over neuropils), edge_class ("ALPN->KC"), detection ("Buhmann" or
            "Princeton").
    """

    neurons: pd.DataFrame
    edges: pd.DataFrame


def load_adult(
    folder: Path, *, sign_rule: str = "extract", receptor_map: str = "cell_type"
) -> AdultFly:
    """Read all neurons and pairs.

    Args:
        folder: where the tables lie.
        sign_rule: "extract": acetylcholine +1, GABA and glutamate -1, all others and the unknown 0;
            "published": as the published network has it, where those others excite (+1).
        receptor_map: "cell_type": a neuron carries the receptors of the glomerulus its type is
            named after, by DoOR's table; "published": those the published network lists for it.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: no such rule or map, or pairs of neurons that are not in the other table.
    """
    check_choice("sign_rule", sign_rule, SIGN_RULES)
    check_choice("receptor_map", receptor_map, RECEPTOR_MAPS)
    table = fly_tables.read_table(folder, fly_tables.NEURONS)
    root_id = table.set_index("index")["root_id"]
    neurons = table.set_index("root_id", drop=False).rename_axis(None).sort_index()
    neurons = _neurons(neurons, sign_rule)
    if receptor_map == "cell_type":
        neurons["receptors"] = door.receptors_of_types(
            fly_tables.read_table(folder, fly_tables.DOOR_MAPPINGS),
            fly_tables.read_table(folder, fly_tables.DOOR_SELECTED).columns,
            neurons["cell_type"],
        )
    edges = fly_tables.read_table(folder, fly_tables.CONNECTIONS)
    return AdultFly(neurons, _edges(edges, root_id, neurons["cell_class"]))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices.

    Raises:
        ValueError: it is none.
    """
    if value not in choices:
        msg = f"{name} = {value!r} is none of {', '.join(map(repr, choices))}"
        raise ValueError(msg)


def _neurons(table: pd.DataFrame, sign_rule: str) -> pd.DataFrame:
    neurons = table[["root_id"]].copy()
    neurons["cell_class"] = table["class_broad"].replace(_CELL_CLASS)
    neurons["cell_type"] = table["cell_type"].fillna("untyped")
    sides = table["root_id"].map(_APL_SIDE)
    neurons["side"] = table["side"].fillna(sides).fillna("unknown")
    neurons["glomerulus"] = table["glomerulus"]
    neurons["receptors"] = table["door_receptors"]
    neurons["transmitter_predicted"] = table["nt_neuron"]
    neurons["transmitter"] = table["nt"]
    sign = table["sign"]
    neurons["sign"] = sign if sign_rule == "extract" else sign.replace(0, 1)
    known = table["class_broad"].isin(KNOWN_TRANSMITTER)
    neurons["sign_origin"] = np.select([known, sign == 0], ["known", "assumed"], "predicted")
    neurons["is_input"] = table["seed_input"]
    neurons["is_hidden"] = table["seed_final"] & ~table["seed_input"]
    return neurons


def _edges(table: pd.DataFrame, root_id: pd.Series, cell_class: pd.Series) -> pd.DataFrame:
    unknown = set(table["pre"]).union(table["post"]) - set(root_id.index)
    if unknown:
        msg = (
            f"{fly_tables.CONNECTIONS} names neuron {min(unknown)!r}, which {fly_tables.NEURONS} "
            "does not hold: the two tables do not belong together"
        )
        raise ValueError(msg)
    edges = table[["syn_count"]].copy()
    edges.insert(0, "pre", table["pre"].map(root_id))
    edges.insert(1, "post", table["post"].map(root_id))
    edges["edge_class"] = edge_class(edges, cell_class)
    edges["detection"] = np.where(table["source"] == CODEX, "Buhmann", "Princeton")
    return edges.sort_values(["pre", "post"], ignore_index=True)


def edge_class(pairs: pd.DataFrame, cell_class: pd.Series) -> pd.Series:
    """Name the edge class of each pair after the classes of its neurons: "ALPN->KC".

    Args:
        pairs: columns pre and post, root ids.
        cell_class: by root id.
    """
    return pairs["pre"].map(cell_class) + "->" + pairs["post"].map(cell_class)


def count_synapses(edges: pd.DataFrame, pre: pd.DataFrame, post: pd.DataFrame) -> NDArray[np.int64]:
    """Return the synapses from each neuron of one table to each of another, shape (pre, post)."""
    counts = np.zeros((len(pre), len(post)), dtype=np.int64)
    rows = pre.index.get_indexer(pd.Index(edges["pre"]))
    columns = post.index.get_indexer(pd.Index(edges["post"]))
    chosen = (rows >= 0) & (columns >= 0)
    np.add.at(counts, (rows[chosen], columns[chosen]), edges["syn_count"].to_numpy()[chosen])
    return counts
