"""Cells and synapses of an assembly network: what its graph does not say.

Stages hand it on as physiology.json beside the network's structure, so that all of them simulate
the same cells. A parameter file holds the same as tables:

    model = "conductance"           or "current", which is in natural units: threshold 1, reset 0
    [cells.E]                       for each cell type of the structure: `CellType`, `CurrentCell`
    [synapses.AMPA]                 for each kind of synapse: `SynapseKind`, `CurrentKind`
    [transmission]
    E = ["AMPA", "NMDA"]            of each cell type and input type, the kinds that it acts through
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from neuro.models.cell_physiology import CellType, CurrentCell, CurrentKind, SynapseKind
from neuro.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REMEDY = "write it with neuro.models.physiology.save_physiology"


class Model(NamedTuple):
    """What the tables of a model hold, and the unit of its potentials."""

    cell: type[CellType | CurrentCell]
    synapse: type[SynapseKind | CurrentKind]
    unit: str


MODELS = {
    "conductance": Model(CellType, SynapseKind, "mV"),
    "current": Model(CurrentCell, CurrentKind, "thresholds"),
}


@dataclass(frozen=True)
class Physiology:
    """All of it.

    Attributes:
        cells: by cell type.
        synapses: by kind.
        transmission: kinds of synapses by type of the presynaptic cell or input.
        model: "conductance" or "current".
    """

    cells: Mapping[str, CellType | CurrentCell]
    synapses: Mapping[str, SynapseKind | CurrentKind]
    transmission: Mapping[str, Sequence[str]]
    model: str = "conductance"

    def __post_init__(self) -> None:
        """Refuse an unknown model, and kinds that nobody described.

        Raises:
            ValueError: a type transmits through nothing, or through a kind that is not there.
        """
        if self.model not in MODELS:
            msg = f"model = {self.model!r} is none of {', '.join(map(repr, MODELS))}"
            raise ValueError(msg)
        for source, kinds in self.transmission.items():
            unknown = [kind for kind in kinds if kind not in self.synapses]
            if unknown or not kinds:
                msg = (
                    f"transmission of {source!r} is {list(kinds)!r}; name at least one of the "
                    f"synapses {sorted(self.synapses)}"
                )
                raise ValueError(msg)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Physiology:
        """Read the tables cells, synapses and transmission of a parameter file, and model.

        Raises:
            ValueError: a table is missing, or holds other keys than it should.
        """
        tables = {"model": "conductance", **tables}
        names = [field.name for field in fields(cls)]
        if sorted(tables) != sorted(names):
            msg = f"there are {sorted(tables)}; a physiology has {sorted(names)}"
            raise ValueError(msg)
        model = MODELS.get(tables["model"], MODELS["conductance"])
        return cls(
            cells=_rows(model.cell, "cells", tables["cells"]),
            synapses=_rows(model.synapse, "synapses", tables["synapses"]),
            transmission={name: tuple(kinds) for name, kinds in tables["transmission"].items()},
            model=tables["model"],
        )

    @property
    def unit(self) -> str:
        """Unit of potentials."""
        return MODELS[self.model].unit

    def cell(self, name: str) -> CellType | CurrentCell:
        """Return a type of cells.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.cells:
            msg = f"the cell type {name!r} is none of those described, {sorted(self.cells)}"
            raise ValueError(msg)
        return self.cells[name]

    def kinds_of(self, source: str) -> tuple[str, ...]:
        """Return the kinds of synapses that a type of cells or inputs acts through.

        Raises:
            ValueError: the type is not described.
        """
        if source not in self.transmission:
            msg = f"transmission says nothing of {source!r}, only of {sorted(self.transmission)}"
            raise ValueError(msg)
        return tuple(self.transmission[source])

    def excites(self, source: str) -> bool:
        """Return whether a type of cells or inputs pulls every cell above its threshold.

        Raises:
            ValueError: the type is not described, or excites by one kind of synapse and inhibits by
                another.
        """
        highest = max(cell.threshold for cell in self.cells.values())
        exciting = {self.synapses[kind].excites(highest) for kind in self.kinds_of(source)}
        if len(exciting) > 1:
            msg = f"{source!r} acts through {self.kinds_of(source)}, which pull to different sides"
            raise ValueError(msg)
        return exciting.pop()


def save_physiology(path: Path, physiology: Physiology) -> None:
    """Write it as JSON; the file appears whole or not at all."""
    text = json.dumps(asdict(physiology), indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def load_physiology(path: Path) -> Physiology:
    """Read what `save_physiology` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    if not path.is_file():
        msg = f"there is no physiology {path}: name the run of the stage that writes it"
        raise FileNotFoundError(msg)
    try:
        return Physiology.from_tables(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"{path} is no physiology ({error}): {REMEDY}"
        raise ValueError(msg) from error


Row = TypeVar("Row")


def _rows(kind: type[Row], name: str, table: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """Return a table of tables as values, refusing keys that they lack or do not have."""
    wanted = sorted(kind.__annotations__)
    for key, row in table.items():
        if sorted(row) != wanted:
            msg = f"{name}.{key} holds the keys {sorted(row)}; it must hold {wanted}"
            raise ValueError(msg)
    return {key: kind(**row) for key, row in table.items()}
