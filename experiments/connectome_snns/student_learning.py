"""How students learn, in both stages that have them: loss, optimizer, and one chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from neuro.losses.van_rossum import VanRossumState, van_rossum_loss
from neuro.models.student import log_factors
from neuro.training.chunks import ChunkTrainer, Learned
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from students import Task, Trials

    from neuro.spiking.network import Network
    from neuro.spiking.simulate import Simulation
    from neuro.training.chunks import Loss, LossState

# Of Adam, as PyTorch has it.
BETA2 = 0.999


@dataclass(frozen=True)
class VanRossum:
    """The loss, a van Rossum distance; the keys of a [loss] table.

    Attributes:
        tau_rise_ms, tau_decay_ms: time constants of its two filters.
    """

    tau_rise_ms: float
    tau_decay_ms: float

    def towards(self, target: torch.Tensor, cells: torch.Tensor, *, dt_ms: float) -> Loss:
        """Return the loss of a chunk.

        Args:
            target: spikes of all cells, shape (T, B, N).
            cells: that count.
            dt_ms: length of a step.
        """

        def loss(simulation: Simulation, state: LossState) -> tuple[torch.Tensor, LossState]:
            return self(simulation.spikes[..., cells], target[..., cells], state, dt_ms=dt_ms)

        return loss

    def __call__(
        self, output: torch.Tensor, target: torch.Tensor, state: LossState, *, dt_ms: float
    ) -> tuple[torch.Tensor, LossState]:
        """Return the loss between spikes, shape (T, B, N), and what the next chunk needs."""
        return van_rossum_loss(
            output,
            target,
            tau_rise_ms=self.tau_rise_ms,
            tau_decay_ms=self.tau_decay_ms,
            dt_ms=dt_ms,
            state=None if state is None else VanRossumState(*state),
        )


@dataclass(frozen=True)
class Schedule:
    """How a student learns; the keys of a table of the parameter file.

    Attributes:
        passes: over the training trials.
        chunk_ms: where gradients end; state goes on.
        chunks_per_update: chunks whose gradient is averaged.
        learning_rate: step size of Adam, of the factors' logarithms, at first.
        final_learning_rate: at the end, by a cosine.
        beta1: of Adam, how much of the mean gradient is kept from update to update.
        max_grad_norm: longer gradients are shortened to it.
        surrogate_slope: of the fast-sigmoid surrogate gradient, per mV.
    """

    passes: int
    chunk_ms: float
    chunks_per_update: int
    learning_rate: float
    final_learning_rate: float
    beta1: float
    max_grad_norm: float
    surrogate_slope: float


def make_trainer(network: Network, schedule: Schedule, *, n_chunks: int) -> ChunkTrainer:
    """Return Adam on the factors' logarithms, for so many chunks in all."""
    optimizer = torch.optim.Adam(
        list(log_factors(network)), lr=schedule.learning_rate, betas=(schedule.beta1, BETA2)
    )
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer,
        max(1, n_chunks // schedule.chunks_per_update),
        eta_min=schedule.final_learning_rate,
    )
    return ChunkTrainer(
        network,
        optimizer,
        chunks_per_update=schedule.chunks_per_update,
        clip_norm=schedule.max_grad_norm,
        schedule=falling,
    )


def learn_chunk(
    trainer: ChunkTrainer,
    task: Task,
    loss: VanRossum,
    *,
    recorded: Trials,
    given: Trials,
    number: int,
) -> Learned:
    """Learn from a chunk.

    Args:
        trainer: of the student.
        task: says which cells are seen.
        loss: between these and the recording.
        recorded: inputs, and what cells should do.
        given: what cells that are not free act by.
        number: of the chunk, counted from 0 through all passes.
    """
    chunk = number % recorded.n_chunks
    if chunk == 0:
        trainer.start_pass()
    inputs = read_by(trainer.network, recorded.inputs(chunk), given.outputs(chunk))
    target = loss.towards(recorded.outputs(chunk), task.visible, dt_ms=recorded.data.dt_ms)
    return trainer.learn(inputs, target)


@torch.no_grad()
def validate(network: Network, task: Task, trials: Trials, loss: VanRossum) -> dict[str, float]:
    """Run a student through whole trials from rest; return mean loss and rate of what is seen."""
    carry = state = None
    total = count = 0.0
    dt_ms = trials.data.dt_ms
    for chunk in range(trials.n_chunks):
        target = trials.outputs(chunk)
        simulation = network(read_by(network, trials.inputs(chunk), target), carry=carry)
        carry = simulation.carry
        value, state = loss.towards(target, task.visible, dt_ms=dt_ms)(simulation, state)
        total += value.item() * len(target)
        count += simulation.spikes[..., task.visible].sum(dtype=torch.float64).item()
    n_steps, n_trains = trials.data.input.n_steps, len(trials.chosen) * len(task.visible)
    return {"loss": total / n_steps, "rate_hz": count / (n_trains * n_steps * dt_ms) * MS_PER_S}


def read_by(network: Network, inputs: torch.Tensor, given: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what a student reads; spikes of free cells in `given` reach nobody."""
    both = {"feedforward": inputs, "given": given}
    return {name: both[name] for name in network.input_names}
