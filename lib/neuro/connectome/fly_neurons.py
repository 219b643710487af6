"""The neuron table of the fly's olfactory pathway, built from public files (FlyWire v783)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

NENGO = "Nengo2025-ccSNN/data"
CONNECTOME = f"{NENGO}/connectome"
PGCN = "Plasticity-Guided-Connectome-Network-PGCN/data/cache"

# The majority of predicted transmitters is wrong for many receptor neurons, which are cholinergic.
KNOWN_TRANSMITTER = {"ALRN": "ACH", "ORN": "ACH", "KC": "ACH", "APL": "GABA"}
SIGN = {"ACH": 1, "GABA": -1, "GLUT": -1}
_PN_GLOMERULUS = re.compile(
    r"([A-Z]{1,2}\d?[a-z]{0,2})_(?:ad|l|v|il|l2|lv|il2|lv2|d|iv|ad2)PN"
)


def build_cell_types(raw: Path) -> pd.DataFrame:
    """Read the cell types of FlyWire v783: root_id, primary_type, additional_type(s)."""
    types = pd.read_csv(raw / CONNECTOME / "consolidated_cell_types.csv", dtype={"root_id": "int64"})
    return types.astype({name: object for name in types.columns[1:]})


def read_seed_edges(raw: Path) -> pd.DataFrame:
    """Read the receptor neurons' output: pre_root_id, post_root_id, neuropil, syn_count, nt_type."""
    return pd.read_csv(raw / CONNECTOME / "fruitfly_w1.csv", index_col=0)


def read_receptors(raw: Path) -> dict[str, list[int]]:
    """Read which receptor neurons carry which receptor, in file order."""
    listed = json.loads((raw / CONNECTOME / "ORN_door2codex.json").read_text())
    return {receptor: [int(neuron) for neuron in ids] for receptor, ids in listed.items()}


def build_neurons(raw: Path, connected: np.ndarray) -> pd.DataFrame:
    """Build one row a neuron: what it is, where it lies, what it releases.

    Args:
        raw: folder that holds the public files as REPOSITORY_NAME/PATH.
        connected: root ids that any connection names, shape (n,).

    Returns:
        Columns index, root_id, class_broad, cell_type, glomerulus, side, nt_neuron (predicted),
        nt (with what is known better), sign, door_receptors, seed_input, seed_final. The neurons of
        the published network come first, by root_id, then those that only connections name.
    """
    final = np.array((raw / CONNECTOME / "final_neurons_olf.txt").read_text().split(), dtype=np.int64)
    receptors = read_receptors(raw)
    inputs = np.unique(np.concatenate([np.array(ids) for ids in receptors.values()]))
    seeds = np.union1d(final, inputs)
    others = np.setdiff1d(connected, seeds)
    root_id = np.concatenate([seeds, others])
    nodes = pd.read_parquet(raw / PGCN / "nodes.parquet").drop_duplicates("node_id")
    nodes = nodes.set_index("node_id")
    cell_type = build_cell_types(raw).set_index("root_id")["primary_type"].reindex(root_id)
    class_broad = _broad_class(raw, nodes, seeds, others)
    predicted = _predicted_transmitter(raw, nodes, root_id)
    known = class_broad.map(KNOWN_TRANSMITTER)
    transmitter = known.where(known.notna(), predicted)
    carried = _join_receptors(receptors)
    table = pd.DataFrame(
        {
            "index": np.arange(len(root_id)),
            "root_id": root_id,
            "class_broad": class_broad.to_numpy(),
            "cell_type": cell_type.to_numpy(),
            "glomerulus": _glomerulus(class_broad.to_numpy(), cell_type.to_numpy()),
            "side": [_sides(raw).get(neuron) for neuron in root_id.tolist()]
            if False
            else pd.Series(_sides(raw), dtype=object).reindex(root_id).to_numpy(),
            "nt_neuron": predicted.to_numpy(),
            "nt": transmitter.to_numpy(),
            "sign": transmitter.map(SIGN).fillna(0).astype("int8").to_numpy(),
            "door_receptors": [carried.get(neuron, "") for neuron in root_id.tolist()],
            "seed_input": np.isin(root_id, inputs),
            "seed_final": np.isin(root_id, final),
        }
    )
    return _none_for_missing(table)
