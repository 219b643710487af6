"""Stage 5: spikes of cells that were not recorded, and factors, by expectation-maximization.

A share of the teacher's cells is hidden. In turns, hidden spikes are inferred with the factors as
they are (E-step), and factors are learned as if these spikes had been recorded (M-step).

E-step: hidden cells are simulated with the current factors while inputs and recorded cells act by
their recorded spikes. Cells are deterministic and all inputs are known, so that for given factors
no other hidden spikes are possible: there is nothing to sample, and what recorded cells do after a
hidden spike can tell about it only by changing the factors, which is the M-step. This is "hard"
expectation-maximization, with a point in place of a distribution over the hidden variables (Neal &
Hinton 1998, doi:10.1007/978-94-011-5014-9_12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from stages import make_reproducible, read_parameters
from student_learning import Schedule, VanRossum, learn_chunk, make_trainer, read_by, validate
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
from neuro.metrics.spike_agreement import coincidence, count_differing, rate_correlation
from neuro.models.student import log_factors, student_network
from neuro.spiking.spike_trains import SpikeTrains
from neuro.spiking.surrogate import FastSigmoid

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.spiking.network import Network
    from neuro.spiking.spike_data import SpikeData
    from neuro.training.chunks import ChunkTrainer

# What the M-step takes for hidden spikes; the parameter file says what each means.
E_STEPS = ("current", "start", "silent", "true")
AGREEMENT = ("van_rossum", "rate_correlation", "coincidence")
RECOVERY = ("log_factor_correlation", "median_relative_error", "mean_absolute_difference")
# Random stream of a seed beside those of students.py.
MIX = 3


@dataclass(frozen=True)
class Parameters:
    """The keys of the parameter file, which says what each means."""

    seed: int
    threads: int
    backend: str
    e_step: str
    iterations: int
    validation_trials: int
    coincidence_ms: float
    task: TaskLaw
    loss: VanRossum
    m_step: Schedule


class Problem(NamedTuple):
    """A task, the teacher's spikes, and networks; `clamped` and `between` have the same factors.

    Attributes:
        task: what is to be found.
        training, validation: the trials that factors are learned from, and the others.
        clamped: acts by recorded and inferred spikes alone; this one learns.
        between: hidden cells run freely between recorded ones.
        start: the same with the factors of the start.
        target: the same with the true factors.
        partner: for each hidden cell another one, of its group where there is one.
    """

    task: Task
    training: Trials
    validation: Trials
    clamped: Network
    between: Network
    start: Network
    target: Network
    partner: np.ndarray

    @property
    def data(self) -> SpikeData:
        """The teacher's spikes in all trials."""
        return self.training.data

    @property
    def hidden(self) -> np.ndarray:
        """Numbers of the hidden cells."""
        return np.flatnonzero(self.task.hidden)


class Iterations(NamedTuple):
    """What the iterations leave: lines of metrics, last inferred spikes, the backend."""

    history: list[dict[str, float]]
    inferred: SpikeTrains
    backend: str


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str | None]:
    """Iterate; compare inferred with true spikes after each turn and beside controls."""
    parameters = make_parameters(read_parameters(params_file))
    make_reproducible(parameters.seed, parameters.threads)
    problem = make_problem(input_dir, parameters)
    save_targets(output_dir, problem.task)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        checkpoints = Checkpoints(output_dir, keep_last=2)
        iterations = iterate(
            problem, parameters, log=log, checkpoints=checkpoints, resume_from=resume_from
        )
    found = factors_of(problem.clamped)
    save_factors(output_dir, found, problem.task)
    save_hidden(output_dir / "hidden_spikes.npz", iterations.inferred, problem)
    draw_recovery(output_dir / "recovery.png", found, problem.task)
    draw_iterations(output_dir / "iterations.png", iterations.history)
    ceiling = agreement(infer(problem.target, problem), problem, parameters)
    return {
        **summarize(iterations.history),
        **defined({f"true_factors_{name}": value for name, value in ceiling.items()}),
        "e_step": parameters.e_step,
        "noise_fraction": parameters.task.noise_fraction,
        "hidden_cells": len(problem.hidden),
        "factors": int(problem.task.used.sum()),
        "backend": iterations.backend,
    }


def make_parameters(values: dict[str, Any]) -> Parameters:
    """Turn the tables of the parameter file into what they describe.

    Raises:
        ValueError: there is no such E-step.
    """
    if values["e_step"] not in E_STEPS:
        msg = f"e_step = {values['e_step']!r} is none of {', '.join(map(repr, E_STEPS))}"
        raise ValueError(msg)
    tables = {"task", "loss", "m_step"}
    return Parameters(
        **{key: values[key] for key in values.keys() - tables},
        task=TaskLaw(**values["task"]),
        loss=VanRossum(**values["loss"]),
        m_step=Schedule(**values["m_step"]),
    )


def make_problem(input_dir: Path | None, parameters: Parameters) -> Problem:
    """Read the teacher and make the networks.

    Raises:
        ValueError: no cell is hidden.
    """
    model, data = load_teacher(input_dir)
    task = make_task(model, parameters.task, seed=parameters.seed)
    if not task.hidden.any():
        msg = f"hidden_fraction = {parameters.task.hidden_fraction!r} hides no cell of any group"
        raise ValueError(msg)

    def network(free: np.ndarray, share: Network | None = None) -> Network:
        return student_network(
            task.structure,
            task.physiology,
            task.groups,
            free=free,
            dt_ms=data.dt_ms,
            surrogate=FastSigmoid(parameters.m_step.surrogate_slope),
            backend=parameters.backend,
            share=share,
        )

    clamped, target = network(np.zeros_like(task.hidden)), network(task.hidden)
    with torch.no_grad():
        for table, true in zip(log_factors(target), task.target, strict=True):
            table.copy_(true.log())
    training, validation = split_trials(
        data,
        validation_trials=parameters.validation_trials,
        chunk_ms=parameters.m_step.chunk_ms,
    )
    return Problem(
        task=task,
        training=training,
        validation=validation,
        clamped=clamped,
        between=network(task.hidden, share=clamped),
        start=network(task.hidden),
        target=target,
        partner=mix(task, parameters.seed),
    )


def mix(task: Task, seed: int) -> np.ndarray:
    """Give each hidden cell another one of its group, itself where it is alone."""
    hidden = np.flatnonzero(task.hidden)
    generator = np.random.default_rng([seed, MIX])
    groups, partner = task.groups.cells.ids.numpy()[hidden], hidden.copy()
    for group in np.unique(groups):
        own = generator.permutation(hidden[groups == group])
        partner[np.searchsorted(hidden, own)] = np.roll(own, 1)
    return partner


def iterate(
    problem: Problem,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> Iterations:
    """Take the iterations that are left; a line of metrics is about the E-step after as many.

    Spikes are not saved in checkpoints: the factors there give them again, bit for bit.
    """
    schedule = parameters.m_step
    n_chunks = schedule.passes * problem.training.n_chunks
    trainer = make_trainer(problem.clamped, schedule, n_chunks=parameters.iterations * n_chunks)
    state: dict[str, Any] = {
        "network": problem.clamped,
        "optimizer": trainer.optimizer,
        "schedule": trainer.schedule,
        "trainer": trainer,
    }
    start = checkpoints.resume(resume_from, **state)
    history, backend = start.extra.get("history", []), start.extra.get("backend", "")
    inferred = infer(problem.between, problem)
    if not history:
        history.append(look(problem, parameters, inferred))
        log(history[-1], step=0)
    with progress.bar("iterate", total=(parameters.iterations - start.step) * n_chunks) as bar:
        for iteration in range(start.step + 1, parameters.iterations + 1):
            given = for_m_step(inferred, problem, parameters)
            loss, backend = m_step(problem, trainer, parameters, given, bar)
            before, inferred = inferred, infer(problem.between, problem)
            changed = count_differing(*(one.of_units(problem.hidden) for one in (before, inferred)))
            row = {"train/loss": loss, "hidden/changed_spikes": changed}
            history.append(row | look(problem, parameters, inferred))
            log(history[-1], step=iteration)
            checkpoints.save(iteration, extra={"history": history, "backend": backend}, **state)
    return Iterations(history, inferred, backend)


@torch.no_grad()
def infer(network: Network, problem: Problem) -> SpikeTrains:
    """Take an E-step with the factors of a network whose hidden cells are free.

    Returns:
        Spikes of all cells in all trials: those inferred of hidden cells, those recorded of others.
    """
    everything = torch.arange(problem.data.input.n_trials)
    trials = problem.training._replace(chosen=everything)
    hidden = torch.from_numpy(problem.task.hidden)
    carry, parts = None, []
    for chunk in range(trials.n_chunks):
        recorded = trials.outputs(chunk)
        inputs = read_by(network, trials.inputs(chunk), recorded)
        simulation = network(inputs, carry=carry)
        carry = simulation.carry
        parts.append(SpikeTrains.from_dense(torch.where(hidden, simulation.spikes, recorded)))
    return SpikeTrains.join(parts)


def for_m_step(inferred: SpikeTrains, problem: Problem, parameters: Parameters) -> SpikeTrains:
    """Return the spikes that the M-step is given: the inferred ones, or those of a control."""
    if parameters.e_step == "start":
        return infer(problem.start, problem)
    if parameters.e_step == "silent":
        return problem.data.output.without(problem.hidden)
    return problem.data.output if parameters.e_step == "true" else inferred


def m_step(
    problem: Problem,
    trainer: ChunkTrainer,
    parameters: Parameters,
    given: SpikeTrains,
    bar: progress.Bar,
) -> tuple[float, str]:
    """Learn factors from recorded and inferred spikes; return the mean loss and the backend.

    The loss asks for recorded cells only. The factors that hidden spikes were inferred with
    reproduce them without error, and would be held where they are.
    """
    recorded = problem.training
    acting = recorded._replace(data=recorded.data._replace(output=given))
    n_chunks, total, backend = parameters.m_step.passes * recorded.n_chunks, 0.0, ""
    for number in range(n_chunks):
        learned = learn_chunk(
            trainer,
            problem.task,
            parameters.loss,
            recorded=recorded,
            given=acting,
            number=number,
        )
        total, backend = total + learned.loss, learned.simulation.backend
        bar.advance()
    return total / n_chunks, backend


def look(problem: Problem, parameters: Parameters, inferred: SpikeTrains) -> dict[str, float]:
    """Measure inferred spikes against true ones, and against those of other hidden cells."""
    own = agreement(inferred, problem, parameters)
    mixed = agreement(inferred, problem, parameters, cells=problem.partner)
    checked = validate(problem.between, problem.task, problem.validation, parameters.loss)
    recovery = measure_recovery(factors_of(problem.clamped), problem.task)
    tables = {"hidden": own, "shuffled": mixed, "validation": checked, "factors": recovery}
    return {
        f"{table}/{name}": value for table, row in tables.items() for name, value in row.items()
    }


def agreement(
    inferred: SpikeTrains,
    problem: Problem,
    parameters: Parameters,
    *,
    cells: np.ndarray | None = None,
) -> dict[str, float]:
    """Compare spikes inferred of hidden cells with true spikes, in all trials.

    Args:
        inferred: spikes of all cells.
        problem: the truth.
        parameters: of the measures.
        cells: whose true spikes are compared with those inferred of each hidden cell; their own by
            default.

    Returns:
        Van Rossum loss, correlation of the cells' rates, share of coincident spikes.
    """
    guess = inferred.of_units(problem.hidden)
    true = problem.data.output.of_units(problem.hidden if cells is None else cells)
    dt_ms, window_ms = problem.data.dt_ms, parameters.coincidence_ms
    total, state = 0.0, None
    for chunk in range(problem.training.n_chunks):
        span = problem.training.span(chunk)
        value, state = parameters.loss(guess.dense(*span), true.dense(*span), state, dt_ms=dt_ms)
        total += value.item() * (span[1] - span[0])
    return {
        "van_rossum": total / guess.n_steps,
        "rate_correlation": rate_correlation(guess, true),
        "coincidence": coincidence(guess, true, window_ms=window_ms, dt_ms=dt_ms),
    }


def summarize(history: list[dict[str, float]]) -> dict[str, float | None]:
    """Return the last line beside the first, and how little any iteration changed."""
    first, last = history[0], history[-1]
    summary = {f"hidden_{name}": last[f"hidden/{name}"] for name in AGREEMENT}
    summary |= {f"start_hidden_{name}": first[f"hidden/{name}"] for name in AGREEMENT}
    summary |= {f"shuffled_{name}": last[f"shuffled/{name}"] for name in AGREEMENT}
    summary |= {name: last[f"factors/{name}"] for name in RECOVERY}
    summary |= {f"start_{name}": first[f"factors/{name}"] for name in RECOVERY}
    summary |= {
        "validation_loss": last["validation/loss"],
        "start_validation_loss": first["validation/loss"],
        "iterations": len(history) - 1,
        "least_changed_spikes": min(row["hidden/changed_spikes"] for row in history[1:]),
    }
    return defined(summary)


def save_hidden(path: Path, inferred: SpikeTrains, problem: Problem) -> None:
    """Write the last inferred spikes of hidden cells: step, trial and cell of each."""
    trains = inferred.of_units(problem.hidden)
    step = np.repeat(np.arange(trains.n_steps), np.diff(trains.offsets))
    cell = problem.hidden[trains.unit]
    np.savez(path, step=step, trial=trains.trial, cell=cell, dt_ms=problem.data.dt_ms)


def draw_iterations(path: Path, history: list[dict[str, float]]) -> None:
    """Draw agreement and error of the factors over the iterations."""
    # Learning needs no drawing, which takes a second to import.
    from neuro import plots

    iterations = list(range(len(history)))
    agreements = {
        f"{name.replace('_', ' ')}{which}": [row[f"{table}/{name}"] for row in history]
        for name in AGREEMENT[1:]
        for table, which in (("hidden", ""), ("shuffled", ", another cell"))
    }
    error = {"median": [row["factors/median_relative_error"] for row in history]}
    with plots.publication():
        figure = plots.new_figure(width_in=7.0, height_in=2.8)
        left, right = figure.subplots(1, 2)
        plots.draw_curves(left, iterations, agreements, ylabel="Agreement of hidden spikes")
        left.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.12))
        plots.draw_curves(right, iterations, error, ylabel="Relative error of factors", log=True)
        for axes in (left, right):
            axes.set_xlabel("Iteration")
        plots.save_png(figure, path)
