"""A student: it has the teacher's connectome, has forgotten some values, and learns them back.

Which values, and what from, is said by `mode`, `target`, `output_loss_scale`, `hidden_in_loss` and
`hidden_loss_scale`. The baseline is `teacher = "shuffled"`: the student is shown each sample with
what the teacher did in another one. All that is reported is about samples it did not learn from,
against what the teacher really does there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
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
from teaching import LearningRates, batches, load_teacher, make_reproducible, read_parameters

from engram import metrics, progress
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
            lesson,
            parameters,
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


def train(
    lesson: Lesson,
    parameters: Parameters,
    *,
    log: metrics.MetricsLog,
    checkpoints: Checkpoints,
    resume_from: Path | None,
) -> list[dict[str, float]]:
    """Run the epochs that are left; each ends with a line of metrics and a checkpoint.

    Batch order and synapse noise come from PyTorch's global random stream, which every checkpoint
    holds. Returns what was logged, one entry an epoch, those before a resume included.
    """
    optimizer = parameters.learning_rate.optimizer(lesson.student)
    state: dict[str, Any] = {"student": lesson.student, "optimizer": optimizer}
    start = checkpoints.resume(resume_from, **state)
    history = list(start.extra.get("history", []))
    # Samples to learn from are numbered from 0, as are their targets.
    chosen = lesson.samples
    n_batches = -(-len(chosen) // parameters.batch_size)
    lesson.student.train()
    with progress.bar("train", total=(parameters.epochs - start.step) * n_batches) as bar:
        for epoch in range(start.step + 1, parameters.epochs + 1):
            losses = []
            for batch in batches(chosen, parameters.batch_size):
                losses.append(learn(lesson, optimizer, parameters, batch))
                bar.advance()
            found = compare(respond(lesson.student, lesson.validation), lesson.validation)
            row = {"train/loss": sum(losses) / len(losses)}
            row |= {f"validation/{name}": value for name, value in found.items()}
            recovery = measure_recovery(lesson.student, lesson.teacher.network, parameters.mode)
            row |= {f"recovery/{name}": value for name, value in recovery.items()}
            history.append({name: value for name, value in row.items() if value is not None})
            log(history[-1], step=epoch)
            checkpoints.save(epoch, extra={"history": history}, **state)
    return history


def learn(
    lesson: Lesson, optimizer: torch.optim.Optimizer, parameters: Parameters, batch: np.ndarray
) -> float:
    """Follow the gradient of one batch's loss; return the loss."""
    activity = lesson.student(lesson.teacher.samples.spikes(batch))
    loss = loss_of(activity, lesson, parameters, torch.from_numpy(batch))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(
        [one for group in optimizer.param_groups for one in group["params"]],
        parameters.max_grad_norm,
    )
    optimizer.step()
    lesson.student.clip()
    return loss.item()
