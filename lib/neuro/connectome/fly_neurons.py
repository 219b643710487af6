"""The neuron table of the fly's olfactory pathway, built from public files (FlyWire v783)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

CONNECTOME = "Nengo2025-ccSNN/data/connectome"
CACHE = "Plasticity-Guided-Connectome-Network-PGCN/data/cache"

# The prediction is wrong for many receptor neurons, which are cholinergic, as Kenyon cells are.
KNOWN_TRANSMITTER = {"ALRN": "ACH", "ORN": "ACH", "KC": "ACH", "APL": "GABA"}
SIGN = {"ACH": 1, "GABA": -1, "GLUT": -1}
# Two of seven neurons with as many synapses of one prediction as of another: the extract that these
# tables must equal left ties to an unstable sort. Nothing else hangs on them: both are receptor
# neurons, cholinergic by KNOWN_TRANSMITTER.
_TIES = {720575940607637340: "ACH", 720575940622624234: "ACH"}
_ORN_TYPE = re.compile(r"ORN_(.+)")
_PN_TYPE = re.compile(r"([A-Z]{1,2}\d*[a-z]*)_(?:ad|l|v|il|l2|lv|il2|lv2|d|iv|ad2)PN")


def build_cell_types(raw: Path) -> pd.DataFrame:
    """Read the cell types of all of FlyWire v783: root_id, primary_type, additional_type(s)."""
    path = raw / CONNECTOME / "consolidated_cell_types.csv"
    return pd.read_csv(path, dtype={"primary_type": object, "additional_type(s)": object})


def build_neurons(raw: Path, edges: pd.DataFrame) -> pd.DataFrame:
    """Build one row a neuron: what it is, where it lies, what it releases.

    The neurons of the published network come first, by root_id, then those that only edges name,
    whose side is left open.

    Args:
        raw: folder that holds the public files as REPOSITORY/PATH.
        edges: columns pre_id and post_id, root ids.

    Returns:
        Columns index, root_id, class_broad, cell_type, glomerulus, side, nt_neuron (predicted), nt
        (with what is known better), sign, door_receptors, seed_input, seed_final.
    """
    receptors = read_receptors(raw)
    inputs = np.unique(np.concatenate(list(receptors.values())))
    final = np.loadtxt(raw / CONNECTOME / "final_neurons_olf.txt", dtype=np.int64)
    seeds = np.union1d(final, inputs)
    named_by_edges = np.union1d(edges["pre_id"], edges["post_id"])
    root_id = np.concatenate([seeds, np.setdiff1d(named_by_edges, seeds)])
    nodes = pd.read_parquet(raw / CACHE / "nodes.parquet").drop_duplicates("node_id")
    nodes = nodes.set_index("node_id")
    neurons = pd.DataFrame({"index": np.arange(len(root_id))}, index=root_id)
    neurons["root_id"] = root_id
    neurons["class_broad"] = _broad_class(raw, nodes, root_id)
    neurons["cell_type"] = build_cell_types(raw).set_index("root_id")["primary_type"]
    neurons["glomerulus"] = _glomerulus(neurons)
    neurons["side"] = _sides(raw).reindex(seeds)
    neurons["nt_neuron"] = nodes["neurotransmitter"].reindex(root_id)
    neurons["nt_neuron"] = neurons["nt_neuron"].fillna(_most_frequent_transmitter(raw))
    known = neurons["class_broad"].map(KNOWN_TRANSMITTER)
    neurons["nt"] = known.fillna(neurons["nt_neuron"])
    neurons["sign"] = neurons["nt"].map(SIGN).fillna(0).astype("int8")
    neurons["door_receptors"] = _joined_receptors(receptors).reindex(root_id).fillna("")
    neurons["seed_input"] = np.isin(root_id, inputs)
    neurons["seed_final"] = np.isin(root_id, final)
    return neurons.reset_index(drop=True)


def read_receptors(raw: Path) -> dict[str, np.ndarray]:
    """Read the root ids of the neurons that carry each receptor, in file order."""
    listed = json.loads((raw / CONNECTOME / "ORN_door2codex.json").read_text())
    return {receptor: np.array(ids, dtype=np.int64) for receptor, ids in listed.items()}


def _joined_receptors(receptors: dict[str, np.ndarray]) -> pd.Series:
    pairs = pd.Series(
        [receptor for receptor, ids in receptors.items() for _ in np.unique(ids)],
        index=np.concatenate([np.unique(ids) for ids in receptors.values()]),
    )
    return pairs.groupby(level=0, sort=False).agg("|".join)


def _broad_class(raw: Path, nodes: pd.DataFrame, root_id: np.ndarray) -> pd.Series:
    listed = json.loads((raw / CONNECTOME / "broad_cell_types.json").read_text())
    broad = pd.Series({int(neuron): name for name, ids in listed.items() for neuron in ids})
    return broad.reindex(root_id).fillna(nodes["class"]).fillna("other")


def _glomerulus(neurons: pd.DataFrame) -> list[str | None]:
    """Read the glomerulus off the name of an ORN or PN type."""
    patterns = {"ALRN": _ORN_TYPE, "ORN": _ORN_TYPE, "ALPN": _PN_TYPE}
    found = []
    for broad, cell_type in zip(neurons["class_broad"], neurons["cell_type"], strict=True):
        match = patterns[broad].match(str(cell_type)) if broad in patterns else None
        found.append(match[1] if match else None)
    return found


def _sides(raw: Path) -> pd.Series:
    """Read sides off the names of files that list ids; the first file that lists an id wins."""
    sides: dict[int, str] = {}
    folder = raw / CONNECTOME / "codex_keywords_lrc"
    for path in sorted(folder.glob("root_ids_*_side_*.txt"), key=lambda path: path.name):
        for neuron in path.read_text().replace(",", " ").split():
            sides.setdefault(int(neuron), path.stem.rpartition("_side_")[2])
    return pd.Series(sides, dtype=object)


def _most_frequent_transmitter(raw: Path) -> pd.Series:
    """Return the transmitter predicted for most synapses of each neuron.

    Of equals the last by name stands, unless _TIES says otherwise.
    """
    rows = pd.read_csv(raw / CONNECTOME / "fruitfly_w1.csv", index_col=0)
    synapses = rows.groupby(["pre_root_id", "nt_type"])["syn_count"].sum().reset_index()
    ranked = synapses.sort_values(["syn_count", "nt_type"])
    best = ranked.drop_duplicates("pre_root_id", keep="last")
    return pd.Series({**best.set_index("pre_root_id")["nt_type"], **_TIES})
