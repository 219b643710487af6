"""A sparse projection takes memory for its edges, never for all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from projections import seeded
from torch.utils._python_dispatch import TorchDispatchMode

from neuro.spiking.network import Network
from neuro.spiking.neurons import LIF
from neuro.spiking.projection import SCOPES, Projection


class LargestTensor(TorchDispatchMode):
    """Notes the most values that any operation returns, backward passes included."""

    def __init__(self):
        super().__init__()
        self.most, self.where = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func(*args, **(kwargs or {}))
        for one in returned if isinstance(returned, (tuple, list)) else [returned]:
            # Broadcasting without a copy takes no memory.
            sizes = zip(one.shape, one.stride(), strict=True) if _strided(one) else ()
            count = int(np.prod([size for size, stride in sizes if stride], dtype=np.int64))
            if count > self.most:
                self.most, self.where = count, str(func)
        return returned


def _strided(value):
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("backend", ["loop", "sequence", "auto"])
def test_a_sparse_projection_never_makes_a_tensor_of_all_pairs(backend, scope):
    n_units, n_edges, n_steps = 20_000, 100_000, 3
    generator = seeded(0)
    pairs = torch.randint(0, n_units**2, (2 * n_edges,), generator=generator).unique()[:n_edges]
    edges = (pairs // n_units, pairs % n_units)
    drive = torch.rand(n_steps, 1, n_units, generator=generator)
    kind = torch.arange(n_units) % 3
    largest = LargestTensor()
    with largest:
        projection = Projection(
            n_pre=n_units,
            n_post=n_units,
            weights=torch.rand(n_edges, generator=generator),
            edges=edges,
            delay_steps=torch.arange(n_edges) % 2 + 1,
            trainable=scope,
            pre_type=kind,
            post_type=kind,
            transmitter_of_pre=kind,
            signs=1,
        )
        made = Network(
            LIF(tau_mem_ms=10.0),
            {"recurrent": projection},
            n_units=n_units,
            dt_ms=1.0,
            recurrent=["recurrent"],
            backend=backend,
        )
        drive.requires_grad_()
        made({}, drive=drive).spikes.sum().backward()
    assert largest.most >= n_edges
    assert largest.most <= 2 * n_edges, largest.where
