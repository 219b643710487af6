"""Train the fly's olfactory pathway to name odors.

Real wiring (FlyWire v783) and real receptor responses (DoOR), in one of two networks: a compact
one, feed-forward, and the full one, recurrent. What is learned are values by cell type, factors on
weights, and a linear readout of Kenyon cells. Reads the tables that `engram fetch fly_olfaction`
builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from classification import Build, build, find_inhibition, find_tables
from handed_on import save_network
from parameters import Parameters, read_parameters
from recording import Presented, draw_figures, save_responses, summarize
from torch.nn import functional
from trials import Trials, make_trials

from engram import metrics, progress
from engram.checkpoint import Checkpoints
from neuro.metrics.ideal_observer import ideal_observer_accuracy
from neuro.models.fly_pathway import FlyPathway
from neuro.training.memory import keep_freed_memory

if TYPE_CHECKING:
    from pathlib import Path


class Learned(NamedTuple):
    """What a batch taught: cross-entropy, and the price of too few or too many spikes."""

    loss: float
    spike_loss: float


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str]:
    """Train, then report on the validation trials with the weights of the last epoch."""
    parameters = read_parameters(params_file)
    torch.set_num_threads(parameters.threads)
    torch.use_deterministic_algorithms(True)
    # All memory is written before it is read; filling it first would take a fifth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(parameters.seed)
    keep_freed_memory()
    built = build(
        parameters,
        find_tables(input_dir),
        inhibition_file=find_inhibition(input_dir),
        calibrated=True,
    )
    compact = parameters.model == "compact"
    training, validation = (
        make_trials(built, ids, parameters.dt_ms, keep=compact)
        for ids in (built.train, built.validation)
    )
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        history = train(
            built,
            (training, validation),
            parameters,
            log=log,
            checkpoints=Checkpoints(output_dir, keep_last=2),
            resume_from=resume_from,
        )
    presented = present(built, validation, parameters.batch_size)
    ceiling = ideal_observer_accuracy(built.samples, built.validation)
    save_responses(output_dir / "responses.npz", built, presented, parameters)
    save_network(output_dir, params_file, parameters, built)
    draw_figures(output_dir, built, presented, history, ceiling=ceiling)
    return (
        summarize(built, presented)
        | {"ideal_observer_accuracy": ceiling}
        | describe(built, parameters)
    )


def describe(built: Build, parameters: Parameters) -> dict[str, float | int | str]:
    """Return what was trained on what, for the summary."""
    found = {
        "model": parameters.model,
        "dt_ms": parameters.dt_ms,
        "backend": built.network.backend,
        "classes": len(built.odors.names),
        "training_trials": len(built.train),
        "validation_trials": len(built.validation),
        "trained_values": sum(one.numel() for one in built.network.parameters()),
    }
    if built.activity is not None:
        found |= {f"calibrated_{name}": one for name, one in built.activity._asdict().items()}
        found |= {f"gain {name}": one for name, one in sorted(built.gains.items())}
    return found


def train(
    built: Build,
    trials: tuple[Trials, Trials],
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> list[dict[str, float]]:
    """Run the epochs that are left; each ends with a line of metrics and a checkpoint.

    The batch order comes from PyTorch's global random stream, which every checkpoint holds.
    Returns what was logged, one entry an epoch, those before a resume included.
    """
    training, validation = trials
    optimizer = make_optimizer(built, parameters)
    state: dict[str, Any] = {"network": built.network, "optimizer": optimizer}
    start = checkpoints.resume(resume_from, **state)
    history = list(start.extra.get("history", []))
    n_batches = -(-len(training.ids) // parameters.batch_size)
    with progress.bar("train", total=(parameters.epochs - start.step) * n_batches) as bar:
        for epoch in range(start.step + 1, parameters.epochs + 1):
            learned = []
            for batch in torch.randperm(len(training.ids)).split(parameters.batch_size):
                learned.append(learn(built, optimizer, training, batch, parameters))
                bar.advance()
            found = summarize(built, present(built, validation, parameters.batch_size))
            row = {
                f"train/{name}": sum(values) / len(learned)
                for name, values in zip(Learned._fields, zip(*learned, strict=True), strict=True)
            } | {name.replace("validation_", "validation/"): one for name, one in found.items()}
            history.append(row)
            log(row, step=epoch)
            checkpoints.save(epoch, extra={"history": history}, **state)
    return history


def make_optimizer(built: Build, parameters: Parameters) -> torch.optim.Adam:
    """Return Adam, with a step size for the readout and one for all else."""
    rates = parameters.learning_rate
    readout, neurons = [], []
    for name, one in built.network.named_parameters():
        of_readout = name.startswith("readout.") or name == "bias_out"
        (readout if of_readout else neurons).append(one)
    return torch.optim.Adam(
        [
            {"params": readout, "lr": rates["readout"]},
            {"params": neurons, "lr": rates["neurons"]},
        ]
    )


def learn(
    built: Build,
    optimizer: torch.optim.Optimizer,
    trials: Trials,
    batch: torch.Tensor,
    parameters: Parameters,
) -> Learned:
    """Follow the gradient of one batch's cross-entropy and of its spike counts."""
    response = built.network(trials.prepared(batch))
    loss = functional.cross_entropy(response.logits, trials.label[batch])
    total, bounds = loss, parameters.kc_spikes
    spike_loss = loss.new_zeros(())
    if bounds.lower_strength or bounds.upper_strength:
        spike_loss = bounds(response.counts[:, torch.from_numpy(built.is_kc)])
        total = loss + spike_loss
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    if isinstance(built.network, FlyPathway):
        built.network.clip()
    return Learned(loss.item(), spike_loss.item())


@torch.no_grad()
def present(built: Build, trials: Trials, batch_size: int) -> Presented:
    """Present trials without learning from them."""
    logits, counts = [], []
    for batch in torch.arange(len(trials.ids)).split(batch_size):
        response = built.network(trials.prepared(batch))
        logits.append(response.logits)
        counts.append(response.counts.to(torch.int32))
    return Presented(trials, torch.cat(logits), torch.cat(counts))
