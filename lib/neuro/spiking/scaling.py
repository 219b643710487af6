"""Positive factors that groups of synapses share, such as one for each pair of cell types."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from neuro.spiking.fixed import FixedModule


class Labels(NamedTuple):
    """Which of several named kinds each unit is.

    Attributes:
        ids: kind of each unit, integers in 0 .. len(names) - 1, shape (units,).
        names: of all kinds, also of those that no unit is.
    """

    ids: torch.Tensor
    names: tuple[str, ...]


def make_labels(labels: Labels | torch.Tensor | Any, n_units: int, name: str) -> Labels:  # noqa: ANN401
    """Check which kinds units are.

    Args:
        labels: of the units; an array of integers alone has kinds named "0", "1" and so on.
        n_units: units that must have one.
        name: of the argument, for messages.

    Raises:
        ValueError: there is not one integer for each unit, or one is out of range.
    """
    ids = torch.as_tensor(labels.ids if isinstance(labels, Labels) else labels, device="cpu")
    if ids.shape != (n_units,) or ids.is_floating_point() or ids.dtype == torch.bool:
        msg = (
            f"{name} has shape {tuple(ids.shape)} and type {ids.dtype}; give one integer for each "
            f"of the {n_units} units"
        )
        raise ValueError(msg)
    if isinstance(labels, Labels):
        names = tuple(str(one) for one in labels.names)
    else:
        names = tuple(str(one) for one in range(1 + max(ids.tolist(), default=0)))
    outside = ids[(ids < 0) | (ids >= len(names))]
    if len(outside):
        msg = f"{name} holds {int(outside[0])}, outside 0 .. {len(names) - 1}, the kinds {names!r}"
        raise ValueError(msg)
    return Labels(ids.to(torch.int64), names)


class ScalingFactors(FixedModule):
    """Factors f = exp(log_factors) > 0 of weights, one for each group of synapses.

    A synapse's group is the kind of its presynaptic unit, that of its postsynaptic one, or the pair
    of both.

    Attributes:
        log_factors: the parameter, shape [kinds of pre, kinds of post], or (kinds,) where only one
            side counts.
        names: of the kinds, for each axis of `log_factors`.
    """

    row_of_pre: torch.Tensor
    column_of_post: torch.Tensor
    group_of_edge: torch.Tensor | None

    def __init__(
        self,
        pre: Labels | None,
        post: Labels | None,
        *,
        size: tuple[int, int],
        edges: tuple[torch.Tensor, torch.Tensor] | None,
        initial: torch.Tensor,
    ) -> None:
        """Group synapses.

        Args:
            pre: kinds of presynaptic units; None where they do not count.
            post: kinds of postsynaptic units.
            size: pre- and postsynaptic units (P, N).
            edges: pre- and postsynaptic unit of each synapse, shape (E,) each; None for all pairs.
            initial: factors at first, > 0: one value, or one for each group.

        Raises:
            ValueError: `initial` has another shape, or is not positive.
        """
        super().__init__()
        self.names = tuple(one.names for one in (pre, post) if one is not None)
        shape = tuple(map(len, self.names))
        if initial.dim() and initial.shape != shape:
            msg = (
                f"factors has shape {tuple(initial.shape)}; the groups are "
                f"{' x '.join(map(repr, self.names))}, shape {shape}"
            )
            raise ValueError(msg)
        if not bool(((initial > 0) & initial.isfinite()).all()):
            msg = f"factors holds {initial.min().item()!r}; factors are positive and finite"
            raise ValueError(msg)
        self.log_factors = nn.Parameter(initial.detach().log().expand(shape).clone())
        rows = torch.zeros(size[0], dtype=torch.int64) if pre is None else pre.ids
        columns = torch.zeros(size[1], dtype=torch.int64) if post is None else post.ids
        self.register_buffer("row_of_pre", rows.clone())
        self.register_buffer("column_of_post", columns.clone())
        self._n_columns = 1 if post is None else len(post.names)
        group = None
        if edges is not None:
            group = (rows[edges[0]] * self._n_columns + columns[edges[1]]).to(torch.int32)
        self.register_buffer("group_of_edge", group, persistent=False)

    @property
    def factors(self) -> torch.Tensor:
        """The factors, differentiable, the shape of `log_factors`."""
        return self.log_factors.exp()

    def forward(self) -> torch.Tensor:
        """Return the factor of each synapse, shape (E,), or (P, N) where all pairs are synapses."""
        table = self.factors.view(-1, self._n_columns)
        if self.group_of_edge is not None:
            return _PerEdge.apply(table.flatten(), self.group_of_edge)
        return table.index_select(0, self.row_of_pre).index_select(1, self.column_of_post)


class _PerEdge(torch.autograd.Function):
    """Lay factors out along edges; sum their gradients in float64.

    A factor may be shared by millions of synapses, more than float32 adds up one by one.
    """

    @staticmethod
    def forward(ctx: Any, factors: torch.Tensor, group: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.save_for_backward(group)
        ctx.n_groups = len(factors)
        return factors.index_select(0, group)

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        (group,) = ctx.saved_tensors
        total = grad[0].new_zeros(ctx.n_groups, dtype=torch.float64)
        return total.index_add(0, group, grad[0].double()).to(grad[0].dtype), None
