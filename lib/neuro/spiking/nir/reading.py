"""From a graph of NIR to networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuro.spiking.network import Network
from neuro.spiking.nir.model import NirModel, WeightedReadout
from neuro.spiking.nir.nodes import (
    NirError,
    Steps,
    check_steps,
    neuron_of_node,
    readout_of_node,
)
from neuro.spiking.nir.paths import Arriving, Graph, Path
from neuro.spiking.projection import Projection


def from_nir(
    graph: Any,  # noqa: ANN401
    *,
    dt_ms: float | None = None,
    discretization: str | None = None,
    dtype: torch.dtype = torch.float64,
    trainable: str = "frozen",
    **neuron_options: Any,  # noqa: ANN401
) -> NirModel:
    """Return the networks of a NIRGraph, as `nir.read` returns it from a file.

    Nodes LIF and CubaLIF are populations, and what leads to them through Linear, Affine, Scale and
    Delay becomes a projection named by where it comes from; dots in names become underscores.
    Nested graphs are taken apart. A node LI is a readout. A spike needs a step for the way back
    onto its own population and none for the way to another one.

    Args:
        graph: the NIRGraph.
        dt_ms: length of a step; None takes the one in the graph's metadata, NIR itself has none.
        discretization: how to step through the equations, "exponential" or, as snntorch writes
            graphs, "euler"; None takes the one in the metadata, else "exponential".
        dtype: of weights.
        trainable: "frozen" or "synapses", see `Projection`.
        neuron_options: further arguments of `LIF`: surrogate, detach_reset.

    Raises:
        NirError: the graph has nodes or delays that cannot be read, populations that feed back
            onto each other, or no step was given.
    """
    if dt_ms is None and "dt_ms" not in graph.metadata:
        msg = "NIR graphs have no time step, and this one none in its metadata; give dt_ms"
        raise NirError(msg)
    steps = check_steps(
        float(graph.metadata["dt_ms"]) if dt_ms is None else dt_ms,
        discretization or _text(graph.metadata.get("discretization", "exponential")),
    )
    parts = Graph(graph)
    arriving = {name: parts.arriving(name) for name in parts.of_kind("LIF", "CubaLIF")}
    networks, constants = {}, {}
    for name in _in_order(arriving):
        node, comes = parts.nodes[name], arriving[name]
        neuron = neuron_of_node(node, steps=steps, name=name, **neuron_options)
        n_units = node.v_threshold.size
        networks[_plain(name)] = Network(
            neuron,
            _projections(name, comes, n_units, steps, dtype=dtype, trainable=trainable),
            n_units=n_units,
            dt_ms=steps.dt_ms,
            recurrent=[_plain(name)] if any(path.source == name for path in comes.paths) else [],
        )
        if np.any(comes.constant):
            constant = comes.constant * np.ones(n_units)
            constants[_plain(name)] = torch.from_numpy(constant).to(dtype)
    readouts = {
        _plain(name): _readout(parts, name, steps, dtype=dtype, trainable=trainable)
        for name in parts.of_kind("LI")
    }
    return NirModel(networks, dt_ms=steps.dt_ms, constants=constants, readouts=readouts)


def _projections(
    name: str,
    arriving: Arriving,
    n_units: int,
    steps: Steps,
    **options: Any,  # noqa: ANN401
) -> dict[str, Projection]:
    """Return the projections onto a population, by the names of their sources."""
    by_source: dict[str, list[Path]] = {}
    for path in arriving.paths:
        by_source.setdefault(path.source, []).append(path)
    return {
        _plain(source): _projection(paths, n_units, steps, recurrent=source == name, **options)
        for source, paths in by_source.items()
    }


def _projection(
    paths: list[Path],
    n_units: int,
    steps: Steps,
    *,
    recurrent: bool,
    dtype: torch.dtype,
    trainable: str,
) -> Projection:
    """Return what leads from one source to a population: dense where it has one delay."""
    n_pre = paths[0].n_pre
    delays = [_delay_steps(path, steps) + int(recurrent) for path in paths]
    sizes: dict[str, Any] = {"n_pre": n_pre, "n_post": n_units, "trainable": trainable}
    if len(paths) == 1 and (delays[0] == delays[0][0]).all():
        weights = torch.from_numpy(np.ascontiguousarray(paths[0].matrix().T)).to(dtype)
        return Projection(weights=weights, delay_steps=int(delays[0][0]), **sizes)
    # [pre, post] and where it is not zero
    matrices = [path.matrix().T for path in paths]
    found = [np.nonzero(matrix) for matrix in matrices]
    pre, post = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    values = np.concatenate([matrix[pair] for matrix, pair in zip(matrices, found, strict=True)])
    late = np.concatenate([delay[pair[0]] for delay, pair in zip(delays, found, strict=True)])
    pre, post, late, values = _summed(pre, post, late, values)
    return Projection(
        weights=torch.from_numpy(values).to(dtype),
        edges=(torch.from_numpy(pre), torch.from_numpy(post)),
        delay_steps=torch.from_numpy(late),
        **sizes,
    )


def _summed(
    pre: NDArray, post: NDArray, late: NDArray, values: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Add up what leads from one unit to another with the same delay."""
    keys, which = np.unique(np.stack([late, pre, post]), axis=1, return_inverse=True)
    totals = np.zeros(keys.shape[1], dtype=values.dtype)
    np.add.at(totals, which.reshape(-1), values)
    return keys[1], keys[2], keys[0], totals


def _delay_steps(path: Path, steps: Steps) -> NDArray:
    """Return the delay of each unit of the source in steps.

    Raises:
        NirError: it is no whole number of them.
    """
    exact = path.delay_s * 1000 / steps.dt_ms
    whole = np.round(exact)
    if not np.allclose(exact, whole, atol=1e-6):
        wrong = path.delay_s[np.abs(exact - whole).argmax()].item()
        msg = f"a delay of {wrong!r} s is no multiple of the step, {steps.dt_ms!r} ms"
        raise NirError(msg)
    return whole.astype(np.int64)


def _readout(
    parts: Graph, name: str, steps: Steps, *, dtype: torch.dtype, trainable: str
) -> WeightedReadout:
    """Return a readout with the weights from its sources."""
    arriving = parts.arriving(name)
    readout, factor = readout_of_node(
        parts.nodes[name], constant=arriving.constant, steps=steps, name=name
    )
    weights: dict[str, torch.Tensor] = {}
    for path in arriving.paths:
        source = _plain(path.source)
        if path.delay_s.any() or source in weights or path.source in parts.of_kind("LI"):
            msg = f"readout {name!r} reads {path.source!r} with a delay, twice or from a readout"
            raise NirError(msg)
        weights[source] = torch.from_numpy((factor[:, None] * path.matrix()).T.copy())
    made = WeightedReadout(readout, weights).to(dtype)
    return made.requires_grad_(trainable != "frozen")


def _in_order(arriving: Mapping[str, Arriving]) -> list[str]:
    """Return populations so that each comes after those that it reads.

    Raises:
        NirError: there is no such order.
    """
    left = {
        name: {path.source for path in comes.paths if path.source in arriving} - {name}
        for name, comes in arriving.items()
    }
    order: list[str] = []
    while left:
        ready = [name for name, sources in left.items() if sources <= set(order)]
        if not ready:
            msg = (
                f"the populations {sorted(left)!r} feed back onto each other; only a population's "
                "way back onto itself is read: make one node of them"
            )
            raise NirError(msg)
        order += ready
        left = {name: sources for name, sources in left.items() if name not in ready}
    return order


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _text(value: Any) -> str:  # noqa: ANN401
    return value.decode() if isinstance(value, bytes) else str(value)
