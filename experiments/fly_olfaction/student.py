"""A student: it has the teacher's connectome, has forgotten some values, and learns them back.

Which values, and what from, is said by `mode`, `target`, `output_loss_scale`, `hidden_in_loss` and
`hidden_loss_scale`. The baseline is `teacher = "shuffled"`: the student is shown each sample with
what the teacher did in another one. All that is reported is about samples it did not learn from,
against what the teacher really does there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from learning import Course, train
from lessons import Lesson, Parameters, loss_of, make_lesson
from student_report import (
    assess,
    compare,
    draw_figures,
    measure_recovery,
    respond,
    save_groups,
    save_values,
    teach,
)
from teaching import LearningRates, load_teacher, make_reproducible, read_parameters

from engram import metrics
from engram.checkpoint import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def main(
    input_dir: Path | None,
    output_dir: Path,
    params_file: Path,
    wandb_config: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> dict[str, float | int | str | None]:
    """Learn, then compare with the teacher on the test samples."""
    values = read_parameters(params_file)
    parameters = Parameters(**values | {"learning_rate": LearningRates(**values["learning_rate"])})
    make_reproducible(parameters.seed, parameters.threads)
    lesson = make_lesson(load_teacher(input_dir, backend=parameters.backend), parameters)
    test = teach(lesson.teacher, "test")
    measure = {"precision_ms": parameters.precision_ms, "dt_ms": lesson.teacher.samples.dt_ms}
    before = assess(lesson.student, test, **measure)
    begun = measure_recovery(lesson.student, lesson.teacher.network, parameters.mode)
    start_values = save_values(output_dir / "start.npz", lesson.student)
    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        history = train(
            make_course(lesson, parameters),
            log=log,
            checkpoints=Checkpoints(output_dir, keep_last=2),
            resume_from=resume_from,
        )
    after = assess(lesson.student, test, **measure)
    save_groups(output_dir / "groups.csv", after, lesson.teacher.graph)
    learned = save_values(output_dir / "learned.npz", lesson.student)
    draw_figures(
        output_dir,
        lesson.student,
        lesson.teacher,
        values={"start": start_values, "learned": learned},
        history=history,
        found=after,
    )
    recovery = measure_recovery(lesson.student, lesson.teacher.network, parameters.mode)
    return {
        **{f"test_{name}": value for name, value in after.values.items()},
        **{f"start_test_{name}": value for name, value in before.values.items()},
        **recovery,
        **{f"start_{name}": value for name, value in begun.items()},
        "mode": parameters.mode,
        "target": parameters.target,
        "hidden_in_loss": parameters.hidden_in_loss,
        "teacher": parameters.teacher,
        "recorded_units": 0 if lesson.recorded is None else len(lesson.recorded),
        "learned_values": sum(
            one.numel() for one in lesson.student.parameters() if one.requires_grad
        ),
    }


def make_course(lesson: Lesson, parameters: Parameters) -> Course:
    """Say what a student learns: to do as the teacher does."""
    student, teacher = lesson.student, lesson.teacher

    def look() -> dict[str, float | None]:
        found = compare(respond(student, lesson.validation), lesson.validation)
        recovery = measure_recovery(student, teacher.network, parameters.mode)
        return {
            **{f"validation/{name}": value for name, value in found.items()},
            **{f"recovery/{name}": value for name, value in recovery.items()},
        }

    def batch_loss(batch: np.ndarray) -> torch.Tensor:
        # Samples to learn from are numbered from 0, as are their targets.
        activity = student(teacher.samples.spikes(batch))
        return loss_of(activity, lesson, parameters, torch.from_numpy(batch))

    return Course(
        student,
        parameters.learning_rate.optimizer(student),
        lesson.samples,
        batch_loss,
        look,
        epochs=parameters.epochs,
        batch_size=parameters.batch_size,
        max_grad_norm=parameters.max_grad_norm,
    )
