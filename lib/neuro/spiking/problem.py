"""A population, its synapses and its inputs, checked and brought into one form for all backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from neuro.spiking.neurons.neuron import Neuron, Values
from neuro.spiking.synapses import Synapses


class Carry(NamedTuple):
    """What one chunk hands to the next, all detached.

    Attributes:
        state: of the neurons after the last step; a NamedTuple of its model.
        spikes: of the last D steps, shape (D, B, N), D the longest delay within the population.
        sources: of each set of synapses from outside, its last `delay` steps, (delay, B, P).
    """

    state: Values
    spikes: torch.Tensor
    sources: tuple[torch.Tensor, ...]


class Run(NamedTuple):
    """What a backend returns: spikes and potentials, shape (T, B, N), and the last state."""

    spikes: torch.Tensor
    potential: torch.Tensor | None
    state: Values


class Problem(NamedTuple):
    """What a backend is given.

    Attributes:
        neuron: the model.
        constants: from `neuron.constants`, with gradients where its values have some.
        recurrent: synapses within the population, delay >= 1.
        inputs: synapses from outside, sources shifted by their delay, shape (T, B, P).
        drive: further input, shape (T, B, C * N), or None.
        start: state before the first step.
        history: spikes of the D steps before, shape (D, B, N), D >= 1.
        tails: of each input, what the next chunk needs of its source.
        n_steps: T.
        segment_steps: steps whose states are kept at once.
        record_potential: whether potentials are returned.
        smooth: whether spikes are the surrogate's primitive.
        wanted: of each of `tensors`, whether a gradient is wanted; filled by `detached`.
    """

    neuron: Neuron
    constants: Values
    recurrent: tuple[Synapses, ...]
    inputs: tuple[Synapses, ...]
    drive: torch.Tensor | None
    start: Values
    history: torch.Tensor
    tails: tuple[torch.Tensor, ...]
    n_steps: int
    segment_steps: int
    record_potential: bool
    smooth: bool
    wanted: tuple[bool, ...] = ()

    @classmethod
    def make(
        cls,
        neuron: Neuron,
        synapses: Sequence[Synapses],
        *,
        n_units: int,
        dt_ms: float,
        drive: torch.Tensor | None,
        carry: Carry | None,
        size: tuple[int, int] | None,
        segment_steps: int | None,
        record_potential: bool,
        smooth: bool,
    ) -> Problem:
        """Check what `simulate` was given.

        Raises:
            ValueError: see `simulate`.
        """
        _check_times(dt_ms, segment_steps)
        recurrent = tuple(one for one in synapses if one.source is None)
        outside = tuple(one for one in synapses if one.source is not None)
        n_steps, n_trials = _size(outside, drive, size)
        for one in synapses:
            _check_synapses(one, n_units, neuron.n_channels)
        _check_drive(drive, n_units, neuron.n_channels)
        like = _like(synapses, drive)
        constants = neuron.constants(dt_ms=dt_ms, n_units=n_units, like=like)
        depth = max([1, *(one.delay for one in recurrent)])
        fresh = Carry(
            neuron.rest(n_trials, n_units, constants),
            like.new_zeros(depth, n_trials, n_units),
            tuple(one.outside.new_zeros(one.delay, *one.outside.shape[1:]) for one in outside),
        )
        if carry is None:
            carry = fresh
        else:
            _check_carry(carry, fresh)
        whole = [
            torch.cat([before, one.outside]) if one.delay else one.outside
            for before, one in zip(carry.sources, outside, strict=True)
        ]
        return cls(
            neuron=neuron,
            constants=constants,
            recurrent=recurrent,
            inputs=tuple(
                one._replace(source=source[:n_steps], delay=0)
                for one, source in zip(outside, whole, strict=True)
            ),
            drive=drive,
            start=detached(carry.state),
            history=carry.spikes.detach(),
            # Copied, so that a carry does not keep all that was before it.
            tails=tuple(source[n_steps:].detach().clone() for source in whole),
            n_steps=n_steps,
            segment_steps=n_steps if segment_steps is None else min(segment_steps, n_steps),
            record_potential=record_potential,
            smooth=smooth,
        )

    @property
    def n_trials(self) -> int:
        """B."""
        return self.history.shape[1]

    @property
    def n_units(self) -> int:
        """N."""
        return self.history.shape[2]

    @property
    def trained_constants(self) -> bool:
        """Whether a gradient with respect to the neuron's own values is wanted."""
        return any(self.wanted[-len(self.constants) :])

    def outside(self, first: int, last: int, *, differentiable: bool) -> torch.Tensor | None:
        """Return what arrives from outside in steps first .. last - 1, (steps, B, C * N)."""
        total = None if self.drive is None else self.drive[first:last]
        for one in self.inputs:
            spikes = one.outside[first:last]
            if differentiable:
                part = one.propagate(spikes)
            else:
                part = one.propagate_active(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
            total = part if total is None else total + part
        return total

    def segments(self) -> list[tuple[int, int]]:
        """Return the first step of each segment, and the one after its last."""
        length = max(self.segment_steps, 1)
        firsts = range(0, self.n_steps, length)
        return [(first, min(first + length, self.n_steps)) for first in firsts]

    def tensors(self) -> list[torch.Tensor | None]:
        """Return what gradients are for: drive, weights, sources, constants; see `Gradients`."""
        synapses = (*self.recurrent, *self.inputs)
        weights = [one.weights for one in synapses]
        sources = [one.outside for one in self.inputs]
        return [self.drive, *weights, *sources, *self.constants]

    def detached(self) -> Problem:
        """Return the same problem outside of any graph, which remembers who wants gradients."""

        def cut(one: Synapses) -> Synapses:
            source = None if one.source is None else one.source.detach()
            return one._replace(weights=one.weights.detach(), source=source)

        wanted = tuple(one is not None and one.requires_grad for one in self.tensors())
        return self._replace(
            constants=detached(self.constants),
            recurrent=tuple(cut(one) for one in self.recurrent),
            inputs=tuple(cut(one) for one in self.inputs),
            drive=None if self.drive is None else self.drive.detach(),
            wanted=wanted,
        )

    def next_carry(self, run: Run) -> Carry:
        """Return what the next chunk starts from."""
        depth = self.history.shape[0]
        spikes = torch.cat([self.history, run.spikes.detach()[-depth:]])[-depth:]
        return Carry(detached(run.state), spikes.clone(), self.tails)


def detached(values: Values) -> Values:
    """Return a state without its gradients."""
    return rebuilt(values, [None if one is None else one.detach() for one in values])


def rebuilt(values: Values, parts: Sequence[torch.Tensor | None]) -> Values:
    """Return a NamedTuple like `values` with other parts."""
    return type(values)(*parts)  # type: ignore[arg-type]


def _like(synapses: Sequence[Synapses], drive: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor of the type and device that all agree on."""
    floats = [one.weights for one in synapses] + ([] if drive is None else [drive])
    floats += [one.outside for one in synapses if one.source is not None]
    if not floats:
        msg = "there is neither a synapse nor a drive: nothing would ever happen"
        raise ValueError(msg)
    kinds = {(one.dtype, one.device) for one in floats}
    if len(kinds) > 1 or not floats[0].is_floating_point():
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        msg = f"weights, sources and drive must have one floating type and device; found {found}"
        raise ValueError(msg)
    return floats[0].detach()


def _size(
    outside: Sequence[Synapses], drive: torch.Tensor | None, size: tuple[int, int] | None
) -> tuple[int, int]:
    """Return T and B, which all inputs must share."""
    inputs = [one.outside for one in outside]
    inputs += [] if drive is None else [drive]
    if not inputs and size is None:
        msg = "there is neither a source nor a drive that says how long this is; give size = (T, B)"
        raise ValueError(msg)
    sizes = {tuple(one.shape[:2]) for one in inputs} | ({size} if size is not None else set())
    if len(sizes) != 1 or any(one.dim() != 3 for one in inputs):
        shapes = [tuple(one.shape) for one in inputs]
        msg = (
            f"sources and drive have shapes {shapes!r}, size = {size!r}; all must be (T, B, units) "
            "with the same T and B"
        )
        raise ValueError(msg)
    n_steps, n_trials = sizes.pop()
    if n_steps < 1:
        msg = f"there are {n_steps} steps; a sequence has at least one"
        raise ValueError(msg)
    return n_steps, n_trials


def _check_synapses(one: Synapses, n_units: int, n_channels: int) -> None:
    n_pre = n_units if one.source is None else one.source.shape[2]
    if (one.n_pre, one.n_post) != (n_pre, n_channels * n_units):
        msg = (
            f"synapses lead from {one.n_pre} units to {one.n_post}; needed are {n_pre} to "
            f"{n_channels} x {n_units} (channels x units)"
        )
        raise ValueError(msg)
    if one.edges is not None and one.weights.shape != one.edges.pre.shape:
        msg = f"there are {len(one.edges.pre)} edges, but {tuple(one.weights.shape)} values"
        raise ValueError(msg)
    least = 1 if one.source is None else 0
    if one.delay < least:
        where = "within a population" if least else "from outside"
        msg = f"delay = {one.delay!r} steps is below {least}, the least {where}"
        raise ValueError(msg)


def _check_times(dt_ms: float, segment_steps: int | None) -> None:
    if not dt_ms > 0:
        msg = f"dt_ms = {dt_ms!r} is not a positive number of milliseconds"
        raise ValueError(msg)
    if segment_steps is not None and segment_steps < 1:
        msg = f"segment_steps = {segment_steps!r} must be at least 1"
        raise ValueError(msg)


def _check_drive(drive: torch.Tensor | None, n_units: int, n_channels: int) -> None:
    if drive is not None and drive.shape[2] != n_channels * n_units:
        msg = (
            f"drive has shape {tuple(drive.shape)}; its last axis must hold {n_channels} x "
            f"{n_units} values, one for each channel and unit"
        )
        raise ValueError(msg)


def _check_carry(carry: Carry, fresh: Carry) -> None:
    """Refuse what another network left: compiled code would read it as something else."""
    if type(carry.state) is not type(fresh.state) or len(carry.sources) != len(fresh.sources):
        msg = (
            f"carry holds a {type(carry.state).__name__} and {len(carry.sources)} sources; this "
            f"network needs a {type(fresh.state).__name__} and {len(fresh.sources)}"
        )
        raise ValueError(msg)
    names = [*(f"state[{index}]" for index in range(len(fresh.state))), "spikes"]
    names += [f"sources[{index}]" for index in range(len(fresh.sources))]
    found = [*carry.state, carry.spikes, *carry.sources]
    needed = [*fresh.state, fresh.spikes, *fresh.sources]
    for name, one, other in zip(names, found, needed, strict=True):
        if _kind(one) != _kind(other):
            msg = (
                f"carry holds {name} of {_kind(one)}; this network, with these trials, needs "
                f"{_kind(other)}"
            )
            raise ValueError(msg)


def _kind(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "nothing"
    return f"shape {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}"
