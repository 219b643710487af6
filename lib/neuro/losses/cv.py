"""Irregularity of single neurons: the coefficient of variation of their intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from neuro.losses.raster import require_raster

# Three spikes bound two intervals, the fewest that can differ.
_LEAST_INTERVALS = 2
# A regular train has variance zero, where the root's slope is infinite; moves a CV of 1 by 5e-5.
_VARIANCE_FLOOR = 1e-4


class IntervalMoments(NamedTuple):
    """Sums over the intervals between consecutive spikes, each of shape (B, N).

    Attributes:
        number: how many intervals.
        first: sum of their lengths, in steps.
        second: sum of their squares, in steps^2.
    """

    number: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


def interval_moments(spikes: torch.Tensor) -> IntervalMoments:
    """Sum the intervals between consecutive spikes and their squares, differentiably.

    Raising s from 0 to 1 in step t does not move a spike, it adds one: with the last spike before t
    at p and the next after it at n, an interval n - p falls into t - p and n - t. The sum over
    pairs of steps

        M_m = sum_{i<j} (j - i)^m s_i s_j prod_{i<k<j} (1 - s_k)

    is the sum of the intervals' m-th powers for spikes of 0 and 1, and linear in each s_t; so its
    derivative is the exact change by adding, or where there is one removing, the spike of step t:

        dM_m / ds_t = (t - p)^m + (n - t)^m - (n - p)^m

    and without p or n the one interval that would be new. It is defined at every step, spike or
    not, which surrogate gradients ask for. Forward and backward are O(T).

    Args:
        spikes: 0 or 1, shape (T, B, N).

    Returns:
        The sums, with gradients to the spikes.
    """
    return IntervalMoments(*_Moments.apply(spikes))


def cv_loss(
    spikes: torch.Tensor, *, target: float = 1.0, across_trials: bool = True
) -> torch.Tensor:
    """Return the mean of (CV - target)^2 over neurons with at least two intervals.

    CV = standard deviation / mean of a neuron's intervals; 0 is a clock, 1 a Poisson process. The
    gradient is the one of `interval_moments`: what adding or removing a spike would change.
    Neurons with fewer spikes have no CV and get no gradient; making them fire is the business of
    the firing-rate and silent-neuron losses.

    Args:
        spikes: 0 or 1, shape (T, B, N).
        target: aim, >= 0.
        across_trials: whether the trials are laid end to end, so that intervals may span two of
            them. Otherwise only intervals within trials count; long ones are then missed, and the
            CV is too small where a trial is not many intervals long.

    Returns:
        The loss, shape (); zero, with a gradient of zero, when no neuron has a CV.

    Raises:
        ValueError: the spikes have not the axes (T, B, N).
    """
    require_raster("spikes", spikes)
    if across_trials:
        spikes = spikes.transpose(0, 1).reshape(-1, 1, spikes.shape[2])
    number, first, second = (moment.sum(dim=0) for moment in interval_moments(spikes))
    enough = number >= _LEAST_INTERVALS
    number, first, second = number[enough], first[enough], second[enough]
    variance = number * second / first.square() - 1
    error = (variance + _VARIANCE_FLOOR).sqrt() - target
    return error.square().sum() / enough.sum().clamp_min(1)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ANN401
        keep = (spikes == 0).to(spikes.dtype)
        ctx.save_for_backward(keep)
        age = _steps_since_spike(keep, reverse=False)
        closed = age.clamp_min_(0).mul_(1 - keep)
        return (closed > 0).sum(dim=0).to(spikes.dtype), closed.sum(dim=0), closed.square().sum(0)

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        (keep,) = ctx.saved_tensors
        before = _steps_since_spike(keep, reverse=False).clamp_min_(0)
        after = _steps_since_spike(keep, reverse=True).clamp_min_(0)
        number, first, second = grad
        product, total = before * after, before.add_(after)
        # Zero where no spike is before or none after: the total is then the interval that is new.
        new = (total * second).add_(first).mul_(total).masked_fill_(product > 0, 0)
        # A spike adds one interval wherever there is another; a^2 + b^2 - (a + b)^2 = -2 a b.
        return product.mul_(-2 * second).add_(new).add_((total > 0) * number)


def _steps_since_spike(keep: torch.Tensor, *, reverse: bool) -> torch.Tensor:
    """Return how long ago the last spike before each step was; negative where there was none.

    Args:
        keep: 1 where there is no spike, 0 where there is, shape (T, B, N).
        reverse: count the steps to the next spike after each instead.
    """
    order = slice(None, None, -1 if reverse else 1)
    age = torch.empty_like(keep)
    ages, keeps = age.unbind(0)[order], keep.unbind(0)[order]
    # Cannot reach zero within the sequence.
    ages[0].fill_(-2 * len(keep))
    one = torch.ones_like(ages[0])
    for step in range(len(ages) - 1):
        torch.addcmul(one, keeps[step], ages[step], out=ages[step + 1])
    return age
