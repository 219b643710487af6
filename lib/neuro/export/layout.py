"""Which cells, sources and synapses a script makes, and when they start.

Time in PyNN counts from the start of a simulation, whose first input has to be later than its
least delay. So each population has a start of its own: its step n is from start + n dt to
start + (n + 1) dt, and what arrives in step n here must change the current at start + n dt there
(or the potential of an IF_curr_delta at start + (n + 1) dt). Delays follow from that; one that
would be shorter than the simulator's least one is lengthened to it, which is what happens to
synapses within a population with delay_steps = 1: they act a time step of the simulator late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from neuro.export.backends import Backend, PynnError
from neuro.export.conversion import PynnCells, convert_cells
from neuro.export.readouts import PynnReadout, readout_cells, readout_edges
from neuro.export.synapses import Edges, SynapseTable, by_sign, edges_onto
from neuro.spiking.network import Network
from neuro.spiking.projection import Projection

# A source's spike must come later than the least delay, and arrives a least delay later.
FIRST_INPUT, FIRST_START = 2, 3


class Part(NamedTuple):
    """A population: its cells, the start of its first step, whether it is a readout."""

    cells: PynnCells
    start_ms: float
    reads: bool

    @property
    def n_units(self) -> int:
        """N."""
        return len(self.cells.weight_factor)


class Layout(NamedTuple):
    """What a script is written from.

    Attributes:
        inputs: number of units of each.
        parts: populations and readouts by name.
        synapses: tables, none of them empty.
        dt_ms: step of the network.
        timestep_ms: of the simulator.
        late_synapses: how many act later than they should.
    """

    inputs: dict[str, int]
    parts: dict[str, Part]
    synapses: list[SynapseTable]
    dt_ms: float
    timestep_ms: float
    late_synapses: int

    @property
    def first_input_ms(self) -> float:
        """When a spike of an input in step 0 is sent."""
        return FIRST_INPUT * self.timestep_ms


def lay_out(
    networks: Mapping[str, Network],
    readouts: Mapping[str, PynnReadout],
    *,
    backend: Backend,
    timestep_ms: float | None,
) -> Layout:
    """Convert networks and readouts.

    Raises:
        PynnError: PyNN cannot say them, or names or sizes do not fit together.
    """
    dt_ms, step_ms = _check_times(networks, timestep_ms)
    _check_names(networks, readouts)
    cells = {
        name: convert_cells(
            network.model(), n_units=network.n_units, dt_ms=dt_ms, backend=backend, name=name
        )
        for name, network in networks.items()
    }
    edges = [one for name in networks for one in edges_onto(name, networks)]
    for name, readout in readouts.items():
        cells[name] = readout_cells(name, readout, dt_ms=dt_ms, backend=backend)
        edges.append(readout_edges(name, readout, networks))
    starts = _starts(cells, edges, dt_ms=dt_ms, step_ms=step_ms)
    parts = {name: Part(one, starts[name], name in readouts) for name, one in cells.items()}
    tables, late = [], 0
    for one in edges:
        delay_ms, is_late = _delays(one, parts, dt_ms=dt_ms, step_ms=step_ms)
        late += int((is_late & (one.weight != 0)).sum())
        tables += by_sign(one, cells[one.target].weight_factor, delay_ms)
    inputs = {
        name: cast(Projection, network.projections[name]).n_pre
        for network in networks.values()
        for name in network.input_names
        if name not in networks
    }
    return Layout(inputs, parts, tables, dt_ms, step_ms, late)


def _check_times(networks: Mapping[str, Network], timestep_ms: float | None) -> tuple[float, float]:
    """Return the step of the networks and that of the simulator."""
    times = {network.dt_ms for network in networks.values()}
    if len(times) != 1:
        msg = f"networks have dt_ms = {sorted(times)!r}; give one network, or one step"
        raise PynnError(msg)
    dt_ms = times.pop()
    step_ms = dt_ms if timestep_ms is None else timestep_ms
    ratio = dt_ms / step_ms if step_ms > 0 else 0.0
    if not (ratio >= 1 and abs(ratio - round(ratio)) < 1e-6):
        msg = f"timestep_ms = {timestep_ms!r} does not divide the network's step, {dt_ms!r} ms"
        raise PynnError(msg)
    return dt_ms, step_ms


def _check_names(networks: Mapping[str, Network], readouts: Mapping[str, PynnReadout]) -> None:
    inputs: dict[str, int] = {}
    for name in (*networks, *readouts):
        if "." in name:
            msg = f"a population cannot be called {name!r}: arrays are named with dots; rename it"
            raise PynnError(msg)
    for name, network in networks.items():
        for source in network.input_names:
            if source == name:
                msg = f"an input of {name!r} has the name of the population itself; rename one"
                raise PynnError(msg)
            n_pre = cast(Projection, network.projections[source]).n_pre
            known = networks[source].n_units if source in networks else inputs.get(source, n_pre)
            if known != n_pre:
                msg = f"{name!r} reads {n_pre} units of {source!r}, which has {known}"
                raise PynnError(msg)
            inputs[source] = n_pre
    for name, readout in readouts.items():
        if name in inputs or name in networks:
            msg = f"a readout cannot be called {name!r}: an input or a population has the name"
            raise PynnError(msg)
        if readout.source not in networks:
            msg = f"readout {name!r} reads {readout.source!r}; there are {sorted(networks)!r}"
            raise PynnError(msg)


def _starts(
    cells: Mapping[str, PynnCells], edges: list[Edges], *, dt_ms: float, step_ms: float
) -> dict[str, float]:
    """Return starts that leave every delay between populations at least a time step.

    Raises:
        PynnError: populations feed back onto each other.
    """
    starts: dict[str, float] = {}
    while len(starts) < len(cells):
        ready = [
            name
            for name in cells
            if name not in starts
            and all(
                one.source in starts
                for one in edges
                if one.target == name and one.source in cells and one.source != name
            )
        ]
        if not ready:
            left = sorted(set(cells) - set(starts))
            msg = f"{left!r} feed back onto each other; make one network of them"
            raise PynnError(msg)
        for name in ready:
            starts[name] = max(
                [FIRST_START * float(step_ms)]
                + [
                    starts[one.source]
                    + dt_ms * (1 - int(one.delay_steps.min()))
                    + step_ms
                    - _acts_ms(cells[name], dt_ms)
                    for one in edges
                    if one.target == name and one.source in starts and len(one.delay_steps)
                ]
            )
    return starts


def _acts_ms(cells: PynnCells, dt_ms: float) -> float:
    """Return how long after the start of a step its input acts."""
    return dt_ms if cells.model == "IF_curr_delta" else 0.0


def _delays(
    edges: Edges, parts: Mapping[str, Part], *, dt_ms: float, step_ms: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return delays in ms, and which of them should be shorter than a simulator can have."""
    source, target = parts.get(edges.source), parts[edges.target]
    sent_ms = FIRST_INPUT * step_ms if source is None else source.start_ms + dt_ms
    arrives_ms = target.start_ms + _acts_ms(target.cells, dt_ms) + edges.delay_steps * dt_ms
    in_steps = np.round((arrives_ms - sent_ms) / step_ms)
    return np.maximum(in_steps, 1) * step_ms, in_steps < 1
