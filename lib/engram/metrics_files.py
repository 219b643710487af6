"""Where metrics lie, and how a resumed run inherits them; standard library only.

metrics.jsonl holds one JSON object a line: "step" first, then the values in the order they were
given. It holds no wall times, so that a rerun or a resumed run writes the same bytes.
metrics_times.jsonl holds, for each of those lines, the byte it starts at ("at") and when it was
written ("time", UTC). NaN and infinities are written as NaN, Infinity and -Infinity, as Python's
json reads and writes them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from engram.errors import ResumeError
from engram.files import write_atomic
from engram.paths import RunPaths


class MetricsPlace(NamedTuple):
    """The files that logging writes.

    Attributes:
        metrics: one line a call.
        times: the wall time of each line.
        csv: the table made on request.
        wandb_record: id, mode and address of the W&B run.
        wandb_parent: the folder in which W&B makes its own folder `wandb`.
        run: the run these files belong to, or None outside the runner.
    """

    metrics: Path
    times: Path
    csv: Path
    wandb_record: Path
    wandb_parent: Path
    run: RunPaths | None


def place(output_dir: Path) -> MetricsPlace:
    """Find the metrics files that belong to a script's output folder.

    Inside a run they lie beside outputs/, where the runner looks for them. Anywhere else (a
    notebook, a test) they lie in the output folder itself: engram writes nothing into a folder it
    was not given.

    Args:
        output_dir: the folder the script may write to.
    """
    output_dir = Path(output_dir).absolute()
    run = RunPaths(output_dir.parent)
    if output_dir == run.outputs and run.provenance.is_dir():
        return MetricsPlace(
            metrics=run.metrics,
            times=run.metrics_times,
            csv=output_dir / "metrics.csv",
            wandb_record=run.wandb,
            wandb_parent=run.provenance,
            run=run,
        )
    return MetricsPlace(
        metrics=output_dir / run.metrics.name,
        times=output_dir / run.metrics_times.name,
        csv=output_dir / "metrics.csv",
        wandb_record=output_dir / run.wandb.name,
        wandb_parent=output_dir,
        run=None,
    )


def position(output_dir: Path) -> int:
    """Return how many bytes of metrics are written, after forcing them to the disk.

    Called by engram.checkpoint at each save: the lines a checkpoint counts on must outlive it.
    """
    try:
        descriptor = os.open(place(output_dir).metrics, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def copy_until(parent: RunPaths, child: RunPaths, position: int) -> None:
    """Give a resumed run the metrics of its parent up to a checkpoint.

    Args:
        parent: the run that is continued; it is only read.
        child: the new run; its provenance folder exists.
        position: byte of the parent's metrics.jsonl at the checkpoint's save.

    Raises:
        ResumeError: the parent's metrics.jsonl is shorter, or has no line end there.
    """
    head = parent.metrics.read_bytes()[:position] if parent.metrics.exists() else b""
    if len(head) != position or (head and not head.endswith(b"\n")):
        msg = (
            f"{parent.metrics} has no line that ends at byte {position}, where the checkpoint "
            "was saved; it was altered since"
        )
        raise ResumeError(msg)
    write_atomic(child.metrics, head)
    if parent.metrics_times.exists():
        write_atomic(child.metrics_times, _times_until(parent.metrics_times, position))


def _times_until(times: Path, position: int) -> bytes:
    kept = []
    for line in times.read_bytes().splitlines(keepends=True):
        # A killed process leaves at most one torn line, the last, which belongs to no whole line of
        # metrics.
        if not line.endswith(b"\n") or json.loads(line)["at"] >= position:
            break
        kept.append(line)
    return b"".join(kept)
