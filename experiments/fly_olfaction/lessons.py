"""What a student is taught with: its parameters, whom it learns from, and what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from student_report import Trials, teach
from teaching import LearningRates, Teacher, run_all

from neuro.losses import (
    choose_recorded,
    filtered_spike_loss,
    max_over_time,
    max_over_time_loss,
    trace_loss,
)
from neuro.models.teacher_student import check_mode, derangement, make_student

if TYPE_CHECKING:
    from neuro.models.wired_network import Activity, WiredNetwork

CHOICES = {
    "target": ("mse", "nll"),
    "hidden_signal": ("voltages", "spikes"),
    "teacher": ("true", "shuffled"),
}
# Random stream of a seed, beside those of make_student.
SHUFFLE = 1


@dataclass(frozen=True)
class Parameters:
    """The keys of parameters_student.toml, which says what each means."""

    seed: int
    threads: int
    backend: str
    mode: str
    target: str
    output_loss_scale: float
    hidden_in_loss: float
    hidden_loss_scale: float
    hidden_signal: str
    hidden_tau_ms: float
    teacher: str
    train_samples: int
    epochs: int
    batch_size: int
    max_grad_norm: float
    precision_ms: float
    learning_rate: LearningRates

    def __post_init__(self) -> None:
        """Refuse unknown choices, and a student that nothing is asked of.

        Raises:
            ValueError: so it is.
        """
        check_mode(self.mode)
        for key, allowed in CHOICES.items():
            if (value := getattr(self, key)) not in allowed:
                msg = f"{key} = {value!r} is none of {', '.join(map(repr, allowed))}"
                raise ValueError(msg)
        if not 0 <= self.hidden_in_loss <= 1:
            msg = f"hidden_in_loss = {self.hidden_in_loss!r} must lie in 0 .. 1"
            raise ValueError(msg)
        if not self.asks_output and not self.asks_hidden:
            msg = (
                "nothing is asked of the student: output_loss_scale is 0, and so is hidden_in_loss "
                "or hidden_loss_scale"
            )
            raise ValueError(msg)

    @property
    def asks_output(self) -> bool:
        """Whether the loss asks for outputs."""
        return self.output_loss_scale > 0

    @property
    def asks_hidden(self) -> bool:
        """Whether the loss asks for hidden units."""
        return self.hidden_in_loss > 0 and self.hidden_loss_scale > 0


class Targets(NamedTuple):
    """What the teacher does in the samples that are learned from: (T, B, K) and (T, B, R)."""

    outputs: torch.Tensor
    hidden: torch.Tensor | None


class Lesson(NamedTuple):
    """A student and what it is taught with.

    Attributes:
        teacher: see there.
        student: what learns.
        samples: numbers of those that are learned from.
        recorded: numbers of the units whose activity is in the loss, None for none.
        targets: of each of the samples; of a shuffled teacher, of another one.
        validation: to be looked at only.
    """

    teacher: Teacher
    student: WiredNetwork
    samples: np.ndarray
    recorded: torch.Tensor | None
    targets: Targets
    validation: Trials


def make_lesson(teacher: Teacher, parameters: Parameters) -> Lesson:
    """Make the student, choose recorded units, and let the teacher do all that is to be seen.

    Raises:
        ValueError: the teacher has not as many samples.
    """
    seed, samples = parameters.seed, teacher.samples.counts.ids("train")
    if not 2 <= parameters.train_samples <= len(samples):
        msg = f"train_samples = {parameters.train_samples!r} must lie in 2 .. {len(samples)}"
        raise ValueError(msg)
    samples = samples[: parameters.train_samples]
    recorded = None
    if parameters.asks_hidden:
        units = range(teacher.graph.n_units)
        recorded = choose_recorded(units, parameters.hidden_in_loss, seed=seed)
    student = make_student(teacher.network, parameters.mode, seed=seed)
    targets = make_targets(teacher, samples, recorded, parameters)
    return Lesson(teacher, student, samples, recorded, targets, teach(teacher, "validation"))


def make_targets(
    teacher: Teacher, samples: np.ndarray, recorded: torch.Tensor | None, parameters: Parameters
) -> Targets:
    """Record the teacher once, without noise: outputs, and what is asked of recorded units."""
    source = samples
    if parameters.teacher == "shuffled":
        stream = np.random.default_rng([parameters.seed, SHUFFLE])
        source = samples[derangement(len(samples), stream)]
    outputs, hidden = [], []
    for batch in np.array_split(source, -(-len(source) // parameters.batch_size)):
        activity = run_all(teacher.network, teacher.samples, batch, parameters.batch_size)
        outputs.append(activity.outputs)
        if recorded is not None:
            hidden.append(signal_of(activity, parameters)[..., recorded])
    return Targets(torch.cat(outputs, dim=1), torch.cat(hidden, dim=1) if hidden else None)


def signal_of(activity: Activity, parameters: Parameters) -> torch.Tensor:
    """Return what is recorded of units, shape (T, B, N)."""
    return activity.potential if parameters.hidden_signal == "voltages" else activity.spikes


def loss_of(
    activity: Activity, lesson: Lesson, parameters: Parameters, batch: torch.Tensor
) -> torch.Tensor:
    """Return how far a student is from its teacher, where it is asked to be near."""
    loss = torch.zeros(())
    if parameters.asks_output:
        target = lesson.targets.outputs[:, batch]
        if parameters.target == "mse":
            output = trace_loss(activity.outputs, target)
        else:
            output = max_over_time_loss(activity.outputs, max_over_time(target).argmax(dim=1))
        loss = loss + parameters.output_loss_scale * output
    if lesson.recorded is not None and lesson.targets.hidden is not None:
        mine = signal_of(activity, parameters)[..., lesson.recorded]
        theirs = lesson.targets.hidden[:, batch]
        if parameters.hidden_signal == "voltages":
            hidden = trace_loss(mine, theirs)
        else:
            dt_ms = lesson.teacher.samples.dt_ms
            hidden = filtered_spike_loss(mine, theirs, tau_ms=parameters.hidden_tau_ms, dt_ms=dt_ms)
        loss = loss + parameters.hidden_loss_scale * hidden
    return loss
