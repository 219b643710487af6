"""Readouts: cells that only integrate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuro.export.backends import Backend, PynnError
from neuro.export.conversion import PynnCells, convert_cells
from neuro.export.synapses import Edges, all_pairs
from neuro.spiking.network import Network
from neuro.spiking.neurons.lif import LIF
from neuro.spiking.neurons.readout import LeakyReadout

# PyNN has no cells without threshold; in mV, what SpiNNaker's fixed-point numbers can hold.
UNREACHABLE = 30000.0


class PynnReadout(NamedTuple):
    """Cells that integrate spikes and never spike themselves; their potentials are the output.

    Attributes:
        source: name of the population that they read.
        weights: from the units that are read to K outputs, shape (P, K).
        neuron: the readout; or a LIF whose potential is the output, its threshold not used.
        units: that are read, their numbers in the population, shape (P,); None reads all.
    """

    source: str
    weights: torch.Tensor
    neuron: LeakyReadout | LIF
    units: torch.Tensor | NDArray[np.int64] | None = None


def readout_cells(name: str, readout: PynnReadout, *, dt_ms: float, backend: Backend) -> PynnCells:
    """Return cells whose potential is the readout's value, and which never reach threshold."""
    neuron = readout.neuron
    if isinstance(neuron, LeakyReadout):
        bias = 0.0 if neuron.bias is None else neuron.bias.detach().double()
        tau_ms = neuron.log_tau.detach().double().exp()
        neuron = LIF(tau_ms, bias=bias, reset="zero", gain="unit")
    n_outputs = readout.weights.shape[1]
    cells = convert_cells(neuron, n_units=n_outputs, dt_ms=dt_ms, backend=backend, name=name)
    cells.parameters["v_thresh"] = np.full(n_outputs, UNREACHABLE)
    return cells


def readout_edges(name: str, readout: PynnReadout, networks: Mapping[str, Network]) -> Edges:
    """Return what leads onto a readout from the units that it reads.

    Raises:
        PynnError: weights do not fit the units, or there are no such units.
    """
    n_units, weights = networks[readout.source].n_units, readout.weights.detach().cpu().double()
    index = np.arange(n_units) if readout.units is None else np.asarray(readout.units)
    fits = index.shape == weights.shape[:1] and len(np.unique(index)) == len(index)
    if not fits or (len(index) and not 0 <= index.min() <= index.max() < n_units):
        msg = (
            f"readout {name!r} has weights {tuple(weights.shape)} for {len(index)} units; units "
            f"must hold each of them once, within the {n_units} of {readout.source!r}"
        )
        raise PynnError(msg)
    pre, post = all_pairs(*weights.shape)
    values, now = weights.reshape(-1).numpy(), np.zeros(len(pre), dtype=np.int64)
    return Edges(readout.source, name, name, index[pre], post, values, now)
