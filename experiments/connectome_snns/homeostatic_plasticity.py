"""Stage 2: change weights until cells fire as often, and as irregularly, as they should.

Gradient descent by truncated backpropagation through time, while the inputs smell changing mixtures
of odors. Weights keep their signs. Writes the network with the weights of the best stretch of
training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from activity import (
    Activity,
    Measured,
    by_type,
    measure,
    measure_chunk,
    record,
    save_statistics,
    summarize,
)
from stages import (
    MODEL,
    Model,
    find_stage,
    load_model,
    make_input,
    make_reproducible,
    read_parameters,
    save_model,
)

from engram import checkpoint, metrics, progress
from engram.checkpoint import Checkpoints
from neuro.losses.homeostasis import CellTargets, HomeostaticLoss, LossWeights
from neuro.models.assembly_network import Cells, assembly_network, thresholds
from neuro.spiking.inputs import InputStream, OdorMixture
from neuro.spiking.surrogate import FastSigmoid
from neuro.training.chunks import ChunkTrainer, Learned
from neuro.training.window import WindowMean

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.spiking.network import Network
    from neuro.spiking.simulate import Simulation

EARLIER = "generate_connectome"
# Offsets of a seed's random streams.
TRAINING, EVALUATION = range(2)
SHOWN_CELLS = 4


@dataclass(frozen=True)
class Parameters:
    """The keys of the parameter file, which says what each means."""

    seed: int
    threads: int
    backend: str
    dt_ms: float
    n_trials: int
    chunk_ms: float
    n_chunks: int
    chunks_per_update: int
    log_interval: int
    checkpoint_interval: int
    learning_rate: float
    learning_rate_decay: float
    max_grad_norm: float
    surrogate_slope: float
    evaluation_ms: float
    settle_ms: float
    weight_ratio: float
    split_trials: bool
    trainable: dict[str, str]
    loss_weights: LossWeights
    targets: dict[str, CellTargets]
    mixture: OdorMixture

    @property
    def chunk_steps(self) -> int:
        """Steps of a chunk."""
        return round(self.chunk_ms / self.dt_ms)


class Evaluation(NamedTuple):
    """A network under inputs that it was not trained with."""

    activity: Activity
    measured: Measured


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str]:
    """Train, then compare the network before and after."""
    parameters = make_parameters(read_parameters(params_file))
    make_reproducible(parameters.seed, parameters.threads)
    model = load_model(find_stage(input_dir, [EARLIER], MODEL))
    network = make_network(model, parameters)
    before = evaluate(network, model, parameters, title="before")
    checkpoints = Checkpoints(output_dir, keep_last=2, keep_best="loss", mode="min")
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        history = train(
            network, model, parameters, log=log, checkpoints=checkpoints, resume_from=resume_from
        )
    best = checkpoint.load(checkpoints.best() or checkpoints.folder, network=network, partial=True)
    after = evaluate(network, model, parameters, title="after")
    save_statistics(output_dir / "firing_statistics.csv", after.measured, model.structure)
    draw(output_dir, (before, after), model, parameters, history)
    # Last: what is handed on is there only where all else is.
    save_model(output_dir, with_weights(model, network))
    summary = summarize(after.measured, model.structure)
    return {
        **summary,
        **rate_errors(summary, parameters),
        **summarize(before.measured, model.structure, prefix="initial_"),
        "best_chunk": best.step,
        "backend": after.activity.backend,
    }


def make_parameters(values: dict[str, Any]) -> Parameters:
    """Turn the tables of the parameter file into what they describe."""
    return Parameters(
        **{key: values[key] for key in values.keys() - {"loss_weights", "targets", "mixture"}},
        loss_weights=LossWeights(**values["loss_weights"]),
        targets={name: CellTargets(**row) for name, row in values["targets"].items()},
        mixture=OdorMixture(**values["mixture"]),
    )


def make_network(model: Model, parameters: Parameters) -> Network:
    """Return the network whose weights are trained."""
    return assembly_network(
        model.structure,
        model.physiology,
        dt_ms=parameters.dt_ms,
        surrogate=FastSigmoid(parameters.surrogate_slope),
        trainable=parameters.trainable,
        backend=parameters.backend,
    )


def make_stream(model: Model, parameters: Parameters, purpose: int) -> InputStream:
    """Return input spikes from a random stream of their own."""
    seed = int(np.random.SeedSequence([parameters.seed, purpose]).generate_state(1)[0])
    source = make_input(model, parameters.mixture, parameters.dt_ms)
    return InputStream(source, n_trials=parameters.n_trials, seed=seed)


def make_loss(model: Model, parameters: Parameters) -> HomeostaticLoss:
    """Return what is asked of the cells."""
    cells = Cells(model.structure.cell_type_names, model.structure.cell_type_ids)
    return HomeostaticLoss(
        parameters.targets,
        type_names=cells.names.tolist(),
        type_ids=cells.labels.ids,
        threshold=thresholds(model.physiology, cells),
        weights=parameters.loss_weights,
        weight_ratio=parameters.weight_ratio,
        dt_ms=parameters.dt_ms,
        split_trials=parameters.split_trials,
    )


def make_trainer(network: Network, parameters: Parameters) -> ChunkTrainer:
    """Return what learns, with an optimizer whose rate decays."""
    optimizer = torch.optim.Adam(network.parameters(), lr=parameters.learning_rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, parameters.learning_rate_decay)
    return ChunkTrainer(
        network,
        optimizer,
        chunks_per_update=parameters.chunks_per_update,
        clip_norm=parameters.max_grad_norm,
        schedule=decay,
    )


def train(
    network: Network,
    model: Model,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> list[dict[str, float]]:
    """Learn from the chunks that are left; return the lines of metrics."""
    trainer = make_trainer(network, parameters)
    stream = make_stream(model, parameters, TRAINING)
    since_log, since_save = WindowMean(), WindowMean()
    state = {
        "network": network,
        "optimizer": trainer.optimizer,
        "decay": trainer.schedule,
        "trainer": trainer,
        "stream": stream,
        "since_log": since_log,
        "since_save": since_save,
    }
    loss = make_loss(model, parameters)
    start = checkpoints.resume(resume_from, **state)
    history = start.extra.get("history", [])
    excitatory = torch.from_numpy(excitatory_edges(model))
    with progress.bar("train", total=parameters.n_chunks - start.step) as bar:
        for chunk in range(start.step + 1, parameters.n_chunks + 1):
            learned, values = learn(trainer, stream, loss, excitatory, parameters)
            since_log.add(values)
            since_save.add({"loss": learned.loss})
            if chunk % parameters.log_interval == 0:
                spikes = learned.simulation.spikes
                found = measure_chunk(spikes, model.structure, dt_ms=parameters.dt_ms)
                row = {**since_log.take(), **found, **factors_of(network)}
                history.append({"step": chunk, **row})
                log(row, step=chunk)
            due = chunk % parameters.checkpoint_interval == 0
            if due or chunk == parameters.n_chunks:
                mean = (since_save.take() if due else since_save.means())["loss"]
                checkpoints.save(chunk, metric=mean, extra={"history": history}, **state)
            bar.advance()
    return history


def learn(
    trainer: ChunkTrainer,
    stream: InputStream,
    loss: HomeostaticLoss,
    excitatory: torch.Tensor,
    parameters: Parameters,
) -> tuple[Learned, dict[str, float]]:
    """Learn from the next chunk; return also the losses, and the gradient's norm of an update."""
    values: dict[str, float] = {}
    projections = trainer.network.projections

    def total(simulation: Simulation, state: None) -> tuple[torch.Tensor, None]:
        losses = loss(
            simulation,
            recurrent=projections["recurrent"].effective_weights()[excitatory],
            feedforward=projections["feedforward"].effective_weights(),
        )
        values.update({f"loss/{name}": one.item() for name, one in losses.items()})
        return loss.total(losses), state

    spikes = stream.draw(parameters.chunk_steps).spikes
    learned = trainer.learn({"feedforward": spikes}, total, record_potential=loss.needs_potential)
    values["loss/total"] = learned.loss
    if learned.grad_norm is not None:
        values["gradient_norm"] = learned.grad_norm
    return learned, values


def excitatory_edges(model: Model) -> np.ndarray:
    """Return which recurrent edges start at cells that excite."""
    names = model.structure.cell_type_names.tolist()
    exciting = np.array([model.physiology.excites(name) for name in names])
    return exciting[model.structure.recurrent_type_pairs[0]]


def factors_of(network: Network) -> dict[str, float]:
    """Return the factor of each pair of types, where factors are what is trained."""
    values = {}
    for projection, one in network.projections.items():
        if one.scaling is None:
            continue
        pre_names, post_names = one.scaling.names
        table = one.scaling_factors.tolist()
        for pre, row in zip(pre_names, table, strict=True):
            for post, factor in zip(post_names, row, strict=True):
                values[f"factor/{projection}/{pre}-{post}"] = factor
    return values


def evaluate(network: Network, model: Model, parameters: Parameters, *, title: str) -> Evaluation:
    """Simulate the network under the same new inputs at every call, and measure it."""
    activity = record(
        network,
        make_stream(model, parameters, EVALUATION),
        n_steps=round(parameters.evaluation_ms / parameters.dt_ms),
        chunk_steps=parameters.chunk_steps,
        shown=list(range(SHOWN_CELLS)),
        title=title,
    )
    settle_steps = round(parameters.settle_ms / parameters.dt_ms)
    return Evaluation(
        activity, measure(activity, settle_steps=settle_steps, dt_ms=parameters.dt_ms)
    )


def with_weights(model: Model, network: Network) -> Model:
    """Return the model with the weights that the network has now."""
    weights = {
        f"{name}_weight": projection.effective_weights().detach().numpy()
        for name, projection in network.projections.items()
    }
    return model._replace(structure=dataclasses.replace(model.structure, **weights))


def rate_errors(summary: dict[str, float], parameters: Parameters) -> dict[str, float]:
    """Return how far the mean rate of each type is from its target, relative to that."""
    errors = {
        f"relative_rate_error_{name}": abs(summary[f"rate_{name}_hz"] / target.rate_hz - 1)
        for name, target in parameters.targets.items()
    }
    return {**errors, "relative_rate_error": max(errors.values())}


def draw(
    output_dir: Path,
    evaluations: tuple[Evaluation, Evaluation],
    model: Model,
    parameters: Parameters,
    history: list[dict[str, float]],
) -> None:
    """Draw rates.png, training.png and raster.png."""
    # Training needs no drawing, which takes a second to import.
    import homeostatic_figures as figures

    targets_hz = {name: target.rate_hz for name, target in parameters.targets.items()}
    rates = {
        title: by_type(one.measured.rate_hz, model.structure)
        for title, one in zip(("Before", "After"), evaluations, strict=True)
    }
    figures.draw_rates(output_dir / "rates.png", rates, targets_hz)
    figures.draw_training(output_dir / "training.png", history, targets_hz)
    raster = evaluations[1].activity.output.of_trial(0).dense()[:, 0]
    types = model.structure.cell_type_names[model.structure.cell_type_ids]
    figures.draw_raster(output_dir / "raster.png", raster, types.tolist(), parameters.dt_ms)
