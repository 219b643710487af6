"""A leaky readout of many units that spike rarely: its cost goes with their spikes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from neuro.spiking.filters import exponential_filter
from neuro.spiking.neurons import decay_per_step


class SpikeReadoutValues(NamedTuple):
    """What a readout returns.

    Attributes:
        outputs: y, shape (T, B, C).
        counts: spikes of every unit in the trial, read or not, shape (B, N).
    """

    outputs: torch.Tensor
    counts: torch.Tensor


class SpikeReadout(nn.Module):
    """C leaky integrators that never spike, each with a weight for each of K of N units.

        y[t] = kappa y[t-1] + s[t] W        kappa = exp(-dt / tau)

    It starts at zero. Forward and for W only spikes are visited. To the spikes, a gradient g of y
    goes as the same filter run from the end, of g W^T; as the filter is linear, W meets only those
    steps and outputs at which g is not zero: of a maximum over time, one a trial and output.

    Attributes:
        weight: W, shape (K, C).
        unit: positions of the units that are read, ascending, shape (K,).
        n_units: N.
    """

    unit: torch.Tensor

    def __init__(
        self, unit: torch.Tensor, *, n_units: int, n_outputs: int, dt_ms: float, tau_ms: float
    ) -> None:
        """Draw weights as torch.nn.Linear does, from PyTorch's global random stream.

        Args:
            unit: units that are read, ascending, shape (K,).
            n_units: N.
            n_outputs: C.
            dt_ms: length of a step.
            tau_ms: time constant of the integrators.

        Raises:
            ValueError: no unit is read.
        """
        super().__init__()
        if not len(unit):
            msg = "unit is empty: the readout must read at least one unit"
            raise ValueError(msg)
        self.n_units = n_units
        self.register_buffer("unit", unit.clone())
        bound = len(unit) ** -0.5
        self.weight = nn.Parameter(torch.empty(len(unit), n_outputs).uniform_(-bound, bound))
        self.kappa = decay_per_step(dt_ms=dt_ms, tau_ms=tau_ms)

    def forward(self, spikes: torch.Tensor) -> SpikeReadoutValues:
        """Read spikes, shape (T, B, N)."""
        if spikes.dim() != 3 or spikes.shape[2] != self.n_units:
            msg = f"spikes has shape {tuple(spikes.shape)}; it must be (T, B, {self.n_units})"
            raise ValueError(msg)
        table = self.weight.new_zeros(self.n_units, self.weight.shape[1])
        table = table.index_copy(0, self.unit, self.weight)
        return SpikeReadoutValues(*_Read.apply(spikes, table, self.kappa))


class _Read(torch.autograd.Function):
    """Of spikes (T, B, N) and the weights of all units (N, C), zero for those not read."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        spikes: torch.Tensor,
        table: torch.Tensor,
        kappa: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n_steps, n_trials, n_units = spikes.shape
        step, trial, unit = spikes.nonzero(as_tuple=True)
        size = spikes[step, trial, unit]
        row = step * n_trials + trial
        ctx.save_for_backward(table, row, unit, size)
        ctx.kappa, ctx.shape = kappa, spikes.shape
        read = _rows_sum(table, unit, size, row, n_steps * n_trials)
        outputs = exponential_filter(read.view(n_steps, n_trials, -1), kappa).values
        counts = spikes.new_zeros(n_trials * n_units).index_add_(0, trial * n_units + unit, size)
        return outputs, counts.view(n_trials, n_units)

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        grad_outputs: torch.Tensor,
        grad_counts: torch.Tensor,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        table, row, unit, size = ctx.saved_tensors
        grad_spikes = grad_table = None
        if ctx.needs_input_grad[1]:
            filtered = exponential_filter(grad_outputs.flip(0), ctx.kappa).values.flip(0)
            part = filtered.flatten(0, 1)[row] * size[:, None]
            grad_table = torch.zeros_like(table).index_add_(0, unit, part)
        if ctx.needs_input_grad[0]:
            grad_spikes = _spikes_grad(grad_outputs, grad_counts, table, ctx.kappa)
        return grad_spikes, grad_table, None


def _spikes_grad(
    grad_outputs: torch.Tensor, grad_counts: torch.Tensor, table: torch.Tensor, kappa: float
) -> torch.Tensor:
    """Return the gradient of the spikes, shape (T, B, N)."""
    n_steps, n_trials, n_outputs = grad_outputs.shape
    step, trial, output = grad_outputs.nonzero(as_tuple=True)
    few = 4 * len(step) < n_steps * n_trials * n_outputs
    weight = table.T.contiguous()
    value = grad_outputs[step, trial, output]
    first = torch.searchsorted(step, torch.arange(n_steps + 1, device=step.device)).tolist()
    grad = table.new_empty(n_steps, n_trials, len(table))
    carried = torch.zeros_like(grad[0])
    for t in reversed(range(n_steps)):
        span = slice(first[t], first[t + 1])
        if few:
            sums = _rows_sum(weight, output[span], value[span], trial[span], n_trials)
        else:
            sums = grad_outputs[t] @ weight
        carried.mul_(kappa).add_(sums)
        torch.add(carried, grad_counts, out=grad[t])
    return grad


def _rows_sum(
    table: torch.Tensor, which: torch.Tensor, size: torch.Tensor, row: torch.Tensor, n_rows: int
) -> torch.Tensor:
    """Return for each row the sum of its entries of a table, each times a size; rows ascend."""
    first = torch.searchsorted(row, torch.arange(n_rows, device=row.device))
    return functional.embedding_bag(which, table, first, mode="sum", per_sample_weights=size)
