"""Which odors there are, and how strongly each drives each receptor neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuro.connectome import fly_tables
from neuro.connectome.door import ALIASES
from neuro.connectome.flywire import check_choice

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

CLASSES = ("selection", "published_284")


@dataclass(frozen=True)
class Odors:
    """C odors.

    Attributes:
        names: C names, the classes in order.
        chemical_class: C chemical classes ("ester"), "" where unknown.
        response: normalized responses, 0 .. 1, shape (C, response unit); missing ones are 0.
        units: names of the response units.
    """

    names: tuple[str, ...]
    chemical_class: tuple[str, ...]
    response: np.ndarray
    units: tuple[str, ...]

    def drive(self, receptors: pd.Series) -> np.ndarray:
        """Sum the responses of all receptors that a neuron carries.

        Args:
            receptors: receptor names joined by "|", one entry a neuron, shape (N,).

        Returns:
            Responses, >= 0, shape (C, N).
        """
        column = {unit: self.response[:, i] for i, unit in enumerate(self.units)}
        drive = np.zeros((len(self.names), len(receptors)))
        for neuron, carried in enumerate(receptors):
            for name in carried.split("|"):
                drive[:, neuron] += column.get(ALIASES.get(name, name), 0.0)
        return np.clip(drive, 0, None)


def load_odors(folder: Path, *, classes: str = "selection") -> Odors:
    """Choose the odors to be named.

    The rule: of the 52 response units that FlyWire neurons are assigned to, more than 2 respond
    (response > 0). It gives 281 odors.

    Args:
        folder: where the tables lie.
        classes: "selection" applies the rule; "published_284" takes the 284 rows of the published
            selection, three of which repeat a name with the responses of a single receptor.

    Returns:
        The odors, in the order of DoOR.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: no such classes.
    """
    check_choice("classes", classes, CLASSES)
    published = fly_tables.read_table(folder, fly_tables.DOOR_SELECTED)
    odors = fly_tables.read_table(folder, fly_tables.DOOR_ODORS)
    if classes == "published_284":
        chosen = published
    else:
        matrix = fly_tables.read_table(folder, fly_tables.DOOR_RESPONSES)
        matrix = matrix[published.columns].fillna(0)
        matrix = matrix[(matrix > 0).sum(axis=1) > 2]
        chosen = matrix.set_axis(odors["Name"].reindex(matrix.index), axis=0)
    known = odors.drop_duplicates("Name").set_index("Name")["Class"].fillna("")
    return Odors(
        names=tuple(chosen.index),
        chemical_class=tuple(known.reindex(chosen.index).fillna("")),
        response=chosen.to_numpy(),
        units=tuple(chosen.columns),
    )
