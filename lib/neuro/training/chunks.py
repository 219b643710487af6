"""Truncated backpropagation through time: a long sequence is learned chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from neuro.spiking.network import Network
from neuro.spiking.problem import Carry
from neuro.spiking.simulate import Simulation

# What a loss hands from chunk to chunk, such as VanRossumState; None at the start of the trials.
LossState = tuple[torch.Tensor, ...] | None
Loss = Callable[[Simulation, LossState], tuple[torch.Tensor, LossState]]


class Learned(NamedTuple):
    """What one chunk brought.

    Attributes:
        loss: of the chunk.
        grad_norm: of the update that the chunk completed, before clipping; not finite where that
            was left out; None without one.
        simulation: of the chunk.
    """

    loss: float
    grad_norm: float | None
    simulation: Simulation


class ChunkTrainer:
    """Learns from chunks in their order; the state of network and loss goes from one to the next.

    The gradient stops at the start of a chunk. Gradients of `chunks_per_update` chunks are averaged
    for one step of the optimizer, which is followed by one of the schedule; a gradient that is not
    finite, as recurrence may make it, moves nothing, and its norm says so. `state_dict` holds
    carry, state of the loss and gradients that are not used yet, but neither network, optimizer nor
    schedule: those are saved beside it.
    """

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        *,
        chunks_per_update: int,
        clip_norm: float,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> None:
        """Start at rest.

        Args:
            network: what learns.
            optimizer: of its parameters.
            chunks_per_update: >= 1.
            clip_norm: the gradient of an update is shortened to this norm where it is longer.
            schedule: of the learning rate, by updates; None keeps it.

        Raises:
            ValueError: `chunks_per_update` is below 1.
        """
        if chunks_per_update < 1:
            msg = f"chunks_per_update = {chunks_per_update!r} must be at least 1"
            raise ValueError(msg)
        self.network, self.optimizer, self.schedule = network, optimizer, schedule
        self.chunks_per_update, self.clip_norm = chunks_per_update, clip_norm
        self.carry: Carry | None = None
        self.loss_state: LossState = None
        self.pending = 0

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What the optimizer moves."""
        return [one for group in self.optimizer.param_groups for one in group["params"]]

    def start_pass(self) -> None:
        """Begin the sequence again: network at rest, loss without memory; gradients are kept."""
        self.carry = self.loss_state = None

    def learn(
        self, inputs: Mapping[str, torch.Tensor], loss: Loss, *, record_potential: bool = False
    ) -> Learned:
        """Learn from the next chunk.

        Args:
            inputs: as the network takes them, shape (T, B, P) each.
            loss: of the simulation and the state after the chunk before.
            record_potential: whether the loss needs potentials.
        """
        simulation = self.network(inputs, carry=self.carry, record_potential=record_potential)
        value, state = loss(simulation, self.loss_state)
        (value / self.chunks_per_update).backward()
        self.carry, self.loss_state = simulation.carry, state
        self.pending += 1
        grad_norm = self._update() if self.pending == self.chunks_per_update else None
        return Learned(value.item(), grad_norm, simulation)

    def _update(self) -> float:
        """Take one step of the optimizer, if the gradient is finite; return the gradient's norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()
        self.pending = 0
        return norm.item()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside network, optimizer and schedule."""
        return {
            "pending": self.pending,
            "gradients": [one.grad for one in self.parameters],
            "loss_state": None if self.loss_state is None else list(self.loss_state),
            "carry": None if self.carry is None else _as_lists(self.carry),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.pending = state_dict["pending"]
        for one, grad in zip(self.parameters, state_dict["gradients"], strict=True):
            # A copy, as gradients are added to in place.
            one.grad = None if grad is None else grad.to(one, copy=True)
        saved = state_dict["loss_state"]
        self.loss_state = None if saved is None else tuple(saved)
        saved = state_dict["carry"]
        self.carry = None if saved is None else self._carry(saved)

    def _carry(self, saved: Mapping[str, list[torch.Tensor]]) -> Carry:
        """Return a carry whose state is that of the network's model of neurons."""
        neuron, n_units = self.network.model(), self.network.n_units
        like = saved["spikes"][0]
        constants = neuron.constants(dt_ms=self.network.dt_ms, n_units=n_units, like=like)
        kind = type(neuron.rest(1, n_units, constants))
        return Carry(kind(*saved["state"]), saved["spikes"][0], tuple(saved["sources"]))


def _as_lists(carry: Carry) -> dict[str, list[torch.Tensor]]:
    """Return a carry as plain data, which checkpoints ask for."""
    return {
        "state": list(carry.state),
        "spikes": [carry.spikes],
        "sources": list(carry.sources),
    }
