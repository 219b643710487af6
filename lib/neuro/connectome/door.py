"""Odor responses of fly receptors (DoOR v2): building the tables, and choosing odors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DATA = "DoOR.data/data"
_SELECTED = "Nengo2025-ccSNN/data/ORN_data/DoOR_selected.csv"

# DoOR's name of a receptor where the neuron table has another; "Ir75" pools three and has none.
ALIASES = {"Gr21a": "Gr21a.Gr63a", "Or65": "Or65a", "Or22": "Or22a", "Or56a": "ab4B"}


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


def receptors_of_types(
    mappings: pd.DataFrame, units: Iterable[str], cell_type: pd.Series
) -> pd.Series:
    """Say which receptors a neuron carries, by the glomerulus that its type is named after.

    Args:
        mappings: from `build_mappings`.
        units: response units of DoOR that may be carried, in order.
        cell_type: of each neuron; receptor neurons' are "ORN_" and a glomerulus.

    Returns:
        Names of units joined by "|", "" where none, like `cell_type`.
    """
    carried: dict[str, list[str]] = {}
    place = mappings.drop_duplicates("receptor").set_index("receptor")["glomerulus"]
    for unit in units:
        for glomerulus in split_glomeruli(place[unit]):
            carried.setdefault(f"ORN_{glomerulus}", []).append(unit)
    joined = {orn_type: "|".join(names) for orn_type, names in carried.items()}
    return cell_type.map(joined).fillna("")


def split_glomeruli(text: str) -> list[str]:
    """Split how DoOR writes several glomeruli: "DM5+DM3", and "DL2d/v" for DL2d and DL2v."""
    glomeruli = []
    for name in text.split("+"):
        first, *variants = name.split("/")
        glomeruli += [first, *(first[:-1] + variant for variant in variants)]
    return glomeruli
