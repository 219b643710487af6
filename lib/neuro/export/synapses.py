"""Synapses of projections, as they are here and as PyNN takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from neuro.spiking.network import Network
from neuro.spiking.projection import Projection


class Edges(NamedTuple):
    """From a source onto a part, with weights as they are here and delays in steps."""

    source: str
    target: str
    name: str
    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    weight: NDArray[np.float64]
    delay_steps: NDArray[np.int64]


class SynapseTable(NamedTuple):
    """Synapses of one sign, arrays of shape (E,): weights in nA or mV, delays in ms."""

    source: str
    target: str
    name: str
    receptor: str
    pre: NDArray[np.int64]
    post: NDArray[np.int64]
    weight: NDArray[np.float64]
    delay_ms: NDArray[np.float64]


def edges_onto(name: str, networks: Mapping[str, Network]) -> list[Edges]:
    """Return what leads onto a population, a set for each projection."""
    found = []
    for projection_name, projection in networks[name].projections.items():
        source = name if projection_name in networks[name].recurrent else projection_name
        columns: list[list[NDArray]] = [[], [], [], []]
        for one in cast(Projection, projection).synapses(None):
            weight = one.weights.detach().cpu().double()
            if one.edges is None:
                pre, post = all_pairs(*weight.shape)
            else:
                pre, post = one.edges.pre.cpu().numpy(), one.edges.post.cpu().numpy()
            values = (pre, post, weight.reshape(-1).numpy(), np.full(len(pre), one.delay))
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        arrays = (np.concatenate(column) for column in columns)
        found.append(Edges(source, name, projection_name, *arrays))
    return found


def all_pairs(n_pre: int, n_post: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pre- and postsynaptic unit of each value of a matrix, row by row."""
    return np.repeat(np.arange(n_pre), n_post), np.tile(np.arange(n_post), n_pre)


def by_sign(
    edges: Edges, factor: NDArray[np.float64], delay_ms: NDArray[np.float64]
) -> list[SynapseTable]:
    """Return synapses that excite and synapses that inhibit; those of weight 0 are left out."""
    weight = edges.weight * factor[edges.post]
    return [
        SynapseTable(
            source=edges.source,
            target=edges.target,
            name=edges.name,
            receptor=receptor,
            pre=edges.pre[chosen],
            post=edges.post[chosen],
            weight=weight[chosen],
            delay_ms=delay_ms[chosen],
        )
        for receptor, chosen in (("excitatory", weight > 0), ("inhibitory", weight < 0))
        if chosen.any()
    ]
