"""Save and restore a training script: tensors, optimizers, data order, random streams.

    from engram.checkpoint import Checkpoints

    checkpoints = Checkpoints(output_dir, keep_last=3, keep_best="validation_accuracy")
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    start = checkpoints.resume(resume_from, **state, generators={"shuffle": shuffle})
    for epoch in range(start.step + 1, epochs + 1):
        ...
        checkpoints.save(epoch, **state, generators={"shuffle": shuffle}, metric=accuracy)

Hand `shuffle` to the DataLoader (generator=shuffle) and save between two passes over it: then a
resumed run draws the same batches as an uninterrupted one. The layout on disk is drawn in
checkpoint_files.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from engram import checkpoint_check, checkpoint_files, metrics_files, random_streams
from engram.checkpoint_files import META, PAYLOAD, RNG, STATE, VERSION
from engram.errors import ResumeError
from engram.files import read_json, write_json
from engram.paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engram.random_streams import Generator

__all__ = ["Checkpoint", "Checkpoints", "load"]


class Stateful(Protocol):
    """What can be saved: modules, optimizers, schedulers, a script's own classes."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain data."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:  # noqa: ANN401
        """Take over such a state."""


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
    ) -> None:
        """Name the folder and the rule; nothing is created before the first save.

        Args:
            output_dir: the script's output folder, as main() received it.
            keep_last: how many of the newest are kept, >= 1; None keeps all.
            keep_best: name of the metric whose best checkpoint is never deleted; `save` then needs
                `metric`.
            mode: whether the greatest ("max") or the smallest ("min") metric is best. Of equals the
                earlier is best; NaN never is.

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

        Args:
            step: how many steps are complete, >= 0; a second save of a step replaces the first.
            extra: plain data or tensors to be handed back, such as {"best_loss": 0.1}.
            generators: random generators of torch or numpy, or random.Random, by name. The global
                streams of python, numpy and torch (CPU and CUDA) are always saved.
            metric: the value of `keep_best`.
            objects: models, optimizers, schedulers: anything with state_dict and load_state_dict,
                by name.

        Returns:
            The checkpoint's folder.

        Raises:
            TypeError: something in it could not be loaded again with weights_only=True; the place
                is named.
            ValueError: the step is no whole number >= 0, or `metric` and `keep_best` do not go
                together.
            OSError: the disk is full; earlier checkpoints are untouched.
        """
        self._check_save(step, metric)
        state = {
            "objects": {name: _collect(name, value) for name, value in objects.items()},
            "extra": _plain(dict(extra or {}), "extra"),
        }
        streams = random_streams.capture(generators or {}, _torch_streams())
        self.folder.mkdir(parents=True, exist_ok=True)
        target = checkpoint_files.step_folder(self.folder, step)
        temporary = checkpoint_files.temporary_folder(target)
        try:
            temporary.mkdir()
            torch.save(state, temporary / STATE)
            write_json(temporary / RNG, streams)
            write_json(temporary / META, self._meta(step, metric, temporary))
            checkpoint_files.settle(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        checkpoint_files.prune(self.folder, keep_last=self.keep_last, keep=self.best())
        return target

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
        if found.path is not None and found.path.parent != self.folder:
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
            for name in PAYLOAD
        }
        ranked = {"name": self.keep_best, "value": metric, "mode": self.mode}
        return {
            "version": VERSION,
            "step": step,
            "files": files,
            "metrics_position": metrics_files.position(self.output_dir),
            "metric": None if metric is None else {**ranked, "value": float(metric)},
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
            named.
    """
    folder = _locate(Path(checkpoint).absolute())
    meta = checkpoint_files.read_meta(folder)
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    streams = read_json(folder / RNG)
    live = {name: _collect(name, value) for name, value in objects.items()}
    wrong = checkpoint_check.mismatches(live, state["objects"], partial=partial)
    if not partial:
        wrong += random_streams.check(streams, generators or {})
    checkpoint_check.refuse(folder, wrong)
    for name, value in objects.items():
        value.load_state_dict(_saved_state(state["objects"][name]))
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


def _collect(name: str, value: Stateful) -> dict[str, Any]:
    """Describe one object: its state, and what tells whether another object fits it."""
    if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
        kind = type(value).__name__
        msg = f"{name} is a {kind}, which has no state_dict and load_state_dict; use extra"
        raise TypeError(msg)
    state = value.state_dict()
    described: dict[str, Any] = {
        "kind": "object",
        "class": type(value).__name__,
        "state": _plain(dict(state), name),
    }
    if isinstance(value, torch.nn.Module):
        metadata = _plain(dict(getattr(state, "_metadata", {})), f"{name} metadata")
        described.update(kind="module", metadata=metadata)
    elif isinstance(value, torch.optim.Optimizer):
        described.update(kind="optimizer", parameters=_group_shapes(value))
    return described


def _group_shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    """Return all parameters' shapes by group; a new optimizer has these, but no state yet."""
    return [
        [list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups
    ]


def _saved_state(described: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if described["kind"] != "module":
        return dict(described["state"])
    state: Any = OrderedDict(described["state"])
    # Modules find the version of their own layout here; see torch.nn.Module._load_from_state_dict.
    state._metadata = OrderedDict(described["metadata"])  # noqa: SLF001
    return state


def _torch_streams() -> dict[str, torch.Generator]:
    """Return torch's default generators by device; a CUDA nobody used has drawn nothing."""
    streams = {"cpu": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        streams |= {f"cuda:{i}": stream for i, stream in enumerate(torch.cuda.default_generators)}
    return streams


def _plain(value: Any, where: str) -> Any:  # noqa: ANN401
    """Rebuild a state from what weights_only=True loads; equal states become equal bytes.

    Equal strings become one object and containers become new ones, since pickle writes a second
    mention of an object as a reference: a resumed run would otherwise write other bytes than an
    uninterrupted one.
    """
    if isinstance(value, torch.Tensor):
        return _own_storage(value.detach())
    if isinstance(value, dict) and type(value) in (dict, OrderedDict, Counter):
        return type(value)(
            {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        )
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    return _plain_scalar(value, where)


def _plain_scalar(value: Any, where: str) -> Any:  # noqa: ANN401
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(
        value, bool | bytes | complex | torch.Size | torch.dtype | torch.device
    ):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    msg = (
        f"{where} is a {type(value).__name__}, which weights_only=True would not load; "
        "save numbers, strings, lists, tuples, dicts and tensors"
    )
    raise TypeError(msg)


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor, copied when all of a larger storage would be saved with it."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
