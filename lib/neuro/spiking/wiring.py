"""Which unit reaches which, on what channel and after what delay; all but the weights."""

from __future__ import annotations

from typing import Any

import torch

from neuro.spiking.edges import Edges, make_edges
from neuro.spiking.fixed import FixedModule
from neuro.spiking.synapses import Synapses


class DenseWiring(FixedModule):
    """Every presynaptic unit reaches every postsynaptic one.

    Attributes:
        delays: the one delay, in steps.
    """

    channel_of_pre: torch.Tensor

    def __init__(
        self, *, n_post: int, n_channels: int, channel_of_pre: torch.Tensor, delay_steps: int
    ) -> None:
        """Take over what was checked by `make_wiring`."""
        super().__init__()
        self._n_post, self._n_channels = n_post, n_channels
        self.register_buffer("channel_of_pre", channel_of_pre)
        self.delays = (delay_steps,)

    def stored(self, values: torch.Tensor) -> torch.Tensor:
        """Return values in the order in which they are kept: as they are."""
        return values

    def given(self, values: torch.Tensor) -> torch.Tensor:
        """Undo `stored`."""
        return values

    def of_pre(self, values: torch.Tensor) -> torch.Tensor:
        """Return a value of each presynaptic unit so that it broadcasts to the weights, (P, 1)."""
        return values[:, None]

    @property
    def pairs(self) -> None:
        """No list of synapses."""
        return

    def synapses(self, weights: torch.Tensor, source: torch.Tensor | None) -> list[Synapses]:
        """Return weights, shape (P, N), as a simulator takes them, shape (P, C * N)."""
        if self._n_channels > 1:
            n_pre = len(weights)
            blocks = weights.new_zeros(n_pre, self._n_channels, self._n_post)
            rows = torch.arange(n_pre, device=weights.device)
            weights = blocks.index_put((rows, self.channel_of_pre), weights).flatten(1)
        return [Synapses(weights, None, self.delays[0], source)]


class SparseWiring(FixedModule):
    """Fixed edges, kept sorted by delay, presynaptic unit and what they reach.

    Attributes:
        delays: that occur, in steps, ascending.
        pre: presynaptic unit of each edge, shape (E,).
        target: what it reaches, channel * N + postsynaptic unit, shape (E,).
        delay_steps: the delays as a tensor, shape (D,).
        edge_counts: how many edges have each of them, shape (D,).
    """

    pre: torch.Tensor
    target: torch.Tensor
    delay_steps: torch.Tensor
    edge_counts: torch.Tensor
    offsets: torch.Tensor
    order: torch.Tensor | None

    def __init__(
        self,
        edges: tuple[torch.Tensor, torch.Tensor],
        *,
        n_post: int,
        n_channels: int,
        channel_of_pre: torch.Tensor,
        delay_steps: torch.Tensor,
    ) -> None:
        """Sort the edges.

        Args:
            edges: pre- and postsynaptic unit of each, shape (E,) each.
            n_post: postsynaptic units N.
            n_channels: channels C.
            channel_of_pre: of each presynaptic unit, shape (P,).
            delay_steps: one delay, or one for each edge.

        Raises:
            ValueError: see `make_edges`; or delays do not fit the edges.
        """
        super().__init__()
        n_pre, n_targets = len(channel_of_pre), n_channels * n_post
        self._n_post, self._n_targets = n_post, n_targets
        pre, post = (torch.as_tensor(one, dtype=torch.int64, device="cpu") for one in edges)
        _check_units(pre, post, n_pre=n_pre, n_post=n_post)
        target = channel_of_pre[pre] * n_post + post
        groups = _groups(delay_steps, len(pre))
        self.delays = tuple(groups)
        made = [
            make_edges(pre[group], target[group], n_pre=n_pre, n_post=n_targets)
            for group in groups.values()
        ]
        self._counts = [len(group) for group in groups.values()]
        self.register_buffer("pre", torch.cat([part.pre for part, _ in made]))
        self.register_buffer("target", torch.cat([part.post for part, _ in made]))
        self.register_buffer("delay_steps", torch.tensor(self.delays))
        self.register_buffer("edge_counts", torch.tensor(self._counts))
        offsets = torch.stack([part.offsets for part, _ in made])
        self.register_buffer("offsets", offsets, persistent=False)
        grouped = zip(groups.values(), made, strict=True)
        order = torch.cat([group[order] for group, (_, order) in grouped])
        in_order = torch.equal(order, torch.arange(len(order)))
        self.register_buffer("order", None if in_order else order, persistent=False)
        self._cached: list[Edges] = []

    def stored(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the edges, given in their order, in the order in which they are kept."""
        return values if self.order is None else values[self.order]

    def given(self, values: torch.Tensor) -> torch.Tensor:
        """Undo `stored`."""
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy(0, self.order, values)

    def of_pre(self, values: torch.Tensor) -> torch.Tensor:
        """Return a value of each presynaptic unit for each edge, shape (E,)."""
        return values[self.pre]

    @property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pre- and postsynaptic unit of each edge, as they are kept, shape (E,) each."""
        return self.pre, self.target % self._n_post

    def synapses(self, weights: torch.Tensor, source: torch.Tensor | None) -> list[Synapses]:
        """Return weights, shape (E,), as a simulator takes them: a set for each delay."""
        parts = weights.split(self._counts) if len(self._counts) > 1 else [weights]
        return [
            Synapses(part, edges, steps, source)
            for part, edges, steps in zip(parts, self._edges(), self.delays, strict=True)
        ]

    def _edges(self) -> list[Edges]:
        """Return the edges of each delay; the same objects every time, for who keeps a cache."""
        if not self._cached or self._cached[0].pre.device != self.pre.device:
            parts = zip(
                self.pre.split(self._counts),
                self.target.split(self._counts),
                self.offsets,
                strict=True,
            )
            self._cached = [Edges(*part, self._n_targets) for part in parts]
        return self._cached


def make_wiring(
    *,
    n_pre: int,
    n_post: int,
    edges: tuple[Any, Any] | None,
    n_channels: int,
    channel_of_pre: int | torch.Tensor,
    delay_steps: int | torch.Tensor,
) -> DenseWiring | SparseWiring:
    """Check how units are connected; see `Projection` for the arguments.

    Raises:
        ValueError: a size, unit, channel or delay is out of range, or shapes do not fit.
    """
    for name, value in (("n_pre", n_pre), ("n_post", n_post), ("n_channels", n_channels)):
        if value < 1:
            msg = f"{name} = {value!r} must be at least 1"
            raise ValueError(msg)
    channels = _check_channels(channel_of_pre, n_pre=n_pre, n_channels=n_channels)
    delay = torch.as_tensor(delay_steps, device="cpu")
    if delay.is_floating_point() or bool((delay < 0).any()):
        msg = f"delay_steps = {delay_steps!r} must be whole numbers of steps, at least 0"
        raise ValueError(msg)
    if edges is not None:
        return SparseWiring(
            edges, n_post=n_post, n_channels=n_channels, channel_of_pre=channels, delay_steps=delay
        )
    if delay.numel() != 1:
        msg = "delays that differ from synapse to synapse need edges: give edges=(pre, post)"
        raise ValueError(msg)
    return DenseWiring(
        n_post=n_post, n_channels=n_channels, channel_of_pre=channels, delay_steps=int(delay)
    )


def _check_channels(
    channel_of_pre: int | torch.Tensor, *, n_pre: int, n_channels: int
) -> torch.Tensor:
    """Return the channel of each presynaptic unit, int64, shape (P,)."""
    channels = torch.as_tensor(channel_of_pre, device="cpu")
    if channels.dim() and channels.shape != (n_pre,) or channels.is_floating_point():
        msg = (
            f"channel_of_pre has shape {tuple(channels.shape)} and type {channels.dtype}; give one "
            f"integer, or one for each of the {n_pre} units"
        )
        raise ValueError(msg)
    outside = channels[(channels < 0) | (channels >= n_channels)]
    if outside.numel():
        msg = f"channel_of_pre holds {outside.flatten()[0].item()!r}, outside 0 .. {n_channels - 1}"
        raise ValueError(msg)
    return channels.to(torch.int64).expand(n_pre).clone()


def _groups(delay_steps: torch.Tensor, n_edges: int) -> dict[int, torch.Tensor]:
    """Return which edges have each delay that occurs."""
    if not delay_steps.dim():
        return {int(delay_steps): torch.arange(n_edges)}
    if not n_edges:
        return {1: torch.arange(0)}
    if delay_steps.shape != (n_edges,):
        msg = f"delay_steps has shape {tuple(delay_steps.shape)}; there are {n_edges} edges"
        raise ValueError(msg)
    return {
        steps: (delay_steps == steps).nonzero()[:, 0] for steps in delay_steps.unique().tolist()
    }


def _check_units(pre: torch.Tensor, post: torch.Tensor, *, n_pre: int, n_post: int) -> None:
    if pre.shape != post.shape or pre.dim() != 1:
        msg = f"edges have shapes {tuple(pre.shape)} and {tuple(post.shape)}; both must be (E,)"
        raise ValueError(msg)
    for name, units, n_units in (("pre", pre, n_pre), ("post", post, n_post)):
        outside = units[(units < 0) | (units >= n_units)]
        if len(outside):
            msg = f"the {name} of an edge is {int(outside[0])}, outside 0 .. {n_units - 1}"
            raise ValueError(msg)
