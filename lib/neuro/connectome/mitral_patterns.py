"""Odors as firing rates of the inputs (mitral cells), one odor for each assembly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuro.connectome.network_structure import NetworkStructure


@dataclass(frozen=True)
class OdorRates:
    """What an odor does to the rates of inputs.

    Attributes:
        baseline_hz: mean rate over all inputs, with and without odor.
        raised_by_hz: what an odor adds to the baseline of the inputs it excites.
        raised_fraction: share of inputs that an odor excites, above 0 and below 1.
        target_type: cell type by whose input the excited inputs are chosen.
    """

    baseline_hz: float
    raised_by_hz: float
    raised_fraction: float
    target_type: str = "E"

    def rates_hz(self, n_inputs: int) -> tuple[int, float, float]:
        """Return how many inputs an odor excites, their rate, and the rate of the others in Hz.

        The rate of the others keeps the mean over all inputs at the baseline.

        Raises:
            ValueError: no input or every input is excited, or the others would need a rate < 0.
        """
        n_raised = round(self.raised_fraction * n_inputs)
        if not 0 < n_raised < n_inputs:
            msg = (
                f"raised_fraction = {self.raised_fraction!r} of {n_inputs} inputs is {n_raised}: "
                "an odor must raise at least one rate and lower at least one"
            )
            raise ValueError(msg)
        raised_hz = self.baseline_hz + self.raised_by_hz
        lowered_hz = (n_inputs * self.baseline_hz - n_raised * raised_hz) / (n_inputs - n_raised)
        if lowered_hz < 0 or self.raised_by_hz < 0:
            msg = (
                f"{n_raised} of {n_inputs} inputs at {raised_hz!r} Hz leave {lowered_hz!r} Hz for "
                f"the others at a mean of {self.baseline_hz!r} Hz: lower raised_by_hz (>= 0) or "
                "raised_fraction"
            )
            raise ValueError(msg)
        return n_raised, raised_hz, lowered_hz


def odor_patterns(structure: NetworkStructure, rates: OdorRates) -> NDArray[np.float64]:
    """Choose for each assembly an odor that drives it.

    Inputs are ranked by the sum of their weights onto the assembly's cells of the target type; the
    first of them fire more, all others less. Of equal sums the input of lower number comes first.

    Args:
        structure: the network.
        rates: see `OdorRates`.

    Returns:
        Rates in Hz, shape (assembly, N_in); every row has the mean `rates.baseline_hz`.

    Raises:
        ValueError: see `OdorRates.rates_hz`; or there is no such type.
    """
    n_raised, raised_hz, lowered_hz = rates.rates_hz(structure.n_inputs)
    drive = assembly_drive(structure, rates.target_type)
    first = np.argsort(-drive, axis=1, kind="stable")[:, :n_raised]
    patterns = np.full(drive.shape, lowered_hz)
    np.put_along_axis(patterns, first, raised_hz, axis=1)
    return patterns


def assembly_drive(structure: NetworkStructure, target_type: str) -> NDArray[np.float64]:
    """Sum the weights of each input onto the cells of a type in each assembly.

    Args:
        structure: the network.
        target_type: name of a cell type.

    Returns:
        Sums, shape (assembly, N_in).

    Raises:
        ValueError: there is no such type.
    """
    edges = structure.feedforward
    of_type = structure.cell_type_ids[edges.post] == structure.cell_type(target_type)
    assembly = structure.assembly_ids[edges.post]
    counted = of_type & (assembly >= 0)
    drive = np.zeros((structure.n_assemblies, structure.n_inputs))
    place = (assembly[counted], edges.pre[counted])
    np.add.at(drive, place, edges.weight[counted].astype(float))
    return drive
