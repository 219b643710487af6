"""Log numbers from an experiment script: one line a step in metrics.jsonl, W&B when configured.

    from engram import metrics

    with metrics.open(output_dir, wandb_config=wandb_config) as log:
        for step in range(steps):
            log(step=step, loss=loss, **{"validation/accuracy": accuracy})

Works inside a run and in any other folder (see metrics_files.place for where the files lie). Of
several processes (ranks) rank 0 writes; what the others log is checked and goes nowhere.
"""

from __future__ import annotations

import csv
import io
import json
import numbers
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from engram import metrics_files, ranks, wandb_log
from engram.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

Scalar = float | int | str | bool

__all__ = ["MetricsLog", "Scalar", "open", "read"]


def open(  # noqa: A001
    output_dir: Path, *, wandb_config: Mapping[str, Any] | None = None
) -> MetricsLog:
    """Open the metrics of a run for appending.

    Args:
        output_dir: the script's output folder, as main() received it.
        wandb_config: the table main() received; None means no W&B.

    Returns:
        A log to be called with values, and to be used as a context manager.
    """
    return MetricsLog(Path(output_dir), wandb_config=wandb_config)


class MetricsLog:
    """An open metrics.jsonl.

    Steps never go backwards: several calls may share a step (training, then validation), but a
    smaller step than the last one is an error, because curves and resuming both read the file as
    ordered.
    """

    def __init__(self, output_dir: Path, *, wandb_config: Mapping[str, Any] | None = None) -> None:
        """Open the files; see `open`."""
        self.place = metrics_files.place(output_dir)
        self._lock = threading.Lock()
        self._last_step: int | None = None
        self._lines: _Lines | None = None
        self._times: _Lines | None = None
        self._wandb: wandb_log.WandbLog | None = None
        if ranks.rank() == 0:
            self._open(wandb_config)

    def _open(self, wandb_config: Mapping[str, Any] | None) -> None:
        self.place.metrics.parent.mkdir(parents=True, exist_ok=True)
        self._lines = _Lines(self.place.metrics)
        self._times = _Lines(self.place.times)
        self._last_step = _last_step(self.place.metrics)
        if wandb_config is not None:
            self._wandb = wandb_log.start(self.place, wandb_config)

    def __call__(
        self,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        step: int,
        **named: Any,  # noqa: ANN401
    ) -> None:
        """Append one line.

        Args:
            values: names and values, for names that are no Python identifiers ("train/loss"); a
                nested mapping {"train": {"loss": 1.0}} is written as "train/loss".
            step: whole number >= 0, not smaller than the last one.
            named: more names and values.

        Raises:
            TypeError: a value is no number, string or bool (scalars of numpy and torch are taken as
                numbers).
            ValueError: the step goes backwards, or a name is given twice.
            OSError: the disk is full; no part of the line is left behind.
        """
        with self._lock:
            row = _row(step, self._last_step, values or {}, named, self.place.metrics)
            if self._lines is not None and self._times is not None:
                start = self._lines.append(json.dumps(row, ensure_ascii=False))
                self._times.append(json.dumps({"at": start, "time": datetime.now(UTC).isoformat()}))
            self._last_step = row["step"]
            if self._wandb is not None:
                self._wandb.log(row)

    def to_csv(self, path: Path | None = None) -> Path:
        """Write all lines as one table: a column a name, by first appearance, empty where absent.

        Args:
            path: the file to write, default metrics.csv in the output folder.

        Returns:
            The file written; rank 0 writes it.
        """
        path = self.place.csv if path is None else Path(path)
        if self._lines is None:
            return path
        rows = list(read(self.place.metrics))
        text = io.StringIO(newline="")
        table = csv.DictWriter(
            text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)
        write_atomic(path, text.getvalue().encode())
        return path

    def close(self, *, failed: bool = False) -> None:
        """Close the files and finish the W&B run.

        Args:
            failed: whether the script ended by an exception; W&B shows such a run as failed.
        """
        for lines in (self._lines, self._times):
            if lines is not None:
                lines.close()
        if self._wandb is not None:
            self._wandb.finish(failed=failed)
            self._wandb = None

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log; an exception passes through."""
        self.close(failed=kind is not None)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read a metrics.jsonl, one dict a line; a torn last line of a killed run is left out."""
    with Path(path).open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)


class _Lines:
    """A file that only ever grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._drop_torn_line()

    def append(self, text: str) -> int:
        """Append a line and return the byte it starts at; on failure the file is as it was."""
        if self._descriptor < 0:
            msg = f"{self._path} is closed; log inside the `with` block"
            raise ValueError(msg)
        start = os.fstat(self._descriptor).st_size
        data = memoryview(f"{text}\n".encode(errors="surrogatepass"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BaseException:
            os.ftruncate(self._descriptor, start)
            raise
        return start

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _drop_torn_line(self) -> None:
        size = os.fstat(self._descriptor).st_size
        end = size
        while end and os.pread(self._descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end != size:
            os.ftruncate(self._descriptor, end)


def _last_step(path: Path) -> int | None:
    last: int | None = None
    for row in read(path):
        last = row["step"]
    return last


def _row(
    step: Any,  # noqa: ANN401
    last: int | None,
    values: Mapping[str, Any],
    named: Mapping[str, Any],
    path: Path,
) -> dict[str, Any]:
    step = _plain("step", step)
    if type(step) is not int or step < 0:
        msg = f"step is {step!r}; it must be a whole number >= 0"
        raise TypeError(msg) if type(step) is not int else ValueError(msg)
    if last is not None and step < last:
        msg = (
            f"step {step} follows step {last} in {path}; steps never go backwards. "
            "To begin anew, log to another folder"
        )
        raise ValueError(msg)
    row: dict[str, Any] = {"step": step}
    for name, value in (*_flat(values, ""), *_flat(named, "")):
        if name in row:
            msg = f"{name!r} is given twice in one line of {path}"
            raise ValueError(msg)
        row[name] = _plain(name, value)
    return row


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if not isinstance(name, str) or not name:
            msg = f"metric name {name!r} is not a string with at least one character"
            raise TypeError(msg)
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _plain(name: str, value: Any) -> Scalar:  # noqa: ANN401
    """Return the Python scalar that a value of Python, numpy or torch stands for."""
    if hasattr(value, "item") and hasattr(value, "dtype"):
        shape = tuple(value.shape)
        if any(extent != 1 for extent in shape):
            msg = f"{name!r} has shape {shape}; metrics are single numbers: log a mean or one entry"
            raise TypeError(msg)
        value = value.item()
    if isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    kind = type(value).__name__
    msg = f"{name!r} is {value!r} of type {kind}; metrics are numbers, strings or bools"
    raise TypeError(msg)
