"""Doing as a teacher does: its outputs, and the hidden units of it that are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from neuro.losses.raster import require_raster
from neuro.spiking.filters import exponential_filter
from neuro.spiking.neurons.decay import decay_per_step

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_recorded(candidates: Sequence[int], fraction: float, *, seed: int) -> torch.Tensor:
    """Choose the units that an experimenter happens to record.

    Equal arguments choose equal units anywhere, and with one seed a larger fraction holds all
    units of a smaller one.

    Args:
        candidates: units to choose from.
        fraction: share of them, 0 < fraction <= 1; at least one is chosen.
        seed: of the choice, >= 0.

    Returns:
        The units, in ascending order, shape (R,).

    Raises:
        ValueError: there is no candidate, or the fraction is out of range.
    """
    if not len(candidates) or not 0 < fraction <= 1:
        msg = (
            f"cannot choose a fraction of {fraction!r} of {len(candidates)} units; the fraction is "
            "above 0 and at most 1. Without recorded units leave the loss out"
        )
        raise ValueError(msg)
    order = np.random.default_rng(seed).permutation(np.sort(np.asarray(candidates)))
    chosen = order[: max(1, round(fraction * len(order)))]
    return torch.from_numpy(np.sort(chosen)).long()


def trace_loss(
    student: torch.Tensor, teacher: torch.Tensor, units: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean over time, trials and units of (student - teacher)^2.

    For the outputs of a readout, or for potentials of recorded units.

    Args:
        student: traces, shape (T, B, N), with their gradient.
        teacher: the same of the teacher; no gradient goes there.
        units: which of the N count, shape (R,); None takes all.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: the shapes differ or are not (T, B, N), or the student's traces carry no
            gradient while gradients are recorded, so that this loss would do nothing.
    """
    _require_pair(student, teacher)
    mine, target = _chosen(student, units), _chosen(teacher.detach(), units)
    return (mine - target.to(mine.dtype)).square().mean()


def filtered_spike_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    units: torch.Tensor | None = None,
    *,
    tau_ms: float,
    dt_ms: float,
) -> torch.Tensor:
    """Return the mean over time, trials and units of d^2, the difference of filtered spikes.

        d[t] = exp(-dt / tau) d[t-1] + student[t] - teacher[t]

    One spike of the student too many adds, over all time, 1 / (1 - exp(-2 dt / tau)) to the sum of
    the squares; one that comes a little late adds less.

    Args:
        student: spikes, shape (T, B, N), with their gradient.
        teacher: the same of the teacher, any type; no gradient goes there.
        units: which of the N count, shape (R,); None takes all.
        tau_ms: time constant of the filter, > 0.
        dt_ms: length of a step.

    Returns:
        The loss, shape ().

    Raises:
        ValueError: as `trace_loss`, or a time is not positive.
    """
    _require_pair(student, teacher)
    mine, target = _chosen(student, units), _chosen(teacher.detach(), units)
    decay = decay_per_step(dt_ms=dt_ms, tau_ms=tau_ms)
    return exponential_filter(mine - target.to(mine.dtype), decay).values.square().mean()


def _chosen(traces: torch.Tensor, units: torch.Tensor | None) -> torch.Tensor:
    return traces if units is None else traces.index_select(2, units.to(traces.device))


def _require_pair(student: torch.Tensor, teacher: torch.Tensor) -> None:
    require_raster("student", student)
    if teacher.shape != student.shape:
        msg = (
            f"teacher has shape {tuple(teacher.shape)}, student {tuple(student.shape)}; run both "
            "on the same trials, with the same units"
        )
        raise ValueError(msg)
    if torch.is_grad_enabled() and not student.requires_grad:
        msg = (
            "student requires no gradient, so this loss would train nothing; record its traces "
            "attached, give the loss no weight, or use torch.no_grad"
        )
        raise ValueError(msg)
