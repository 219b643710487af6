"""Stage 4: a student that knows the wiring learns how strong each kind of connection is.

Its weights are the teacher's, multiplied by unknown factors; it learns scaling factors that make
its spikes those of the teacher. It runs between the teacher's recorded spikes ("feedforward"), or
by itself ("recurrent"). Hidden cells act by the spikes that the student gives them, and the loss
does not ask for theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from stages import make_reproducible, read_parameters
from student_learning import Schedule, VanRossum, learn_chunk, make_trainer, validate
from students import (
    Task,
    TaskLaw,
    Trials,
    defined,
    draw_recovery,
    factors_of,
    load_teacher,
    make_task,
    measure_recovery,
    save_factors,
    save_targets,
    split_trials,
)

from engram import metrics, progress
from engram.checkpoint import Checkpoints
from neuro.models.student import student_network
from neuro.spiking.surrogate import FastSigmoid
from neuro.training.window import WindowMean
from neuro.units import MS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.spiking.network import Network

STUDENTS = ("feedforward", "recurrent")


@dataclass(frozen=True)
class Parameters:
    """The keys of the parameter file, which says what each means."""

    seed: int
    threads: int
    backend: str
    student: str
    validation_trials: int
    log_interval: int
    checkpoint_interval: int
    task: TaskLaw
    loss: VanRossum
    schedule: Schedule


class Student(NamedTuple):
    """A network, its task, the trials that it learns from and those it is looked at with."""

    network: Network
    task: Task
    training: Trials
    validation: Trials


class Training(NamedTuple):
    """What training leaves: lines of metrics, the chunk of least validation loss, the backend."""

    history: list[dict[str, float]]
    best_chunk: int
    backend: str


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str | None]:
    """Train, then compare the factors with the true ones, and the spikes with the teacher's."""
    parameters = make_parameters(read_parameters(params_file))
    make_reproducible(parameters.seed, parameters.threads)
    student = make_student(input_dir, parameters)
    save_targets(output_dir, student.task)
    before = assess(student, parameters)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        checkpoints = Checkpoints(output_dir, keep_last=2, keep_best="validation_loss", mode="min")
        training = train(
            student, parameters, log=log, checkpoints=checkpoints, resume_from=resume_from
        )
    found = factors_of(student.network)
    save_factors(output_dir, found, student.task)
    draw_learning(output_dir / "learning.png", training.history, start=before)
    draw_recovery(output_dir / "recovery.png", found, student.task)
    return {
        **defined(assess(student, parameters)),
        **defined({f"start_{name}": value for name, value in before.items()}),
        **of_teacher(student, parameters),
        "student": parameters.student,
        "noise_fraction": parameters.task.noise_fraction,
        "hidden_cells": int(student.task.hidden.sum()),
        "factors": int(student.task.used.sum()),
        "best_chunk": training.best_chunk,
        "backend": training.backend,
    }


def make_parameters(values: dict[str, Any]) -> Parameters:
    """Turn the tables of the parameter file into what they describe.

    Raises:
        ValueError: there is no such student.
    """
    student, schedules = values["student"], values["training"]
    if student not in STUDENTS or student not in schedules:
        msg = f"student = {student!r} is none of {', '.join(map(repr, STUDENTS))}"
        raise ValueError(msg)
    tables, task = {"task", "loss", "training"}, TaskLaw(**values["task"])
    # Gradients run through cells that are free, and ask for smaller steps.
    between = student == "feedforward" and task.hidden_fraction > 0
    return Parameters(
        **{key: values[key] for key in values.keys() - tables},
        task=task,
        loss=VanRossum(**values["loss"]),
        schedule=Schedule(**schedules["between" if between else student]),
    )


def make_student(input_dir: Path | None, parameters: Parameters) -> Student:
    """Read the teacher and make the student's network; its factors are all 1."""
    model, data = load_teacher(input_dir)
    task = make_task(model, parameters.task, seed=parameters.seed)
    network = student_network(
        task.structure,
        task.physiology,
        task.groups,
        free=task.hidden if parameters.student == "feedforward" else np.ones_like(task.hidden),
        dt_ms=data.dt_ms,
        surrogate=FastSigmoid(parameters.schedule.surrogate_slope),
        backend=parameters.backend,
    )
    trials = split_trials(
        data,
        validation_trials=parameters.validation_trials,
        chunk_ms=parameters.schedule.chunk_ms,
    )
    return Student(network, task, *trials)


def assess(student: Student, parameters: Parameters) -> dict[str, float]:
    """Measure factors, and spikes on the validation trials."""
    checked = validate(student.network, student.task, student.validation, parameters.loss)
    recovery = measure_recovery(factors_of(student.network), student.task)
    return recovery | {f"validation_{name}": value for name, value in checked.items()}


def of_teacher(student: Student, parameters: Parameters) -> dict[str, float]:
    """Return the teacher's rate on the validation trials, and the loss of a student that is silent.

    Both are about the cells that are seen.
    """
    trials, state, total = student.validation, None, 0.0
    n_steps, dt_ms = trials.data.output.n_steps, trials.data.dt_ms
    for chunk in range(trials.n_chunks):
        spikes = trials.outputs(chunk)[..., student.task.visible]
        value, state = parameters.loss(torch.zeros_like(spikes), spikes, state, dt_ms=dt_ms)
        total += value.item() * len(spikes)
    count = trials.data.output.counts()[trials.chosen.numpy()][:, ~student.task.hidden]
    return {
        "teacher_rate_hz": float(count.mean()) / (n_steps * dt_ms) * MS_PER_S,
        "silent_validation_loss": total / n_steps,
    }


def train(
    student: Student,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> Training:
    """Learn from the chunks that are left.

    The number of chunks done says where the data stand. The checkpoint of least validation loss is
    kept whatever its age; what is reported is the last.
    """
    total = parameters.schedule.passes * student.training.n_chunks
    trainer = make_trainer(student.network, parameters.schedule, n_chunks=total)
    window = WindowMean()
    state: dict[str, Any] = {
        "network": student.network,
        "optimizer": trainer.optimizer,
        "schedule": trainer.schedule,
        "trainer": trainer,
        "window": window,
    }
    start = checkpoints.resume(resume_from, **state)
    history, backend = start.extra.get("history", []), start.extra.get("backend", "")
    with progress.bar("train", total=total - start.step) as bar:
        for done in range(start.step + 1, total + 1):
            learned = learn_chunk(
                trainer,
                student.task,
                parameters.loss,
                recorded=student.training,
                given=student.training,
                number=done - 1,
            )
            backend = learned.simulation.backend
            norm = {} if learned.grad_norm is None else {"train/gradient_norm": learned.grad_norm}
            window.add({"train/loss": learned.loss} | norm)
            saving = done % parameters.checkpoint_interval == 0 or done == total
            if saving or done % parameters.log_interval == 0:
                history.append({"step": done} | window.take() | look(student, parameters, saving))
                log({name: one for name, one in history[-1].items() if name != "step"}, step=done)
            if saving:
                extra = {"history": history, "backend": backend}
                loss = history[-1]["validation/loss"]
                checkpoints.save(done, metric=loss, extra=extra, **state)
            bar.advance()
    return Training(history, best_chunk(history), backend)


def look(student: Student, parameters: Parameters, validating: bool) -> dict[str, float]:
    """Return what a line of metrics says of the student."""
    recovery = measure_recovery(factors_of(student.network), student.task)
    row = {f"factors/{name}": value for name, value in recovery.items()}
    if validating:
        checked = validate(student.network, student.task, student.validation, parameters.loss)
        row |= {f"validation/{name}": value for name, value in checked.items()}
    return row


def best_chunk(history: list[dict[str, float]]) -> int:
    """Return after how many chunks the validation loss was least."""
    checked = [row for row in history if "validation/loss" in row]
    return int(min(checked, key=lambda row: row["validation/loss"])["step"])


def draw_learning(path: Path, history: list[dict[str, float]], *, start: dict[str, float]) -> None:
    """Draw losses and the error of the factors over training."""
    # Training needs no drawing, which takes a second to import.
    from neuro import plots

    first = {
        "step": 0,
        "validation/loss": start["validation_loss"],
        "factors/median_relative_error": start["median_relative_error"],
    }
    rows = [first, *history]
    curves = {
        "train/loss": "training trials",
        "validation/loss": "validation trials",
        "factors/median_relative_error": "median",
    }
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=2.8)
        left, right = figure.subplots(1, 2)
        for axes, (name, label) in zip((left, left, right), curves.items(), strict=True):
            known = [row for row in rows if name in row]
            chunks, values = ([row[key] for row in known] for key in ("step", name))
            axes.plot(chunks, values, marker=".", markersize=3, linewidth=1, label=label)
            axes.set_yscale("log")
            axes.set_xlabel("Chunk")
        left.set_ylabel("Van Rossum loss")
        left.legend(frameon=False)
        right.set_ylabel("Relative error of the factors")
        plots.save_png(figure, path)
