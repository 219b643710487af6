"""What units are by themselves: a bias and a membrane time constant, of each or of its group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from neuro.spiking.fixed import FixedModule


class IntrinsicValues(NamedTuple):
    """Of each unit, differentiable, shape (N,)."""

    bias: torch.Tensor
    tau_mem_ms: torch.Tensor


class Intrinsic(FixedModule):
    """Biases and membrane time constants of G groups of units.

    Attributes:
        bias: shape (G,).
        log_tau_mem: logarithms of the time constants in ms, shape (G,).
        group: of each unit, shape (N,).
    """

    group: torch.Tensor

    def __init__(self, group: torch.Tensor) -> None:
        """Start with no bias and 20 ms.

        Args:
            group: of each unit, 0 .. G - 1, shape (N,); every unit its own for one value a unit.
        """
        super().__init__()
        self.register_buffer("group", group.to(torch.int64))
        n_groups = int(group.max()) + 1
        self.bias = nn.Parameter(torch.zeros(n_groups))
        self.log_tau_mem = nn.Parameter(torch.full((n_groups,), 20.0).log())

    @property
    def tau_mem_ms(self) -> torch.Tensor:
        """Of each group, shape (G,)."""
        return self.log_tau_mem.exp()

    @torch.no_grad()
    def draw(
        self,
        bias: tuple[float, float],
        tau_mem_ms: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        """Spread values evenly over two ranges, in random order."""
        n_groups = len(self.bias)
        for parameter, span in ((self.bias, bias), (self.log_tau_mem, tau_mem_ms)):
            order = torch.randperm(n_groups, generator=generator)
            parameter.copy_(torch.linspace(*span, n_groups)[order])
        self.log_tau_mem.log_()

    @torch.no_grad()
    def clip(self, bias: tuple[float, float], tau_mem_ms: tuple[float, float]) -> None:
        """Put values that left two ranges back to their ends."""
        self.bias.clamp_(*bias)
        shortest, longest = torch.tensor(tau_mem_ms).log().tolist()
        self.log_tau_mem.clamp_(shortest, longest)

    def forward(self) -> IntrinsicValues:
        """Return the values of each unit."""
        return IntrinsicValues(self.bias[self.group], self.tau_mem_ms[self.group])
