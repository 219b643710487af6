"""Small projections, dense and sparse, that tests share."""

from __future__ import annotations

import torch

from neuro.spiking.projection import Projection
from neuro.spiking.scaling import Labels

N_PRE, N_POST, N_CHANNELS = 7, 5, 2
SCALED = ("type_pairs", "pre_types", "post_types", "transmitters")
# Three kinds of presynaptic units of which the last has none, two of postsynaptic ones.
PRE_TYPE = Labels(torch.tensor([0, 1, 0, 1, 1, 0, 0]), ("E", "I", "nobody"))
POST_TYPE = Labels(torch.tensor([1, 0, 0, 1, 0]), ("soma", "dendrite"))
TRANSMITTER = Labels(torch.tensor([1, 0, 1, 2, 0, 1, 1]), ("GABA", "glutamate", "dopamine"))
SIGNS = torch.tensor([1, -1, 1, -1, -1, 1, 1])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def magnitudes(*shape, seed=0, dtype=torch.float64):
    return 0.1 + torch.rand(*shape, generator=seeded(seed), dtype=dtype)


def random_edges(n_edges, *, seed=0, n_pre=N_PRE, n_post=N_POST):
    """Different pairs in no order."""
    pairs = torch.randperm(n_pre * n_post, generator=seeded(seed))[:n_edges]
    return pairs // n_post, pairs % n_post


def sparse(n_edges=20, *, seed=0, dtype=torch.float64, **options):
    edges = random_edges(n_edges, seed=seed)
    weights = magnitudes(n_edges, seed=seed + 1, dtype=dtype) * SIGNS[edges[0]]
    return make(weights=weights, edges=edges, **options)


def dense(*, seed=0, dtype=torch.float64, **options):
    weights = magnitudes(N_PRE, N_POST, seed=seed, dtype=dtype) * SIGNS[:, None]
    return make(weights=weights, **options)


def make(**options):
    kinds = {"pre_type": PRE_TYPE, "post_type": POST_TYPE, "transmitter_of_pre": TRANSMITTER}
    return Projection(**{"n_pre": N_PRE, "n_post": N_POST, **kinds, **options})
