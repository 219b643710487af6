"""Controls: wiring that keeps the degrees of the real one and loses who is connected to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SHUFFLES = ("targets", "targets_within_type", "signs")


def shuffle_targets(pairs: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Permute the postsynaptic neurons over all pairs; a pair keeps its synapse count.

    Counted with multiplicity, every presynaptic neuron keeps its out-degree and every postsynaptic
    one its in-degree; a pair may come up twice.
    """
    return pairs.assign(post=generator.permutation(pairs["post"].to_numpy()))


def shuffle_targets_within_type(
    pairs: pd.DataFrame, neurons: pd.DataFrame, generator: np.random.Generator
) -> pd.DataFrame:
    """Permute the postsynaptic neurons over the pairs onto one cell type of one side.

    Beside what `shuffle_targets` keeps, every presynaptic neuron keeps how many pairs it has onto
    each type of each side. Which presynaptic neurons meet in one target is lost.

    Args:
        pairs: columns pre, post (root ids) and others, which stay with `pre`.
        neurons: indexed by root id, columns cell_type and side.
        generator: source of chance.
    """
    target = neurons.loc[pairs["post"]]
    post = pairs["post"].to_numpy(copy=True)
    groups = target.reset_index(drop=True).groupby(["cell_type", "side"]).indices
    for _, rows in sorted(groups.items()):
        post[rows] = generator.permutation(post[rows])
    return pairs.assign(post=post)


def shuffle_signs(neurons: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Permute the signs over the neurons of each class: each class keeps how many excite."""
    sign = neurons["sign"].to_numpy(copy=True)
    for _, rows in sorted(neurons.groupby("cell_class").indices.items()):
        sign[rows] = generator.permutation(sign[rows])
    return neurons.assign(sign=sign, sign_origin="shuffled")
