"""How a teacher and a student learn: the same epochs, from another loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from teaching import batches

from engram import progress

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from engram.checkpoint import Checkpoints
    from engram.metrics import MetricsLog
    from neuro.models.wired_network import WiredNetwork


class Course(NamedTuple):
    """What a network learns from.

    Attributes:
        network: the one that learns.
        optimizer: of what it learns.
        chosen: numbers of the samples.
        loss_of: the loss of a batch, given as numbers of samples.
        look: measures by name after an epoch; those that are None are left out.
        epochs: passes over the samples.
        batch_size: samples.
        max_grad_norm: that a gradient is cut to.
    """

    network: WiredNetwork
    optimizer: torch.optim.Optimizer
    chosen: np.ndarray
    loss_of: Callable[[np.ndarray], torch.Tensor]
    look: Callable[[], dict[str, float | None]]
    epochs: int
    batch_size: int
    max_grad_norm: float


def train(
    course: Course, *, log: MetricsLog, checkpoints: Checkpoints, resume_from: Path | None
) -> list[dict[str, float]]:
    """Run the epochs that are left; each ends with a line of metrics and a checkpoint.

    Batch order and synapse noise come from PyTorch's global random stream, which every checkpoint
    holds. Returns what was logged, one entry an epoch, those before a resume included.
    """
    state: dict[str, Any] = {"network": course.network, "optimizer": course.optimizer}
    start = checkpoints.resume(resume_from, **state)
    history = list(start.extra.get("history", []))
    n_batches = -(-len(course.chosen) // course.batch_size)
    course.network.train()
    with progress.bar("train", total=(course.epochs - start.step) * n_batches) as bar:
        for epoch in range(start.step + 1, course.epochs + 1):
            losses = []
            for batch in batches(course.chosen, course.batch_size):
                losses.append(learn(course, batch))
                bar.advance()
            row = {"train/loss": sum(losses) / len(losses)} | course.look()
            history.append({name: value for name, value in row.items() if value is not None})
            log(history[-1], step=epoch)
            checkpoints.save(epoch, extra={"history": history}, **state)
    return history


def learn(course: Course, batch: np.ndarray) -> float:
    """Follow the gradient of one batch's loss; return the loss."""
    loss = course.loss_of(batch)
    course.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(
        [one for group in course.optimizer.param_groups for one in group["params"]],
        course.max_grad_norm,
    )
    course.optimizer.step()
    course.network.clip()
    return loss.item()
