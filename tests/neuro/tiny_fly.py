"""A hand-made fly of a dozen neurons, in the tables' format, small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from neuro.connectome import fly_tables

# Rows are not in the order of root ids, as in the real table.
NEURONS = [
    # index, root_id, class, type, glomerulus, side, sign, receptors, input
    (0, 101, "ALRN", "ORN_A", "A", "left", 1, "Or1", True),
    (1, 102, "ALRN", "ORN_A", "A", "right", 1, "Or1", True),
    (2, 201, "ALPN", "A_adPN", "A", "left", 1, "", False),
    (3, 301, "KC", "KCg-m", None, "left", 1, "", False),
    (4, 302, "KC", "KCab", None, "left", 1, "", False),
    (5, 303, "KC", "KCab", None, "right", 1, "", False),  # right side: not used
    (6, 304, "KC", "KCab", None, "left", 1, "", False),  # no input: not used
    (7, 401, "ALLN", "LN1", None, "left", -1, "", False),
    (8, 202, "ALPN", "B_lPN", "B", "left", -1, "", False),
    (9, 103, "ALRN", "ORN_B", "B", "left", 1, "Or2|Or1", True),
    (10, 104, "ALRN", "ORN_C", "C", "left", 1, "", False),  # no receptor: not used
    (11, 203, "ALPN", "C_adPN", "C", "left", 1, "", False),  # drives no left KC: not used
    (12, 100, "ALPN", "B_lPN", "B", "left", 0, "", False),  # unknown sign
]
EDGES = [
    *[(0, 2, 30), (1, 2, 10), (9, 8, 20), (9, 2, 10), (9, 12, 5)],  # ORN -> PN
    *[(10, 2, 99), (0, 11, 7)],
    *[(0, 7, 30), (9, 7, 10)],  # ORN -> LN
    *[(2, 3, 15), (8, 3, 5), (8, 4, 8), (2, 5, 50), (11, 5, 9), (12, 4, 8)],  # PN -> KC
]


def write_tables(folder: Path) -> Path:
    """Write the two connectome tables."""
    columns = (
        *("index", "root_id", "class_broad", "cell_type", "glomerulus", "side", "sign"),
        *("door_receptors", "seed_input"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    neurons = pd.DataFrame(NEURONS, columns=list(columns))
    neurons.to_parquet(fly_tables.table_path(folder, fly_tables.NEURONS))
    edges = pd.DataFrame(EDGES, columns=["pre", "post", "syn_count"])
    edges.to_parquet(fly_tables.table_path(folder, fly_tables.CONNECTIONS))
    return folder
