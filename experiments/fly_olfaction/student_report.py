"""What a student is measured by: agreement with its teacher, by group too, and recovered values.

file           what it is
start.npz      what the student began with: biases, time constants, absolute weights, readout
learned.npz    the same arrays at the end
groups.csv     one row a cell group: squared errors of potentials and of filtered spikes, rates
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from teaching import Teacher, run_all

from neuro.metrics.gamma_coincidence import gamma_coincidence
from neuro.metrics.spike_synchrony import spike_synchrony
from neuro.metrics.trace_agreement import group_mse, trace_correlation, value_recovery
from neuro.models.teacher_student import MODES
from neuro.models.wired_network import Activity

if TYPE_CHECKING:
    from pathlib import Path

    from neuro.connectome.neuron_graph import NeuronGraph
    from neuro.models.wired_network import WiredNetwork

BATCH = 100  # samples that are run at a time where nothing is learned


class Trials(NamedTuple):
    """Samples and what the teacher did in them, without noise."""

    spikes: torch.Tensor
    labels: torch.Tensor
    taught: Activity


class Agreement(NamedTuple):
    """A student beside its teacher on the same samples.

    Attributes:
        student, teacher: what they did.
        values: one number a measure, means over outputs and units; None for what is not defined.
        potential_correlation: of each unit, shape (N,), as are those below.
        gamma: coincidence factor of each unit; NaN of rate units.
        synchrony: SPIKE-synchronization of each unit; NaN of rate units.
    """

    student: Activity
    teacher: Activity
    values: dict[str, float | None]
    potential_correlation: np.ndarray
    gamma: np.ndarray
    synchrony: np.ndarray


def mean(values: np.ndarray) -> float:
    """Return the mean of what is defined, NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def defined(values: dict[str, float]) -> dict[str, float | None]:
    """Return None in place of what is not a number."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def teach(teacher: Teacher, name: str) -> Trials:
    """Let a teacher do the samples of one kind."""
    samples, chosen = teacher.samples, teacher.samples.counts.ids(name)
    taught = run_all(teacher.network, samples, chosen, BATCH)
    return Trials(samples.spikes(chosen), samples.labels(chosen), taught)


@torch.no_grad()
def respond(student: WiredNetwork, trials: Trials) -> Activity:
    """Let a student do them, without noise."""
    was_training = student.training
    student.eval()
    parts = [student(part) for part in trials.spikes.split(BATCH, dim=1)]
    student.train(was_training)
    return Activity(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


def compare(mine: Activity, trials: Trials) -> dict[str, float | None]:
    """Compare decisions, outputs and potentials of a student with its teacher's."""
    theirs = trials.taught
    decided, taught = (one.logits.argmax(dim=1) for one in (mine, theirs))
    return defined(
        {
            "accuracy": (decided == trials.labels).double().mean().item(),
            "decision_agreement": (decided == taught).double().mean().item(),
            "output_correlation": mean(trace_correlation(mine.outputs, theirs.outputs)),
            "output_mse": (mine.outputs - theirs.outputs).square().mean().item(),
            "potential_correlation": mean(trace_correlation(mine.potential, theirs.potential)),
            "potential_mse": (mine.potential - theirs.potential).square().mean().item(),
        }
    )


def assess(
    student: WiredNetwork, trials: Trials, *, precision_ms: float, dt_ms: float
) -> Agreement:
    """Compare all, spikes too, which takes longest."""
    mine, theirs = respond(student, trials), trials.taught
    nothing = np.full(student.n_units, np.nan)
    gamma = synchrony = nothing
    spikes = [one.spikes.numpy() for one in (mine, theirs)]
    if student.settings.kind == "spiking":
        gamma = gamma_coincidence(*spikes, precision_ms=precision_ms, dt_ms=dt_ms)
        synchrony = spike_synchrony(*spikes)
    values = compare(mine, trials) | defined(
        {
            "gamma": mean(gamma),
            "spike_synchrony": mean(synchrony),
            "spikes_per_unit": float(spikes[0].sum(axis=0).mean()),
            "teacher_spikes_per_unit": float(spikes[1].sum(axis=0).mean()),
        }
    )
    correlation = trace_correlation(mine.potential, theirs.potential)
    return Agreement(mine, theirs, values, correlation, gamma, synchrony)


@torch.no_grad()
def values_of(network: WiredNetwork) -> dict[str, np.ndarray]:
    """Return what may be forgotten, by name."""
    values = {
        "bias": network.intrinsic.bias,
        "tau_mem_ms": network.intrinsic.tau_mem_ms,
        "feedforward_weight": network.feedforward.effective_weights().abs(),
        "recurrent_weight": network.recurrent.effective_weights().abs(),
        "readout_weight": network.readout.weight,
    }
    return {name: value.numpy().copy() for name, value in values.items()}


def forgotten(mode: str) -> list[str]:
    """Return the names of `values_of` that a student of a mode has forgotten."""
    names = {
        "intrinsic": ["bias", "tau_mem_ms"],
        "feedforward": ["feedforward_weight"],
        "recurrent": ["recurrent_weight"],
        "readout": ["readout_weight"],
    }
    return [name for part in MODES[mode] for name in names[part]]


def measure_recovery(
    student: WiredNetwork, teacher: WiredNetwork, mode: str
) -> dict[str, float | None]:
    """Compare what was forgotten with the teacher's."""
    found, true = values_of(student), values_of(teacher)
    rows = {name: value_recovery(found[name], true[name]) for name in forgotten(mode)}
    return defined(
        {f"{name}_{what}": value for name, row in rows.items() for what, value in row.items()}
    )


def save_values(path: Path, network: WiredNetwork) -> dict[str, np.ndarray]:
    """Write and return `values_of` a network."""
    values = values_of(network)
    np.savez(path, **values)
    return values


def save_groups(path: Path, found: Agreement, graph: NeuronGraph) -> None:
    """Write one row a cell group."""
    mine, theirs, names = found.student, found.teacher, graph.group_names
    errors = group_mse(mine.potential, theirs.potential, graph.group, names)
    counts = [one.spikes.sum(dim=0, keepdim=True) for one in (mine, theirs)]
    count_errors = group_mse(*counts, graph.group, names)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        columns = ("group", "units", "potential_mse", "count_mse", "potential_correlation")
        table.writerow([*columns, "gamma", "spike_synchrony"])
        for number, name in enumerate(names):
            own = graph.group == number
            by_unit = (found.potential_correlation, found.gamma, found.synchrony)
            values = [errors[name], count_errors[name], *(mean(one[own]) for one in by_unit)]
            shown = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
            table.writerow([name, int(own.sum()), *shown])


def draw_figures(
    output_dir: Path,
    student: WiredNetwork,
    teacher: Teacher,
    *,
    values: dict[str, dict[str, np.ndarray]],
    history: list[dict[str, float]],
    found: Agreement,
) -> None:
    """Draw learning.png, potentials.png, outputs.png and recovery.png.

    Args:
        output_dir: where to.
        student: for its step and mode.
        teacher: whose values are the true ones.
        values: "start" and "learned", as `values_of` gives them.
        history: what was logged.
        found: on the test samples.
    """
    # Learning needs no drawing, which takes a second to import.
    from neuro import plots
    from neuro.plots import teacher_student as figures

    both = {"teacher": found.teacher, "student": found.student}
    dt_ms = student.settings.dt_ms
    with plots.publication():
        drawn = {
            "learning": figures.draw_student_learning(history),
            "potentials": figures.draw_beside(
                {name: one.potential.numpy() for name, one in both.items()},
                dt_ms=dt_ms,
                ylabel="Potential of unit",
            ),
            "outputs": figures.draw_beside(
                {name: one.outputs.numpy() for name, one in both.items()},
                dt_ms=dt_ms,
                ylabel="Output",
            ),
            "recovery": figures.draw_values(
                values_of(teacher.network), values["learned"], start=values["start"]
            ),
        }
        for name, figure in drawn.items():
            plots.save_png(figure, output_dir / f"{name}.png")
