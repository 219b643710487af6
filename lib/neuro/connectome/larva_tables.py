"""The tables of a larval fly brain, built from public files (Winding et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

_DATA = "bilateral-connectome/data/elife"
_COLUMNS = (
    *("name", "simple_group", "merge_class", "hemisphere", "pair", "class1"),
    *("sensory", "KCs", "PNs", "LNs", "MBONs", "MBINs", "LHNs"),
)


def build_larva_neurons(raw: Path) -> pd.DataFrame:
    """Read the neurons by skid: names, classes, hemisphere and pair, and class flags, as text."""
    neurons = pd.read_csv(
        raw / _DATA / "meta_data.csv", dtype=object, keep_default_na=False, index_col=0
    )
    neurons.index = neurons.index.astype("int64").rename("skid")
    return neurons[list(_COLUMNS)]


def build_larva_connections(raw: Path) -> pd.DataFrame:
    """Read the connected pairs: pre, post (skids) and the number of synapses."""
    path = raw / _DATA / "G_edgelist.txt"
    edges = pd.read_csv(path, sep=" ", names=["pre", "post", "syn_count"])
    return edges.astype({"syn_count": "int32"})
