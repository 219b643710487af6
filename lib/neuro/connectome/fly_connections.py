"""The connection table of the fly's olfactory pathway, built from public files (FlyWire v783)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from neuro.connectome.fly_neurons import CACHE, CONNECTOME

if TYPE_CHECKING:
    from pathlib import Path

CODEX = "codex783_filtered(seed fruitfly_w1.csv)"
PRINCETON = "princeton783(PGCN edges.parquet)"
PRINCETON_DAN = "princeton783(PGCN dan_edges.parquet)"


def read_edges(raw: Path) -> pd.DataFrame:
    """Read all connected pairs, each with its synapses summed over neuropils.

    Where two sources hold a pair, the first of Codex, Princeton, Princeton DAN stands.

    Args:
        raw: folder that holds the public files as REPOSITORY/PATH.

    Returns:
        Columns pre_id, post_id (root ids), syn_count, source; one row a pair.
    """
    names = ["pre_id", "post_id", "syn_count"]
    codex = pd.read_csv(raw / CONNECTOME / "fruitfly_w1.csv")
    codex = codex[["pre_root_id", "post_root_id", "syn_count"]]
    sources = {CODEX: codex}
    for source, file in ((PRINCETON, "edges.parquet"), (PRINCETON_DAN, "dan_edges.parquet")):
        table = pd.read_parquet(raw / CACHE / file)
        sources[source] = table[["source_id", "target_id", "synapse_weight"]]
    summed = [
        table.set_axis(names, axis=1).groupby(names[:2])["syn_count"].sum().reset_index()
        for table in sources.values()
    ]
    edges = pd.concat(summed, keys=sources, names=["source"]).reset_index("source")
    edges = edges.drop_duplicates(["pre_id", "post_id"])
    return edges.astype({"syn_count": "int32"})


def build_connections(edges: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """Name pairs by rows of the neuron table, and give each the sign of its presynaptic neuron.

    Args:
        edges: from `read_edges`.
        neurons: from `neuro.connectome.fly_neurons.build_neurons`.

    Returns:
        Columns pre, post (`index` of the neuron table), syn_count, source, sign.
    """
    by_id = neurons.set_index("root_id")
    return pd.DataFrame(
        {
            "pre": edges["pre_id"].map(by_id["index"]).astype("int32"),
            "post": edges["post_id"].map(by_id["index"]).astype("int32"),
            "syn_count": edges["syn_count"],
            "source": edges["source"].astype("category"),
            "sign": edges["pre_id"].map(by_id["sign"]).astype("int8"),
        }
    ).sort_values(["pre", "post"], ignore_index=True)
