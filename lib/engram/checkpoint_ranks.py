"""How the ranks of a run save one checkpoint together: rank 0 writes it, the others hand theirs in.

    checkpoints/.step-00000003.rank1.json    random streams of rank 1, until rank 0 takes them

Every rank calls `save` at the same steps. A rank above 0 writes its file and waits until rank 0 has
moved it into the checkpoint that it makes; nobody waits for the rest. Standard library only.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engram.checkpoint_files import rng_file, step_folder
from engram.files import write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOK_EVERY_S = 0.005
HINT = "every rank has to call save() at the same steps"

__all__ = ["collect", "forget", "hand_in"]


def hand_in(
    checkpoints: Path, step: int, rank: int, streams: dict[str, Any], *, wait_s: float
) -> None:
    """Give rank 0 the random streams of this rank, and wait until it has taken them.

    Args:
        checkpoints: the run's checkpoints folder.
        step: as every rank gives it to `save`.
        rank: this one's, > 0.
        streams: what random_streams.capture returned.
        wait_s: how long rank 0 may take to come to this step.

    Raises:
        TimeoutError: it did not.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    path = _handed(checkpoints, step, rank)
    write_json(path, streams)
    if not _until(lambda: not path.exists(), wait_s):
        path.unlink(missing_ok=True)
        msg = f"rank 0 did not save step {step} within {wait_s:g} s of rank {rank}: {HINT}"
        raise TimeoutError(msg)


def collect(checkpoints: Path, step: int, size: int, target: Path, *, wait_s: float) -> None:
    """Move the random streams of all other ranks into a checkpoint that rank 0 is making.

    Args:
        checkpoints: the run's checkpoints folder.
        step: as every rank gives it to `save`.
        size: how many ranks there are.
        target: the folder of the unfinished checkpoint.
        wait_s: how long the others may take to come to this step.

    Raises:
        TimeoutError: some did not; they are named.
    """
    missing = {rank: _handed(checkpoints, step, rank) for rank in range(1, size)}

    def all_here() -> bool:
        for rank, path in list(missing.items()):
            if path.exists():
                path.rename(target / rng_file(rank))
                del missing[rank]
        return not missing

    if not _until(all_here, wait_s):
        who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        msg = f"{who} did not save step {step} within {wait_s:g} s of rank 0: {HINT}"
        raise TimeoutError(msg)


def forget(checkpoints: Path, rank: int) -> None:
    """Remove what a killed process of this rank had handed in, before it is taken for news."""
    for path in checkpoints.glob(f"*.rank{rank}.json*"):  # half-written ones too
        path.unlink(missing_ok=True)


def _handed(checkpoints: Path, step: int, rank: int) -> Path:
    return checkpoints / f".{step_folder(checkpoints, step).name}.rank{rank}.json"


def _until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Wait for a condition; a network file system shows other processes' files late."""
    end = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_EVERY_S)
    return True
