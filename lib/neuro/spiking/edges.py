"""Fixed sparse connectivity from presynaptic units to the inputs of postsynaptic ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Edges:
    """E edges sorted by presynaptic unit; the values on them are kept apart, in the same order.

    Attributes:
        pre: presynaptic unit of each edge, int64, shape (E,), ascending.
        post: what each edge reaches, in 0 .. n_post - 1, int64, shape (E,).
        offsets: edges of unit i are offsets[i] .. offsets[i + 1] - 1, int64, shape (n_pre + 1,).
        n_post: units, times channels where the postsynaptic neuron tells channels apart.
    """

    pre: torch.Tensor
    post: torch.Tensor
    offsets: torch.Tensor
    n_post: int

    @property
    def n_pre(self) -> int:
        """Presynaptic units."""
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> Edges:
        """Return the same edges on a device."""
        pre, post, offsets = (part.to(device) for part in (self.pre, self.post, self.offsets))
        return Edges(pre, post, offsets, self.n_post)

    def propagate(self, spikes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Sum the values of what spikes reach; differentiable, and costs all edges.

        Args:
            spikes: shape (..., n_pre).
            values: of the edges, shape (E,).

        Returns:
            Shape (..., n_post).
        """
        reached = spikes.new_zeros(*spikes.shape[:-1], self.n_post)
        return reached.index_add(-1, self.post, spikes[..., self.pre] * values)

    def propagate_active(self, spikes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Do the same for spikes of shape (B, n_pre) at the cost of the edges of active units."""
        trial, edge, size = self._active(spikes)
        reached = spikes.new_zeros(spikes.shape[0] * self.n_post)
        reached.index_add_(0, trial * self.n_post + self.post[edge], size * values[edge])
        return reached.view(-1, self.n_post)

    def back_propagate(self, grad: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the spikes, (B, n_pre), given that of what they reach."""
        with warnings.catch_warnings():
            # PyTorch calls its sparse matrices a beta.
            warnings.simplefilter("ignore", UserWarning)
            shape = (self.n_pre, self.n_post)
            matrix = torch.sparse_csr_tensor(
                self.offsets, self.post, values, shape, check_invariants=False
            )
        return (matrix @ grad.T).T

    def values_grad(self, spikes: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the values, (E,), given spikes (B, n_pre) and grad (B, n_post)."""
        trial, edge, size = self._active(spikes)
        total = grad.new_zeros(len(self.pre))
        return total.index_add_(0, edge, size * grad[trial, self.post[edge]])

    def _active(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return trial, edge and size of spike for every edge that a spike runs along."""
        trial, unit = spikes.nonzero(as_tuple=True)
        first = self.offsets[unit]
        count = self.offsets[unit + 1] - first
        which = torch.repeat_interleave(torch.arange(len(unit), device=unit.device), count)
        before = count.cumsum(0) - count
        edge = first[which] + torch.arange(len(which), device=unit.device) - before[which]
        return trial[which], edge, spikes[trial, unit][which]


def make_edges(
    pre: torch.Tensor | NDArray,
    post: torch.Tensor | NDArray,
    *,
    n_pre: int,
    n_post: int,
) -> tuple[Edges, torch.Tensor]:
    """Sort edges by presynaptic unit, then by what they reach.

    Args:
        pre: presynaptic unit of each edge, shape (E,), in 0 .. n_pre - 1.
        post: what each edge reaches, shape (E,), in 0 .. n_post - 1.
        n_pre: presynaptic units.
        n_post: postsynaptic units, times channels.

    Returns:
        The edges, and the order: values given for the edges belong to them as `values[order]`.

    Raises:
        ValueError: lengths differ, a unit is out of range, or a pair occurs twice.
    """
    pre = torch.as_tensor(pre, dtype=torch.int64)
    post = torch.as_tensor(post, dtype=torch.int64)
    if pre.shape != post.shape or pre.dim() != 1:
        msg = f"pre has shape {tuple(pre.shape)}, post {tuple(post.shape)}; both must be (E,)"
        raise ValueError(msg)
    for name, units, n_units in (("pre", pre, n_pre), ("post", post, n_post)):
        outside = units[(units < 0) | (units >= n_units)]
        if len(outside):
            msg = f"{name} holds {int(outside[0])}, outside 0 .. {n_units - 1}"
            raise ValueError(msg)
    key = pre * n_post + post
    key, order = key.sort()
    twice = (key[1:] == key[:-1]).nonzero()
    if len(twice):
        edge = int(key[twice[0]])
        pair = f"pre {edge // n_post}, post {edge % n_post}"
        msg = f"the pair {pair} occurs twice; sum its values first"
        raise ValueError(msg)
    offsets = torch.zeros(n_pre + 1, dtype=torch.int64)
    offsets[1:] = torch.bincount(pre, minlength=n_pre).cumsum(0)
    return Edges(pre[order], post[order], offsets, n_post), order
