"""All tables of the fly, by name: built from public files, written, read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from neuro.connectome import door, larva_tables
from neuro.connectome.fly_connections import build_connections, read_edges
from neuro.connectome.fly_neurons import build_cell_types, build_neurons

if TYPE_CHECKING:
    from pathlib import Path

NEURONS = "fly_olfactory_neurons"
CONNECTIONS = "fly_olfactory_connections"
CELL_TYPES = "flywire783_cell_types_137677"
DOOR_RESPONSES = "door_response_matrix"
DOOR_ODORS = "door_odors"
DOOR_MAPPINGS = "door_receptor_mappings"
DOOR_SELECTED = "door_selected_284"
LARVA_NEURONS = "larva_neurons"
LARVA_CONNECTIONS = "larva_connections"


def build_tables(raw: Path) -> dict[str, pd.DataFrame]:
    """Build every table from the public files.

    Args:
        raw: folder that holds the files as REPOSITORY/PATH.

    Returns:
        Nine tables by name.

    Raises:
        OSError: a file is missing.
    """
    edges = read_edges(raw)
    neurons = build_neurons(raw, edges)
    return {
        NEURONS: neurons,
        CONNECTIONS: build_connections(edges, neurons),
        CELL_TYPES: build_cell_types(raw),
        DOOR_RESPONSES: door.build_responses(raw),
        DOOR_ODORS: door.build_odors(raw),
        DOOR_MAPPINGS: door.build_mappings(raw),
        DOOR_SELECTED: door.build_selected(raw),
        LARVA_NEURONS: larva_tables.build_larva_neurons(raw),
        LARVA_CONNECTIONS: larva_tables.build_larva_connections(raw),
    }


def table_path(folder: Path, name: str) -> Path:
    """Return the file of one table."""
    return folder / f"{name}.parquet"


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read one table.

    Args:
        folder: where the tables lie.
        name: one of the names above.

    Raises:
        FileNotFoundError: it is not there.
    """
    return pd.read_parquet(table_path(folder, name))
