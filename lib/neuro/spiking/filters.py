"""The causal exponential filter, forward and backward in one pass over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Filtered(NamedTuple):
    """What a filter returns.

    Attributes:
        values: filtered signal y, the shape of the input.
        last: y of the last step, the shape of one step; given as `initial` with what follows, it
            makes a sequence in chunks equal to the whole.
    """

    values: torch.Tensor
    last: torch.Tensor


def exponential_filter(
    x: torch.Tensor, decay: float | torch.Tensor, initial: torch.Tensor | None = None
) -> Filtered:
    """Filter along time by y[t] = decay y[t-1] + x[t].

    An impulse of 1 becomes 1, decay, decay^2 and so on: the filter is not normalized. Time and
    memory are O(T); the backward pass is the same filter run from the end. One operation is
    dispatched a step: measured against products with triangular matrices of 16 to 64 steps, that is
    1.5 to 9 times faster from 40,000 values a step on and 2 to 4 times slower at 400, where it
    costs 2.5 microseconds a step. Differentiable once.

    Args:
        x: signal, floating point, time first, such as (T, B, N); T >= 1.
        decay: what is left after one step, exp(-dt / tau); a number, or a tensor that broadcasts to
            one step, such as (N,).
        initial: y of the step before the first, the shape of one step; None means zero.

    Returns:
        The filtered signal and its last value, with gradients to x, initial and, where it is a
        tensor, decay.

    Raises:
        ValueError: x has no step or no floating point type, or decay or initial does not fit it.
    """
    if not x.ndim or not len(x) or not x.is_floating_point():
        msg = (
            f"x has shape {tuple(x.shape)} and type {x.dtype}; give floating point values with "
            "at least one step along the first axis"
        )
        raise ValueError(msg)
    if initial is not None and initial.shape != x.shape[1:]:
        msg = (
            f"initial has shape {tuple(initial.shape)}; it must be that of one step, "
            f"{tuple(x.shape[1:])}"
        )
        raise ValueError(msg)
    if isinstance(decay, torch.Tensor):
        decay = _fitted(decay, x)
    values = _ExponentialFilter.apply(x, decay, initial)
    return Filtered(values, values[-1])


def _fitted(decay: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the decay in the type of the signal, or refuse it where it would enlarge a step."""
    step, shape = x.shape[1:], decay.shape
    paired = zip(reversed(shape), reversed(step), strict=False)
    if len(shape) > len(step) or any(own not in (1, size) for own, size in paired):
        msg = f"decay has shape {tuple(shape)}, which does not broadcast to a step {tuple(step)}"
        raise ValueError(msg)
    return decay.to(x)


class _ExponentialFilter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: torch.Tensor,
        decay: float | torch.Tensor,
        initial: torch.Tensor | None,
    ) -> torch.Tensor:
        values = torch.empty_like(x)
        _accumulate(x.unbind(0), decay, initial, out=values.unbind(0))
        ctx.decay = decay
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(values, initial)
        return values

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        steps = grad[0].unbind(0)[::-1]
        grad_x = torch.empty_like(grad[0])
        _accumulate(steps, ctx.decay, None, out=grad_x.unbind(0)[::-1])
        grad_decay = grad_initial = None
        if ctx.needs_input_grad[1]:
            values, initial = ctx.saved_tensors
            grad_decay = (grad_x[1:] * values[:-1]).sum(0)
            if initial is not None:
                grad_decay += grad_x[0] * initial
            grad_decay = grad_decay.sum_to_size(ctx.decay.shape)
        if ctx.needs_input_grad[2]:
            grad_initial = grad_x[0] * ctx.decay
        return grad_x, grad_decay, grad_initial


def _accumulate(
    steps: tuple[torch.Tensor, ...],
    decay: float | torch.Tensor,
    initial: torch.Tensor | None,
    *,
    out: tuple[torch.Tensor, ...],
) -> None:
    """Write step + decay * what was written before into each of `out`."""
    before = initial
    for step, written in zip(steps, out, strict=True):
        if before is None:
            written.copy_(step)
        elif isinstance(decay, torch.Tensor):
            torch.addcmul(step, before, decay, out=written)
        else:
            torch.add(step, before, alpha=decay, out=written)
        before = written
