"""A teacher: a network of spiking or rate units on a connectome learns to name random manifolds.

What it learns is `trained`, a mode of neuro.models.teacher_student. Students read what it writes,
see teaching.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from learning import Course, train
from teaching import (
    LearningRates,
    SampleCounts,
    Teacher,
    make_graph,
    make_network,
    make_reproducible,
    make_samples,
    read_parameters,
    run_all,
    save_teacher,
)

from engram import metrics
from engram.checkpoint import Checkpoints
from neuro.connectome.neuron_graph import RandomGraphLaw
from neuro.losses import SpikeCountBounds, max_over_time_loss
from neuro.metrics.activity import standard_error
from neuro.models.teacher_student import train_only
from neuro.models.wired_network import Activity, WiredSettings
from neuro.spiking.random_manifold import ManifoldLaw
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters_teacher.toml, which says what each means."""

    seed: int
    threads: int
    backend: str
    connectome: str
    trained: str
    epochs: int
    batch_size: int
    max_grad_norm: float
    samples: SampleCounts
    learning_rate: LearningRates
    random_graph: RandomGraphLaw
    task: ManifoldLaw
    network: WiredSettings
    bounds: SpikeCountBounds


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str]:
    """Train, report on the test samples, and hand on what was learned."""
    parameters = make_parameters(read_parameters(params_file))
    make_reproducible(parameters.seed, parameters.threads)
    teacher = make_teacher(input_dir, parameters)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        history = train(
            make_course(teacher, parameters),
            log=log,
            checkpoints=Checkpoints(output_dir, keep_last=2),
            resume_from=resume_from,
        )
    shown = run_all(
        teacher.network,
        teacher.samples,
        teacher.samples.counts.ids("test"),
        parameters.batch_size,
    )
    draw_figures(output_dir, teacher, shown, history)
    # Last: what is handed on is there only where all else is.
    save_teacher(output_dir, teacher, seed=parameters.seed)
    last = {name.replace("/", "_"): value for name, value in history[-1].items()}
    return last | {
        **{f"test_{name}": value for name, value in assess(teacher, parameters, "test").items()},
        "chance": 1 / parameters.task.n_classes,
        "connectome": parameters.connectome,
        "kind": parameters.network.kind,
        "trained": parameters.trained,
        "units": teacher.graph.n_units,
        "edges": len(teacher.graph.feedforward.pre) + len(teacher.graph.recurrent.pre),
    }


def make_parameters(values: dict[str, Any]) -> Parameters:
    """Turn the tables of the parameter file into what they describe."""
    tables = {
        "samples": SampleCounts,
        "learning_rate": LearningRates,
        "random_graph": RandomGraphLaw,
        "task": ManifoldLaw,
        "network": WiredSettings,
        "bounds": SpikeCountBounds,
    }
    return Parameters(**values | {name: kind(**values[name]) for name, kind in tables.items()})


def make_teacher(input_dir: Path | None, parameters: Parameters) -> Teacher:
    """Make a graph, a task for its inputs, and a network that has learned nothing."""
    seed, law = parameters.seed, parameters.task
    graph = make_graph(parameters.connectome, parameters.random_graph, input_dir, seed=seed)
    samples = make_samples(
        law, parameters.samples, graph, dt_ms=parameters.network.dt_ms, seed=seed
    )
    network = make_network(graph, parameters.network, law, seed=seed, backend=parameters.backend)
    train_only(network, parameters.trained)
    return Teacher(graph, network, samples)


def make_course(teacher: Teacher, parameters: Parameters) -> Course:
    """Say what a teacher learns: to name samples, within bounds on spike counts."""
    network, samples = teacher.network, teacher.samples

    def loss_of(batch: np.ndarray) -> torch.Tensor:
        activity = network(samples.spikes(batch))
        loss = max_over_time_loss(activity.outputs, samples.labels(batch))
        return loss + parameters.bounds(activity.spikes.sum(dim=0))

    def look() -> dict[str, float | None]:
        found = assess(teacher, parameters, "validation")
        return {f"validation/{name}": value for name, value in found.items()}

    return Course(
        network,
        parameters.learning_rate.optimizer(network),
        samples.counts.ids("train"),
        loss_of,
        look,
        epochs=parameters.epochs,
        batch_size=parameters.batch_size,
        max_grad_norm=parameters.max_grad_norm,
    )


def assess(teacher: Teacher, parameters: Parameters, name: str) -> dict[str, float]:
    """Measure on the samples of one kind how well they are named, and how active the units are."""
    chosen = teacher.samples.counts.ids(name)
    found = run_all(teacher.network, teacher.samples, chosen, parameters.batch_size)
    right = found.logits.argmax(dim=1) == teacher.samples.labels(chosen)
    accuracy, counts = right.double().mean().item(), found.spikes.sum(dim=0)
    duration_s = len(found.spikes) * parameters.network.dt_ms / MS_PER_S
    return {
        "accuracy": accuracy,
        "accuracy_se": standard_error(accuracy, len(chosen)),
        "rate_hz": counts.double().mean().item() / duration_s,
        "active_fraction": (counts > 0).double().mean().item(),
    }


def draw_figures(
    output_dir: Path, teacher: Teacher, shown: Activity, history: list[dict[str, float]]
) -> None:
    """Draw learning.png and traces.png."""
    # Training needs no drawing, which takes a second to import.
    from neuro import plots
    from neuro.plots import teacher_student as figures

    with plots.publication():
        learning = figures.draw_teacher_learning(history, chance=1 / shown.outputs.shape[2])
        plots.save_png(learning, output_dir / "learning.png")
        dt_ms = teacher.network.settings.dt_ms
        traces = figures.draw_beside(
            {"teacher": shown.potential.numpy()}, dt_ms=dt_ms, ylabel="Potential (thresholds)"
        )
        plots.save_png(traces, output_dir / "potentials.png")
