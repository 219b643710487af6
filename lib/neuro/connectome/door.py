"""Odor responses of fly receptors (DoOR v2): building the tables, and choosing odors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path

_DATA = "DoOR.data/data"
_SELECTED = "Nengo2025-ccSNN/data/ORN_data/DoOR_selected.csv"


def build_responses(raw: Path) -> pd.DataFrame:
    """Read the response matrix: a row an odor (InChIKey), a column a response unit, 0 .. 1."""
    return _read_numbers(raw / _DATA / "door_response_matrix.csv", sep=";").rename_axis("InChIKey")


def build_odors(raw: Path) -> pd.DataFrame:
    """Read the odors by InChIKey: Class, Name, CAS, CID, SMILES, as text."""
    odors = pd.read_csv(raw / _DATA / "odor.csv", sep=";", index_col=0, dtype=object)
    odors = odors.drop_duplicates("InChIKey").set_index("InChIKey")
    return odors[["Class", "Name", "CAS", "CID", "SMILES"]]


def build_mappings(raw: Path) -> pd.DataFrame:
    """Read which receptor sits in which sensillum, neuron and glomerulus, as text."""
    path = raw / _DATA / "door_mappings.csv"
    mappings = pd.read_csv(path, sep=";", index_col=0, dtype=object)
    return mappings.replace({"TRUE": "True", "FALSE": "False"})


def build_selected(raw: Path) -> pd.DataFrame:
    """Read the published selection of 284 odors (281 names) and 52 response units."""
    return _read_numbers(raw / _SELECTED, sep=",").rename_axis("odor")


def _read_numbers(path: Path, *, sep: str) -> pd.DataFrame:
    # The default parser is off by one bit now and then.
    return pd.read_csv(path, sep=sep, index_col=0, float_precision="round_trip")
