"""The leaky readout: a membrane that never spikes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from neuro.spiking.filters import exponential_filter


class Readout(NamedTuple):
    """What a readout returns.

    Attributes:
        values: y, shape (T, B, K).
        carry: y of the last step, detached, shape (B, K); what the next chunk starts from.
    """

    values: torch.Tensor
    carry: torch.Tensor


class LeakyReadout(nn.Module):
    """K leaky integrators without threshold, on top of any product of spikes and weights.

        y[t] = kappa y[t-1] + x[t] + bias        kappa = exp(-dt / tau)

    Readout of Bellec et al. 2020, doi:10.1038/s41467-020-17236-y. The bias is a constant input;
    alone it settles at bias / (1 - kappa).

    Attributes:
        log_tau: logarithm of tau in ms, shape (K,); a parameter where it is trained.
        bias: shape (K,); None without.
    """

    log_tau: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        *,
        n_outputs: int,
        dt_ms: float,
        tau_ms: float | torch.Tensor,
        train_tau: bool = False,
        bias: bool = True,
    ) -> None:
        """Start with a bias of zero.

        Args:
            n_outputs: K.
            dt_ms: length of a step in ms, > 0.
            tau_ms: time constant in ms, > 0; one, or one for each output, (K,).
            train_tau: whether time constants are parameters.
            bias: whether there is a bias, which is a parameter.

        Raises:
            ValueError: a time is not positive, or there is not one for each output.
        """
        super().__init__()
        if not dt_ms > 0:
            msg = f"dt_ms = {dt_ms!r} is not a positive number of milliseconds"
            raise ValueError(msg)
        tau = torch.as_tensor(tau_ms).to(torch.get_default_dtype())
        if not bool(((tau > 0) & tau.isfinite()).all()) or tau.shape not in ((), (n_outputs,)):
            msg = (
                f"tau_ms = {tau_ms!r} must hold one positive number of ms, or one for each of the "
                f"{n_outputs} outputs"
            )
            raise ValueError(msg)
        self._dt_ms = dt_ms
        log_tau = tau.detach().log().expand(n_outputs).clone()
        if train_tau:
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau)
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None

    @property
    def decay(self) -> torch.Tensor:
        """Kappa, what is left after a step, shape (K,)."""
        return torch.exp(-self._dt_ms * torch.exp(-self.log_tau))

    def forward(self, x: torch.Tensor, carry: torch.Tensor | None = None) -> Readout:
        """Integrate a sequence, or the next chunk of one.

        Args:
            x: input, shape (T, B, K).
            carry: of the chunk before; None starts at zero.

        Raises:
            ValueError: the last axis is not K, or `carry` does not fit a step.
        """
        if x.dim() != 3 or x.shape[2] != len(self.log_tau):
            msg = f"x has shape {tuple(x.shape)}; it must be (T, B, {len(self.log_tau)})"
            raise ValueError(msg)
        total = x if self.bias is None else x + self.bias
        filtered = exponential_filter(total, self.decay, carry)
        return Readout(filtered.values, filtered.last.detach())
