"""The folders that checkpoints are kept in; standard library only, for the runner.

    checkpoints/step-00000003/
        state.pt          tensors and plain data, loadable with weights_only=True
        rng.json          random number streams: python, numpy, torch, CUDA, named generators
        rng.rank1.json    those of another rank, where the run has several processes
        meta.json         step, size and sha256 of the others, metrics position, metric

A checkpoint is written under a name that starts with a dot, forced to the disk, and renamed:
whatever ends the process, a folder called step-* is either whole or found out by its hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
STATE = "state.pt"
RNG = "rng.json"
META = "meta.json"

# A folder that is being replaced by a new save of the same step keeps this suffix until the new one
# is there.
REPLACED = ".replaced"
_NAME = re.compile(rf"step-(\d{{8,}})({re.escape(REPLACED)})?")


@dataclass(frozen=True)
class Meta:
    """What meta.json says.

    Attributes:
        step: how many steps were complete at the save, >= 0.
        files: {name: {"size": bytes, "sha256": hex}} of the other files.
        metrics_position: bytes of metrics.jsonl that belong to this and earlier steps.
        metric: {"name", "value", "mode"} that ranks the checkpoint, or None.
        processes: how many ranks saved it together.
    """

    step: int
    files: dict[str, dict[str, Any]]
    metrics_position: int
    metric: dict[str, Any] | None
    processes: int = 1


def rng_file(rank: int) -> str:
    """Return the name of the file that holds the random streams of one rank."""
    return RNG if rank == 0 else f"rng.rank{rank}.json"


def payload(processes: int) -> list[str]:
    """Return the names of all files of a checkpoint but meta.json."""
    return [STATE, *map(rng_file, range(processes))]


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of one step; the digits make names sort as numbers do."""
    return checkpoints / f"step-{step:08d}"


def saved_steps(checkpoints: Path) -> list[tuple[int, Path]]:
    """List the finished checkpoints, valid or not, newest first.

    Args:
        checkpoints: the folder that holds them; it may be absent.

    Returns:
        (step, folder) pairs by falling step; of two folders of one step the replaced one comes
        last.
    """
    if not checkpoints.is_dir():
        return []
    found = [
        (int(match[1]), match[2] is None, path)
        for path in checkpoints.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    return [(step, path) for step, _, path in sorted(found, reverse=True)]


def read_meta(checkpoint: Path) -> Meta:
    """Read meta.json.

    Args:
        checkpoint: the folder of one step.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not the meta.json of a checkpoint, or of a version this engram does not
            know.
    """
    data = json.loads((checkpoint / META).read_bytes())
    version = data.get("version") if isinstance(data, dict) else None
    if version != VERSION:
        msg = f"version {version!r} of {checkpoint / META} is not known; {VERSION} is"
        raise ValueError(msg)
    try:
        processes = data.get("processes", 1)
        return Meta(
            step=data["step"],
            files={name: data["files"][name] for name in payload(processes)},
            metrics_position=data["metrics_position"],
            metric=data["metric"],
            processes=processes,
        )
    except (KeyError, TypeError) as error:
        msg = f"{checkpoint / META} has no {error}"
        raise ValueError(msg) from error


def problem(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint.

    Args:
        checkpoint: the folder of one step.

    Returns:
        One sentence that names the file, or None for a checkpoint that is valid.
    """
    match = _NAME.fullmatch(checkpoint.name)
    try:
        meta = read_meta(checkpoint)
        if match and int(match[1]) != meta.step:
            return f"{META} says step {meta.step!r}, its folder {checkpoint.name!r}"
        for name, expected in meta.files.items():
            found = hash_file(checkpoint / name)
            if found != expected["sha256"]:
                return f"{name} has sha256 {found}, {META} says {expected['sha256']}"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read: {error}"
    return None


def newest_valid(checkpoints: Path) -> Path | None:
    """Find the checkpoint to continue from.

    Args:
        checkpoints: a run's checkpoints folder; it may be absent.

    Returns:
        The valid checkpoint with the greatest step, or None when there is none.
    """
    return next((path for _, path in saved_steps(checkpoints) if problem(path) is None), None)


def best(checkpoints: Path, metric: str, mode: str, *, until: int | None = None) -> Path | None:
    """Find the best checkpoint.

    Args:
        checkpoints: a run's checkpoints folder.
        metric: the name it must be ranked by; checkpoints ranked by another are passed over.
        mode: "max" or "min". Of equals the earlier is best; NaN never is.
        until: the last step that counts, or None.

    Returns:
        The folder, or None when no checkpoint has that metric.
    """
    ranked = []
    for step, path in saved_steps(checkpoints):
        value = _metric(path, metric)
        if value is not None and value == value and (until is None or step <= until):
            ranked.append((value if mode == "max" else -value, -step, path))
    return max(ranked)[2] if ranked else None


def _metric(checkpoint: Path, name: str) -> float | None:
    try:
        found = read_meta(checkpoint).metric
    except (OSError, ValueError):
        return None
    return found["value"] if found and found["name"] == name else None


def temporary_folder(target: Path) -> Path:
    """Return the name under which a checkpoint is written before it counts."""
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


def settle(temporary: Path, target: Path) -> None:
    """Force a written checkpoint to the disk and give it its name, in place of an older save.

    At every moment in between, the checkpoints that were valid before, or the new one, are valid.

    Raises:
        OSError: the disk refuses.
    """
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    replaced = target.with_name(target.name + REPLACED)
    if target.exists():
        _delete(replaced)
        target.rename(replaced)
    temporary.rename(target)
    _sync(target.parent)
    _delete(replaced)


def adopt(source: Path, checkpoints: Path) -> None:
    """Copy a valid checkpoint of another run, unless this run has one of that step."""
    target = step_folder(checkpoints, read_meta(source).step)
    if target.exists():
        return
    checkpoints.mkdir(parents=True, exist_ok=True)
    temporary = temporary_folder(target)
    try:
        shutil.copytree(source, temporary)
        settle(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def prune(checkpoints: Path, *, keep_last: int | None, keep: Path | None) -> None:
    """Delete old checkpoints and what a killed writer left.

    Args:
        checkpoints: a run's checkpoints folder.
        keep_last: how many of the newest stay; None keeps all.
        keep: one more that stays, whatever its age.
    """
    for leftover in checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step, path in saved_steps(checkpoints):
        if path.name.endswith(REPLACED) and step_folder(checkpoints, step).exists():
            _delete(path)
    if keep_last is None:
        return
    for _, path in saved_steps(checkpoints)[keep_last:]:
        if path != keep:
            _delete(path)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, if it is there.

    It is renamed first: half a deleted folder must not look like a damaged checkpoint.
    """
    doomed = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.deleted.tmp")
    if checkpoint.exists():
        checkpoint.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(checkpoint: Path) -> str:
    """Return the sha256 of meta.json, which holds the hashes of all the rest."""
    return hash_file(checkpoint / META)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
