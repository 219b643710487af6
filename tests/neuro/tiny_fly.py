"""A hand-made fly of a dozen neurons, and a larva, as tables small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from neuro.connectome import fly_tables
from neuro.connectome.fly_connections import CODEX, PRINCETON

# Rows are not in the order of root ids, as in the real table.
NEURONS = [
    # index, root_id, class, type, glomerulus, side, transmitter, receptors, input
    (0, 101, "ALRN", "ORN_A", "A", "left", "ACH", "Or1", True),
    (1, 102, "ALRN", "ORN_A", "A", "right", "ACH", "Or1", True),
    (2, 201, "ALPN", "A_adPN", "A", "left", "ACH", "", False),
    (3, 301, "KC", "KCg-m", None, "left", "ACH", "", False),
    (4, 302, "KC", "KCab", None, "left", "ACH", "", False),
    (5, 303, "KC", "KCab", None, "right", "ACH", "", False),  # right side: not in the pathway
    (6, 304, "KC", "KCab", None, "left", "ACH", "", False),  # no input: not in the pathway
    (7, 401, "ALLN", "LN1", None, "left", "GABA", "", False),
    (8, 202, "ALPN", "B_lPN", "B", "left", "GABA", "", False),
    (9, 103, "ORN", "ORN_B", "B", "left", "ACH", "Or2|Or1", True),
    (10, 104, "ALRN", "ORN_C", "C", "left", "ACH", "", False),  # no receptor: a hidden neuron
    (11, 203, "ALPN", "C_adPN", "C", "left", "ACH", "", False),  # drives no left KC
    (12, 100, "ALPN", "B_lPN", "B", "left", None, "", False),  # unknown transmitter
    (13, 501, "other", None, None, None, "ACH", "", False),  # not of the published network
    (14, 601, "APL", "APL", None, "left", "GABA", "", False),
    (15, 602, "APL", "APL", None, "right", "GABA", "", False),
    (16, 701, "DAN", None, None, "left", "DA", "", False),  # untyped
]
ORN_EDGES = [
    *[(0, 2, 30), (1, 2, 10), (9, 8, 20), (9, 2, 10), (9, 12, 5)],  # ORN -> PN
    *[(10, 2, 99), (0, 11, 7)],
    *[(0, 7, 30), (9, 7, 10)],  # ORN -> LN
]
OTHER_EDGES = [
    *[(2, 3, 15), (8, 3, 5), (8, 4, 8), (2, 5, 50), (11, 5, 9), (12, 4, 8)],  # PN -> KC
    *[(2, 14, 4), (16, 3, 6), (13, 3, 70)],  # PN -> APL, DAN -> KC, other -> KC
]
# Or3 is not among the units that count; no table names the receptor of ORN_C.
MAPPINGS = [("Or1", "A"), ("Or2", "B+C"), ("Or3", "A")]
SIGN = {"ACH": 1, "GABA": -1}


def write_tables(folder: Path) -> Path:
    """Write the two connectome tables, and of DoOR where its receptors sit and which count."""
    columns = (
        *("index", "root_id", "class_broad", "cell_type", "glomerulus", "side", "nt"),
        *("door_receptors", "seed_input"),
    )
    neurons = pd.DataFrame(NEURONS, columns=list(columns))
    neurons["nt_neuron"] = neurons["nt"]
    neurons["sign"] = neurons["nt"].map(SIGN).fillna(0).astype("int8")
    neurons["seed_final"] = neurons["class_broad"] != "other"
    edges = pd.DataFrame(ORN_EDGES + OTHER_EDGES, columns=["pre", "post", "syn_count"])
    edges["source"] = [CODEX] * len(ORN_EDGES) + [PRINCETON] * len(OTHER_EDGES)
    mappings = pd.DataFrame(MAPPINGS, columns=["receptor", "glomerulus"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (
        (fly_tables.NEURONS, neurons),
        (fly_tables.CONNECTIONS, edges),
        (fly_tables.DOOR_MAPPINGS, mappings),
        (fly_tables.DOOR_SELECTED, pd.DataFrame({"Or1": [0.5], "Or2": [0.25]}, index=["an odor"])),
    ):
        table.to_parquet(fly_tables.table_path(folder, name))
    return folder


LARVA = [
    # skid, name, simple_group, merge_class, hemisphere, pair, class1
    (7, "Or1 ORN", "sensories", "sens-ORN", "L", "-1", "sens"),
    (5, "Or2 ORN", "sensories", "sens-ORN", "R", "-1", "sens"),
    (4, "PN one", "PNs", "uPN", "L", "-1", "uPN"),
    (3, "KC one", "KCs", "KC-1claw", "L", "2", "KC"),
    (2, "KC two", "KCs", "KC-2claw", "R", "3", "KC"),
    (1, "MBE12 left", "LNs", "APL", "L", "-1", "APL"),
    (6, "LN one", "LNs", "pLN", "C", "-1", "pLN"),
]
LARVAL_EDGES = [
    *[(7, 4, 3), (5, 4, 1), (7, 6, 2), (4, 3, 2), (4, 2, 5), (6, 4, 4)],
    *[(3, 1, 6), (2, 1, 2), (1, 3, 9), (3, 2, 1), (6, 7, 8), (7, 5, 1)],
]


def write_larva(folder: Path) -> Path:
    """Write the two tables of a larva of seven neurons."""
    columns = ["skid", "name", "simple_group", "merge_class", "hemisphere", "pair", "class1"]
    neurons = pd.DataFrame(LARVA, columns=columns).set_index("skid")
    edges = pd.DataFrame(LARVAL_EDGES, columns=["pre", "post", "syn_count"])
    folder.mkdir(parents=True, exist_ok=True)
    neurons.to_parquet(fly_tables.table_path(folder, fly_tables.LARVA_NEURONS))
    edges.to_parquet(fly_tables.table_path(folder, fly_tables.LARVA_CONNECTIONS))
    return folder
