"""Save and restore a training script: tensors, optimizers, data order, random streams.

    from engram.checkpoint import Checkpoints

    checkpoints = Checkpoints(output_dir, keep_last=3, keep_best="validation_accuracy")
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    start = checkpoints.resume(resume_from, **state, generators={"shuffle": shuffle})
    for epoch in range(start.step + 1, epochs + 1):
        ...
        checkpoints.save(epoch, **state, generators={"shuffle": shuffle}, metric=accuracy)

Hand `shuffle` to the DataLoader (generator=shuffle) and save between two passes over it: then a
resumed run draws the same batches as an uninterrupted one. Of several processes (ranks) each calls
the same; rank 0 writes, and each gets its own streams back. The layout on disk is drawn in
checkpoint_files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from engram import (
    checkpoint_check,
    checkpoint_files,
    checkpoint_ranks,
    checkpoint_state,
    metrics_files,
    random_streams,
    ranks,
)
from engram.checkpoint_files import META, STATE, VERSION, rng_file
from engram.errors import ResumeError
from engram.files import read_json, write_json
from engram.paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engram.checkpoint_state import Stateful
    from engram.random_streams import Generator

__all__ = ["Checkpoint", "Checkpoints", "load"]


@dataclass(frozen=True)
class Checkpoint:
    """What a script continues from.

    Attributes:
        step: how many steps are complete; 0 when nothing was resumed.
        extra: the plain data given to `save`.
        path: the checkpoint's folder, or None when nothing was resumed.
        metric: the value that ranked the checkpoint, or None.
    """

    step: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    metric: float | None = None


class Checkpoints:
    """The checkpoints of one run, in outputs/checkpoints.

    Keeps the last `keep_last` and, when `keep_best` is given, the best one whatever its age.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        keep_last: int | None = 3,
        keep_best: str | None = None,
        mode: Literal["max", "min"] = "max",
        wait_s: float = 600.0,
    ) -> None:
        """Name the folder and the rule; nothing is created before the first save.

        Args:
            output_dir: the script's output folder, as main() received it.
            keep_last: how many of the newest are kept, >= 1; None keeps all.
            keep_best: name of the metric whose best checkpoint is never deleted; `save` then needs
                `metric`.
            mode: whether the greatest ("max") or the smallest ("min") metric is best. Of equals the
                earlier is best; NaN never is.
            wait_s: how long ranks wait for each other in `save`.

        Raises:
            ValueError: keep_last or mode is none of these.
        """
        if keep_last is not None and keep_last < 1:
            msg = (
                f"keep_last is {keep_last!r}; keep at least 1 checkpoint, or all of them with None"
            )
            raise ValueError(msg)
        if mode not in ("max", "min"):
            msg = f"mode is {mode!r}; it must be 'max' or 'min'"
            raise ValueError(msg)
        self.output_dir = Path(output_dir).absolute()
        self.folder = self.output_dir / RunPaths(self.output_dir).checkpoints.name
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.mode = mode
        self.wait_s = wait_s
        self.rank, self.processes = ranks.rank(), ranks.size()
        if self.rank > 0:
            checkpoint_ranks.forget(self.folder, self.rank)

    def save(
        self,
        step: int,
        *,
        extra: Mapping[str, Any] | None = None,
        generators: Mapping[str, Generator] | None = None,
        metric: float | None = None,
        **objects: Stateful,
    ) -> Path:
        """Write one checkpoint durably, then delete those that the rule no longer keeps.

        Every rank has to call it at the same steps. Rank 0 writes its objects, extra and metric,
        and the random streams of all; the others go on as soon as it has those.

        Args:
            step: how many steps are complete, >= 0; a second save of a step replaces the first.
            extra: plain data or tensors to be handed back, such as {"best_loss": 0.1}.
            generators: random generators of torch or numpy, or random.Random, by name. The global
                streams of python, numpy and torch (CPU and CUDA) are always saved.
            metric: the value of `keep_best`.
            objects: models, optimizers, schedulers: anything with state_dict and load_state_dict,
                by name.

        Returns:
            The checkpoint's folder, which on ranks above 0 may still be on its way.

        Raises:
            TypeError: something in it could not be loaded again with weights_only=True; the place
                is named.
            ValueError: the step is no whole number >= 0, or `metric` and `keep_best` do not go
                together.
            OSError: the disk is full; earlier checkpoints are untouched.
            TimeoutError: a rank did not come to this step; it is named.
        """
        self._check_save(step, metric)
        state = {
            "objects": {
                name: checkpoint_state.describe(name, value) for name, value in objects.items()
            },
            "extra": checkpoint_state.plain(dict(extra or {}), "extra"),
        }
        streams = random_streams.capture(generators or {}, _torch_streams())
        target = checkpoint_files.step_folder(self.folder, step)
        if self.rank > 0:
            wait_s = self.wait_s
            checkpoint_ranks.hand_in(self.folder, step, self.rank, streams, wait_s=wait_s)
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(target, step, state, streams, metric)
        checkpoint_files.prune(self.folder, keep_last=self.keep_last, keep=self.best())
        return target

    def _write(
        self,
        target: Path,
        step: int,
        state: dict[str, Any],
        streams: dict[str, Any],
        metric: float | None,
    ) -> None:
        temporary = checkpoint_files.temporary_folder(target)
        try:
            temporary.mkdir()
            write_json(temporary / rng_file(0), streams)
            checkpoint_ranks.collect(
                self.folder, step, self.processes, temporary, wait_s=self.wait_s
            )
            torch.save(state, temporary / STATE)
            write_json(temporary / META, self._meta(step, metric, temporary))
            checkpoint_files.settle(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def resume(
        self,
        resume_from: Path | None,
        *,
        generators: Mapping[str, Generator] | None = None,
        **objects: Stateful,
    ) -> Checkpoint:
        """Continue from a checkpoint of this or another run, or begin at step 0.

        The checkpoints that the rule keeps up to that step are copied into this run, so that its
        folder ends up as that of an uninterrupted run and the best one so far is not forgotten.

        Args:
            resume_from: what main() received; None begins anew and changes nothing.
            generators: as given to `save`.
            objects: as given to `save`.

        Returns:
            The step to continue after, and the extra data.

        Raises:
            ResumeError: see `load`.
        """
        if resume_from is None:
            return Checkpoint()
        found = load(resume_from, generators=generators, partial=False, **objects)
        if self.rank == 0 and found.path is not None and found.path.parent != self.folder:
            self._adopt(found.path.parent, found.step)
        return found

    def best(self) -> Path | None:
        """Return the best checkpoint by `keep_best`, or None when none has that metric."""
        if self.keep_best is None:
            return None
        return checkpoint_files.best(self.folder, self.keep_best, self.mode)

    def newest(self) -> Path | None:
        """Return the newest valid checkpoint, or None."""
        return checkpoint_files.newest_valid(self.folder)

    def _check_save(self, step: int, metric: float | None) -> None:
        if type(step) is not int or step < 0:
            msg = f"step is {step!r}; it must be a whole number >= 0"
            raise ValueError(msg)
        if (metric is None) != (self.keep_best is None):
            msg = (
                f"metric is {metric!r} and keep_best is {self.keep_best!r}; "
                "keep_best names what metric measures, so give both or neither"
            )
            raise ValueError(msg)

    def _meta(self, step: int, metric: float | None, temporary: Path) -> dict[str, Any]:
        files = {
            name: {
                "size": (temporary / name).stat().st_size,
                "sha256": checkpoint_files.hash_file(temporary / name),
            }
            for name in checkpoint_files.payload(self.processes)
        }
        ranked = {"name": self.keep_best, "value": metric, "mode": self.mode}
        return {
            "version": VERSION,
            "step": step,
            "files": files,
            "metrics_position": metrics_files.position(self.output_dir),
            "metric": None if metric is None else {**ranked, "value": float(metric)},
            **({"processes": self.processes} if self.processes > 1 else {}),
        }

    def _adopt(self, parent: Path, step: int) -> None:
        known = [path for saved, path in checkpoint_files.saved_steps(parent) if saved <= step]
        wanted = known[: self.keep_last]
        if self.keep_best is not None:
            best = checkpoint_files.best(parent, self.keep_best, self.mode, until=step)
            wanted += [best] if best is not None and best not in wanted else []
        for path in wanted:
            if checkpoint_files.problem(path) is None:
                checkpoint_files.adopt(path, self.folder)


def load(
    checkpoint: Path,
    *,
    generators: Mapping[str, Generator] | None = None,
    partial: bool = False,
    **objects: Stateful,
) -> Checkpoint:
    """Restore a checkpoint: the objects given, their generators and every global random stream.

    Everything is checked before anything is changed. As in PyTorch, an optimizer takes its learning
    rate and other hyperparameters from the checkpoint; set them afterwards to change them.

    Args:
        checkpoint: the folder of one step, or a checkpoints folder, whose newest valid one is
            taken.
        generators: as given to `Checkpoints.save`.
        partial: restore only the objects named here and leave all random streams alone; for
            evaluation.
        objects: as given to `Checkpoints.save`, built as they were then.

    Returns:
        Step, extra data, path and metric. Tensors in `extra` are on the CPU.

    Raises:
        ResumeError: there is no valid checkpoint, or an object does not fit: a name is missing, a
            tensor has another name, shape or dtype, an optimizer other groups. Every such place is
            named. Or another number of processes saved it.
    """
    folder = _locate(Path(checkpoint).absolute())
    meta = checkpoint_files.read_meta(folder)
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    live = {name: checkpoint_state.describe(name, value) for name, value in objects.items()}
    wrong = checkpoint_check.mismatches(live, state["objects"], partial=partial)
    rank, processes = ranks.rank(), ranks.size()
    if not partial and meta.processes != processes:
        wrong.append(checkpoint_check.processes(processes, meta.processes))
    elif not partial:
        streams = read_json(folder / rng_file(rank))
        wrong += random_streams.check(streams, generators or {})
    checkpoint_check.refuse(folder, wrong)
    for name, value in objects.items():
        value.load_state_dict(checkpoint_state.saved_state(state["objects"][name]))
    if not partial:
        random_streams.restore(streams, generators or {}, _torch_streams())
    metric = meta.metric["value"] if meta.metric else None
    return Checkpoint(step=meta.step, extra=state["extra"], path=folder, metric=metric)


def _locate(path: Path) -> Path:
    if not (path / META).exists() and (newest := checkpoint_files.newest_valid(path)) is not None:
        return newest
    if (wrong := checkpoint_files.problem(path)) is not None:
        msg = f"{path} is not a valid checkpoint: {wrong}"
        raise ResumeError(msg)
    return path


def _torch_streams() -> dict[str, torch.Generator]:
    """Return torch's default generators by device; a CUDA nobody used has drawn nothing."""
    streams = {"cpu": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        streams |= {f"cuda:{i}": stream for i, stream in enumerate(torch.cuda.default_generators)}
    return streams
