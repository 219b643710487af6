"""What leads to a node of a NIR graph through nodes without a state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuro.spiking.nir.nodes import NirError

# Nodes that a path starts or ends at, by the names of their classes.
STATEFUL = ("LIF", "CubaLIF", "LI")


@dataclass(frozen=True)
class Path:
    """Signals of a source, delayed and weighted.

    Attributes:
        source: name of an Input or of a population.
        n_pre: units of the source P.
        weights: [post, pre]; None for each unit onto its own.
        delay_s: of each unit of the source, shape (P,).
    """

    source: str
    n_pre: int
    weights: NDArray | None
    delay_s: NDArray

    def matrix(self) -> NDArray:
        """Return weights [post, pre]."""
        return np.eye(self.n_pre) if self.weights is None else self.weights


@dataclass(frozen=True)
class Arriving:
    """All that arrives at a node: a sum over paths, and a constant."""

    paths: tuple[Path, ...] = ()
    constant: NDArray | float = 0.0


class Graph:
    """Nodes of a NIR graph by name, nested graphs among the others, and what leads to them."""

    def __init__(self, graph: Any) -> None:  # noqa: ANN401
        """Take a NIRGraph apart."""
        self.nodes: dict[str, Any] = {}
        self._before: dict[str, list[str]] = {}
        self._flatten(graph, "")

    def of_kind(self, *kinds: str) -> list[str]:
        """Return names of the nodes of some classes, in the order of the graph."""
        return [name for name, node in self.nodes.items() if type(node).__name__ in kinds]

    def arriving(self, name: str, through: tuple[str, ...] = ()) -> Arriving:
        """Return what arrives at a node.

        Args:
            name: of the node.
            through: stateless nodes that were passed on the way here.

        Raises:
            NirError: it comes through nodes that are unknown here, or in a circle without neurons.
        """
        if name in through:
            msg = f"the nodes {list(through)!r} form a circle without a neuron in it"
            raise NirError(msg)
        here = (*through, name)
        return _sum(self._leaving(before, here) for before in self._before.get(name, []))

    def _leaving(self, name: str, through: tuple[str, ...]) -> Arriving:
        """Return what a node hands on."""
        node = self.nodes[name]
        kind = type(node).__name__
        if kind in STATEFUL or (kind == "Input" and not self._before.get(name)):
            shape = node.input_type["input"] if kind == "Input" else np.array(node.v_leak.shape)
            if len(shape) != 1:
                msg = f"node {name!r} has the shape {shape.tolist()!r}; only vectors are read"
                raise NirError(msg)
            n_pre = int(shape[0])
            return Arriving((Path(name, n_pre, None, np.zeros(n_pre)),))
        arriving = self.arriving(name, through)
        if kind in ("Input", "Output"):
            return arriving
        if kind in ("Linear", "Affine", "Scale"):
            return _weighted(node, arriving)
        if kind == "Delay":
            return _delayed(node, name, arriving)
        msg = (
            f"node {name!r} is of the class {kind}; those that are read are Input, Output, Linear, "
            "Affine, Scale, Delay, LIF, CubaLIF and LI"
        )
        raise NirError(msg)

    def _flatten(self, graph: Any, prefix: str) -> None:  # noqa: ANN401
        """Add the nodes of a graph; a nested one hands on from its inputs to its outputs."""
        nested = {name for name, node in graph.nodes.items() if hasattr(node, "nodes")}
        for name, node in graph.nodes.items():
            if name in nested:
                self._flatten(node, f"{prefix}{name}.")
            else:
                self.nodes[prefix + name] = node

        def ends(name: str, kind: str) -> list[str]:
            if name not in nested:
                return [prefix + name]
            inner = graph.nodes[name].nodes
            return [
                f"{prefix}{name}.{one}"
                for one, node in inner.items()
                if type(node).__name__ == kind
            ]

        for pre, post in graph.edges:
            for target in ends(post, "Input"):
                self._before.setdefault(target, []).extend(ends(pre, "Output"))


def _sum(parts: Iterable[Arriving]) -> Arriving:
    paths: tuple[Path, ...] = ()
    constant: NDArray | float = 0.0
    for part in parts:
        paths, constant = paths + part.paths, constant + part.constant
    return Arriving(paths, constant)


def _weighted(node: Any, arriving: Arriving) -> Arriving:  # noqa: ANN401
    weights = np.diag(node.scale) if hasattr(node, "scale") else np.asarray(node.weight)
    constant = arriving.constant
    if np.any(constant):
        constant = weights @ (constant * np.ones(weights.shape[1]))
    if hasattr(node, "bias"):
        constant = constant + np.asarray(node.bias)
    paths = tuple(
        replace(path, weights=weights if path.weights is None else weights @ path.weights)
        for path in arriving.paths
    )
    return Arriving(paths, constant)


def _delayed(node: Any, name: str, arriving: Arriving) -> Arriving:  # noqa: ANN401
    delay = np.asarray(node.delay, dtype=np.float64).reshape(-1)
    uniform = (delay == delay[0]).all()
    if np.any(arriving.constant) or not (uniform or all(p.weights is None for p in arriving.paths)):
        what = "a bias" if np.any(arriving.constant) else "sums of what several units send"
        msg = f"node {name!r} delays {what}; delays are read where they are before weights"
        raise NirError(msg)
    paths = tuple(
        replace(path, delay_s=path.delay_s + (delay[0] if uniform else delay))
        for path in arriving.paths
    )
    return Arriving(paths)
