"""Spiking neurons that one graded neuron inhibits by how active all of them are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from neuro.spiking.neurons import decay_per_step
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from neuro.spiking.neurons import LIF


# Trials at a time: what a step of so many works on stays in a cache of the processor.
BLOCK_TRIALS = 32


class Inhibited(NamedTuple):
    """What a population did.

    Attributes:
        counts: spikes of each unit, with their gradient, shape (B, N).
        potential: before reset, without gradient, shape (T, B, N); spikes are where it exceeds
            the threshold, 1.
    """

    counts: torch.Tensor
    potential: torch.Tensor


def run_with_feedback(
    neuron: LIF, drive: torch.Tensor, *, dt_ms: float, gain: torch.Tensor, tau_ms: float
) -> Inhibited:
    """Step a population that a graded neuron, such as APL, inhibits all over.

        x[t] = drive[t] - gain A[t-1]
        A[t] = c A[t-1] + (1 - c) mean over units of s[t]        c = exp(-dt / tau)

    Units are those of `neuro.spiking.neurons.LIF`. The graded neuron has no spikes that a simulator
    could send along synapses; hence these loops, forward and back.

    Args:
        neuron: with one synaptic time constant, threshold 1, reset to 0, gain "normalized".
        drive: input, shape (T, B, N).
        dt_ms: length of a step.
        gain: of the feedback, shape (); 0 for none.
        tau_ms: time constant of the graded neuron.

    Raises:
        ValueError: the neuron is another one.
    """
    tau_syn_ms, surrogate = neuron.tau_syn_ms, neuron.surrogate
    kind = (neuron.reset, neuron.gain, neuron.threshold, neuron.v_reset, neuron.v_rest)
    usual = kind == ("zero", "normalized", 1.0, 0.0, 0.0) and not neuron.refractory_ms
    usual = usual and neuron.detach_reset and not neuron.silence_current
    if not (usual and isinstance(tau_syn_ms, float) and isinstance(surrogate, FastSigmoid)):
        msg = (
            "the neuron must have reset = 'zero', detached, gain = 'normalized', threshold = 1, "
            "rest and reset at 0, one tau_syn_ms that spikes do not silence, a FastSigmoid and no "
            f"refractory time; it is {neuron!r}"
        )
        raise ValueError(msg)
    constants = neuron.constants(dt_ms=dt_ms, n_units=drive.shape[2], like=drive.detach())
    offset = constants.offset
    if offset is None:
        offset = torch.zeros_like(constants.membrane)
    fixed = _Fixed(
        synapse=decay_per_step(dt_ms=dt_ms, tau_ms=tau_syn_ms),
        graded=decay_per_step(dt_ms=dt_ms, tau_ms=tau_ms),
        slope=surrogate.slope,
    )
    found = _Feedback.apply(drive, constants.membrane, constants.gain, offset, gain, fixed)
    return Inhibited(*found)


class _Fixed(NamedTuple):
    """a, c, and k of the surrogate gradient."""

    synapse: float
    graded: float
    slope: float


class _Course(NamedTuple):
    """Of each step: drive or its gradient, current, potential, (T, B, N); graded (T + 1, B, 1)."""

    drive: torch.Tensor
    current: torch.Tensor
    potential: torch.Tensor
    graded: torch.Tensor

    def of(self, trials: slice) -> _Course:
        """Return the course of some trials."""
        return _Course(*(part[:, trials] for part in self))


class _Feedback(torch.autograd.Function):
    """Of drive, b, k, the offset and the feedback's gain; V[t] = b V*[t-1] + k I[t] + offset.

    Trials do not touch each other: a block of them goes through all steps before the next one.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        drive: torch.Tensor,
        b: torch.Tensor,
        k: torch.Tensor,
        offset: torch.Tensor,
        gain: torch.Tensor,
        fixed: _Fixed,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n_steps, n_trials, _ = drive.shape
        current, potential = torch.empty_like(drive), torch.empty_like(drive)
        graded = drive.new_zeros(n_steps + 1, n_trials, 1)
        counts = torch.zeros_like(drive[0])
        course = _Course(drive, current, potential, graded)
        for block in _blocks(n_trials):
            _run_block(course.of(block), counts[block], (b, k, offset, gain), fixed)
        ctx.save_for_backward(current, potential, graded, b, k, gain)
        ctx.fixed = fixed
        ctx.mark_non_differentiable(potential)
        return counts, potential

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401, D102
        current, potential, graded, b, k, gain = ctx.saved_tensors
        g_drive = torch.empty_like(potential)
        sums = [torch.zeros_like(one) for one in (b, b, b, gain)]
        course = _Course(g_drive, current, potential, graded)
        for block in _blocks(potential.shape[1]):
            found = _back_block(course.of(block), grad[0][block], (b, k, gain), ctx.fixed)
            for total, more in zip(sums, found, strict=True):
                total += more
        return g_drive, *sums, None


def _blocks(n_trials: int) -> list[slice]:
    return [slice(first, first + BLOCK_TRIALS) for first in range(0, n_trials, BLOCK_TRIALS)]


def _run_block(
    course: _Course, counts: torch.Tensor, values: tuple[torch.Tensor, ...], fixed: _Fixed
) -> None:
    """Step some trials; all of the course but the drive is written, and the counts."""
    drive, current, potential, graded = course
    b, k, offset, gain = values
    before, after_reset = torch.zeros_like(counts), torch.zeros_like(counts)
    fired = torch.empty_like(counts)
    for t, now in enumerate(drive):
        x = now - gain * graded[t]
        before = torch.lerp(x, before, fixed.synapse, out=current[t])
        v = torch.addcmul(offset, k, before, out=potential[t]).addcmul_(b, after_reset)
        counts += torch.gt(v, 1, out=fired)
        torch.addcmul(v, v, fired, value=-1, out=after_reset)
        share = fired.mean(dim=1, keepdim=True)
        torch.lerp(share, graded[t], fixed.graded, out=graded[t + 1])


def _back_block(
    course: _Course, g_counts: torch.Tensor, values: tuple[torch.Tensor, ...], fixed: _Fixed
) -> list[torch.Tensor]:
    """Walk back; the drive's gradient is written, those of b, k, offset and gain are returned."""
    g_drive, current, potential, graded = course
    b, k, gain = values
    a, c, slope = fixed
    g_v, g_current, g_graded = (torch.zeros_like(one) for one in (g_counts, g_counts, graded[0]))
    sums = [torch.zeros_like(g_v) for _ in range(3)]
    g_gain = torch.zeros_like(gain)
    fired, after_reset = torch.gt(potential[-1], 1).to(g_v.dtype), torch.empty_like(g_v)
    for t in reversed(range(len(potential))):
        # g_v holds the gradient that the next step sends to the potential after reset.
        g_v.addcmul_(g_v, fired, value=-1)
        away = (potential[t] - 1).abs_().mul_(slope).add_(1).square_()
        g_v.addcdiv_(g_counts + g_graded * ((1 - c) / g_v.shape[1]), away)
        g_current.mul_(a).addcmul_(k, g_v)
        total = torch.mul(g_current, 1 - a, out=g_drive[t]).sum(dim=1, keepdim=True)
        g_gain -= (total * graded[t]).sum()
        g_graded = c * g_graded - gain * total
        sums[1].addcmul_(g_v, current[t])
        sums[2].add_(g_v)
        if t:
            v = potential[t - 1]
            torch.gt(v, 1, out=fired)
            sums[0].addcmul_(g_v, torch.addcmul(v, v, fired, value=-1, out=after_reset))
        g_v.mul_(b)
    return [*(one.sum(dim=0) for one in sums), g_gain]
