"""From networks to a graph of NIR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from neuro.spiking.network import Network
from neuro.spiking.neurons.readout import LeakyReadout
from neuro.spiking.nir.nodes import (
    NirError,
    Steps,
    check_steps,
    load_nir,
    neuron_node,
    readout_node,
)
from neuro.spiking.projection import Projection
from neuro.spiking.synapses import Synapses

# Values of a weight matrix, 2 GiB of doubles: NIR knows no sparse ones.
MAX_WEIGHTS = 2**28


class ReadoutLayer(NamedTuple):
    """A readout and what it reads.

    Attributes:
        source: name of the population whose spikes it reads.
        weights: from the population to the outputs, shape (N, K).
        readout: with K outputs.
    """

    source: str
    weights: torch.Tensor
    readout: LeakyReadout


def to_nir(
    networks: Network | Mapping[str, Network],
    *,
    readouts: Mapping[str, ReadoutLayer] | None = None,
    discretization: str = "exponential",
) -> Any:  # noqa: ANN401
    """Return networks as a NIRGraph; `nir.write` takes it to a file.

    Each population is a node LIF or CubaLIF, see `neuro.spiking.nir.nodes` for its values. Each
    projection is a node Linear with weights [post, pre], one for each delay, behind a node Delay in
    s where there is one: a spike acts within its own step from outside, and a step later within the
    population, which closes a loop of the graph; delays are what is beyond that. A projection that
    has the name of another population comes from there, every other input is a node Input of its
    name. Surrogates and what is trained are not part of NIR; dt is in the graph's metadata.

    Args:
        networks: by name, or one, which is called "population".
        readouts: by name.
        discretization: how the reader will step through the equations, "exponential" or "euler".

    Raises:
        NirError: NIR cannot say it: a reset by subtraction or "hold", refractory periods,
            conductances, adaptive thresholds; populations feed back onto each other, for which no
            reader of NIR agrees on an order; or a weight matrix would be too large, as NIR knows
            no sparse ones.
        NirMissing: the package nir is not installed.
    """
    populations = {"population": networks} if isinstance(networks, Network) else dict(networks)
    times = {network.dt_ms for network in populations.values()}
    if len(times) != 1:
        msg = f"networks have dt_ms = {sorted(times)!r}; a graph needs one network, and one step"
        raise NirError(msg)
    _check_order(populations)
    writer = _Writer(populations, check_steps(times.pop(), discretization))
    for name, network in populations.items():
        writer.add_population(name, network)
    for name, layer in (readouts or {}).items():
        writer.add_readout(name, layer)
    return writer.graph()


class _Writer:
    """Nodes and edges, as they come."""

    def __init__(self, populations: Mapping[str, Network], steps: Steps) -> None:
        self._nir, self._steps = load_nir(), steps
        self._populations = populations
        self._nodes: dict[str, Any] = {}
        self._edges: list[tuple[str, str]] = []

    def add_population(self, name: str, network: Network) -> None:
        """Add its node, its inputs and its projections."""
        node = neuron_node(network.model(), n_units=network.n_units, steps=self._steps, name=name)
        self._add_node(name, node)
        for projection_name in network.projections:
            projection = cast(Projection, network.projections[projection_name])
            recurrent = projection_name in network.recurrent
            source = name if recurrent else projection_name
            if source not in self._populations:
                self._add_input(source, projection.n_pre)
            elif self._populations[source].n_units != projection.n_pre:
                msg = (
                    f"projection {projection_name!r} of {name!r} reads {projection.n_pre} units; "
                    f"the population of that name has {self._populations[source].n_units}"
                )
                raise NirError(msg)
            for one in projection.synapses(None):
                steps = one.delay - 1 if recurrent else one.delay
                self._add_synapses(f"{name}_{projection_name}", (source, name), one, steps)
        if not any(name in other.input_names for other in self._populations.values()):
            self._add_output(name, network.n_units)

    def add_readout(self, name: str, layer: ReadoutLayer) -> None:
        """Add its node and its weights."""
        if layer.source not in self._populations:
            known = sorted(self._populations)
            msg = f"readout {name!r} reads {layer.source!r}; the populations are {known!r}"
            raise NirError(msg)
        self._add_node(name, readout_node(layer.readout, steps=self._steps))
        synapses = Synapses(layer.weights.detach(), delay=0)
        self._add_synapses(f"{name}_weights", (layer.source, name), synapses, 0)
        self._add_output(name, layer.weights.shape[1])

    def graph(self) -> Any:  # noqa: ANN401
        """Return what was added as a graph."""
        metadata = {"dt_ms": self._steps.dt_ms, "discretization": self._steps.discretization}
        return self._nir.NIRGraph(nodes=self._nodes, edges=self._edges, metadata=metadata)

    def _add_node(self, name: str, node: Any) -> None:  # noqa: ANN401
        if name in self._nodes or "/" in name:
            why = "holds a '/'" if "/" in name else "is taken"
            msg = (
                f"a node cannot be called {name!r}: the name {why}; rename a network or projection"
            )
            raise NirError(msg)
        self._nodes[name] = node

    def _add_input(self, name: str, n_units: int) -> None:
        node = self._nodes.get(name)
        if node is None:
            self._add_node(name, self._nir.Input(input_type={"input": np.array([n_units])}))
        elif int(node.input_type["input"][0]) != n_units:
            msg = f"input {name!r} has {n_units} units for one population and others for another"
            raise NirError(msg)

    def _add_output(self, name: str, n_units: int) -> None:
        node = self._nir.Output(output_type={"output": np.array([n_units])})
        self._add_node(f"{name}_output", node)
        self._edges.append((name, f"{name}_output"))

    def _add_synapses(
        self, name: str, between: tuple[str, str], one: Synapses, delay_steps: int
    ) -> None:
        """Add weights and, where it is above zero, the delay before them."""
        source, target = between
        if delay_steps:
            name = f"{name}_after_{delay_steps}"
            delay_s = np.full(one.n_pre, delay_steps * self._steps.dt_ms / 1000)
            self._add_node(f"{name}_delay", self._nir.Delay(delay=delay_s))
            self._edges.append((source, f"{name}_delay"))
            source = f"{name}_delay"
        self._add_node(name, self._nir.Linear(weight=_dense(one, name)))
        self._edges += [(source, name), (name, target)]


def _check_order(populations: Mapping[str, Network]) -> None:
    """Refuse populations of which none is the first.

    Raises:
        NirError: they feed back onto each other.
    """
    left = {name: set(one.input_names) & set(populations) for name, one in populations.items()}
    while left:
        ready = {name for name, sources in left.items() if not sources & set(left)}
        if not ready:
            msg = (
                f"the populations {sorted(left)!r} feed back onto each other; only a population's "
                "way back onto itself is written: make one network of them"
            )
            raise NirError(msg)
        left = {name: sources for name, sources in left.items() if name not in ready}


def _dense(one: Synapses, name: str) -> NDArray:
    """Return weights [post, pre]."""
    if one.n_pre * one.n_post > MAX_WEIGHTS:
        msg = (
            f"{name!r} would be a matrix of {one.n_post} x {one.n_pre} weights; NIR knows no "
            f"sparse ones, and more than {MAX_WEIGHTS} are not made dense"
        )
        raise NirError(msg)
    weights = one.weights.detach().cpu()
    if one.edges is not None:
        values, edges = weights, one.edges.to("cpu")
        weights = values.new_zeros(one.n_pre, one.n_post)
        weights[edges.pre, edges.post] = values
    return np.ascontiguousarray(weights.T.numpy())
