"""Draw the points of a grid: from its file, in a process of its own, or from the [grid] table.

What a grid file imports or leaks ends with that process, and however it breaks, it breaks nothing
else. All points are checked and written before anything of the grid exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from engram import toml
from engram.config import IMPORT_ROOTS
from engram.errors import ConfigError, RunnerError, StoreError
from engram.grid import forked
from engram.grid.points import Points

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from engram.grid.search_table import SearchConfig
    from engram.grid.sweep import Joined
    from engram.grid.sweep_table import SweepConfig
    from engram.settings import ExperimentConfig, GridConfig

__all__ = ["MOST_POINTS", "Drawn", "Source", "draw"]

MOST_POINTS = 100_000
POLL_MS = 50
ADVICE = "nothing was started; what it printed last may say where"


class Source(NamedTuple):
    """What the points were drawn from."""

    kind: Literal["file", "table"]
    path: Path  # of the grid file, or of the experiment file
    data: bytes  # the grid file's bytes, or the [grid] table as TOML
    sha256: str  # of data


class Drawn(NamedTuple):
    """The points of a grid, and what its file says about running them; None where it does not."""

    source: Source
    points: Points
    devices: list[int | str] | None = None
    slots_per_device: int | None = None
    devices_per_run: int | None = None
    preload: tuple[str, ...] | None = None
    retries: int | None = None
    memory: str | None = None
    adaptive: bool = False
    """The file's `configurations` asks for what has finished: no point is drawn yet."""
    search: SearchConfig | SweepConfig | None = None
    """The table has its points chosen while they run: none is drawn yet."""
    sweep: Joined | None = None
    """The W&B sweep that chooses them."""
    remark: str | None = None
    """What the record shall say of how they came about."""

    @property
    def grows(self) -> bool:
        """Whether points are chosen while others run."""
        return self.adaptive or self.search is not None


def draw(
    grid_file: Path | None, config: ExperimentConfig, base: dict[str, Any], into: Path
) -> Drawn:
    """Draw and check all points.

    Args:
        grid_file: the Python file that defines them; None means the table [grid] of `config`.
        config: the experiment.
        base: its parameters, left as they are.
        into: where the points are written; its folder exists.

    Raises:
        ConfigError: a point or a setting is not fit, there is no point, or there are too many; the
            message says which and why. Nothing is left behind.
        StoreError: the points cannot be written.
        KeyboardInterrupt: the user interrupted the drawing.
    """
    into = into.absolute()
    try:
        if grid_file is None:
            return _draw_table(config, base, into)
        return _draw_file(grid_file.absolute(), config, base, into)
    except BaseException:
        into.unlink(missing_ok=True)
        raise


def _draw_table(config: ExperimentConfig, base: dict[str, Any], into: Path) -> Drawn:
    from engram.grid import table

    grid, where = config.grid, str(config.source)
    parameters = str(config.parameters_file or "the parameters (no parameters_file is named)")
    if grid is None or not (grid.has_points or grid.search):
        msg = f"{where}: no [grid] table says what the points are: write [grid.product], [grid.zip]"
        raise ConfigError(f"{msg}, [[grid.points]], [grid.random], repeats = N or search")
    data = toml.dumps({"grid": grid.table}).encode()
    source = Source("table", _file(config), data, hashlib.sha256(data).hexdigest())
    if grid.search is not None:
        from engram.grid import search_table

        search = search_table.tried(grid, base, where=where, parameters=parameters)
        return Drawn(source, Points.create(into), search=search)
    found = table.configurations(grid, base, most=_most(grid), where=where, parameters=parameters)
    points = Points.create(into)
    _add_all(found, points, most=_most(grid), where=where)
    return Drawn(source, points)


def _file(config: ExperimentConfig) -> Path:
    return config.source or config.root


def _most(grid: GridConfig | None) -> int:
    return MOST_POINTS if grid is None or grid.most is None else grid.most


def _add_all(
    pairs: Iterable[tuple[object, object]], points: Points, *, most: int, where: str
) -> None:
    """Check and write points, one at a time.

    Raises:
        ConfigError: one is not fit, there is none, or there are too many.
    """
    for parameters, name in pairs:
        if len(points) == most:
            msg = f"{where}: more than {most} points: does it ever end? If that is meant,"
            raise ConfigError(f"{msg} set MAX_POINTS in the grid file, or most in [grid]")
        try:
            points.append(parameters, name)
        except ConfigError as error:
            msg = f"{where}: {error}"
            raise ConfigError(msg) from error
    if not len(points):
        msg = f"{where}: there is no point: configurations(base) yields (parameters, name) for each"
        raise ConfigError(msg)


def _draw_file(path: Path, config: ExperimentConfig, base: dict[str, Any], into: Path) -> Drawn:
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read the grid file {str(path)!r}: {error.strerror or error}"
        raise ConfigError(msg) from error
    told = _told_by_child(_Job(path, data, config, base, into))
    if "interrupted" in told:
        raise KeyboardInterrupt
    if "refused" in told:
        raise (StoreError if told["kind"] == "StoreError" else ConfigError)(told["refused"])
    said = told["constants"]
    return Drawn(
        Source("file", path, data, hashlib.sha256(data).hexdigest()),
        Points(into),
        devices=said["DEVICES"],
        slots_per_device=said["SLOTS_PER_DEVICE"],
        devices_per_run=said["DEVICES_PER_RUN"],
        preload=None if said["PRELOAD"] is None else tuple(said["PRELOAD"]),
        retries=said["MAX_RETRIES"],
        memory=said["MEMORY"],
        adaptive=told["adaptive"],
    )


class _Job(NamedTuple):
    """What the child has to do."""

    path: Path
    data: bytes
    config: ExperimentConfig
    base: dict[str, Any]
    into: Path


def _told_by_child(job: _Job) -> dict[str, Any]:
    """Fork a process that draws; what it has to say at its end."""
    _flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(job, writing, parent)
    os.close(writing)
    try:
        data, status = _listen(pid, reading)
    except BaseException:  # Ctrl-C, a signal
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    finally:
        os.close(reading)
    with contextlib.suppress(ValueError):
        return dict(json.loads(data))
    raise ConfigError(f"{str(job.path)!r} {_ending(status)} while its points were drawn: {ADVICE}")


def _listen(pid: int, reading: int) -> tuple[bytes, int]:
    """What the child writes until it has ended, and its exit status.

    A process that the user's code has left behind may hold the pipe open: that ends nothing.
    """
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    ended, status = 0, 0
    while True:
        if poll.poll(0 if ended else POLL_MS):
            part = os.read(reading, 1 << 16)
            parts.append(part)
            if part:
                continue
            if not ended:
                ended, status = os.waitpid(pid, 0)
        if ended:
            return b"".join(parts), status
        ended, status = os.waitpid(pid, os.WNOHANG)


def _ending(status: int) -> str:
    """How a process ended that did not say so itself."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        why = {signal.SIGKILL: " (out of memory, perhaps)", signal.SIGSEGV: " (a crash)"}
        return f"was ended by {name}{why.get(number, '')}"  # type: ignore[call-overload]
    return f"ended its process with exit code {os.waitstatus_to_exitcode(status)} (os._exit?)"


def _be_child(job: _Job, writing: int, parent: int) -> NoReturn:
    """Draw, tell the parent how that went, and end."""
    me = os.getpid()
    told: dict[str, Any] = {}
    try:
        forked.settle(parent, writing, *_printed())
        told = _drawing(job)
    except KeyboardInterrupt:
        told = {"interrupted": True}
    except RunnerError as error:
        told = {"refused": str(error), "kind": type(error).__name__}
    except BaseException:
        import traceback

        told = {"refused": f"{str(job.path)!r}: {traceback.format_exc()}", "kind": "bug"}
    finally:
        with contextlib.suppress(BaseException):
            if os.getpid() == me:  # a process that the user's code forked may fall through to here
                _flush()
                _tell(writing, told)
        os._exit(0)


def _printed() -> Iterator[int]:
    """The descriptors that are printed to."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may be anything
            yield stream.fileno()


def _drawing(job: _Job) -> dict[str, Any]:
    """Execute the grid file and write its points."""
    from engram.grid import grid_file

    names = job.config.project_paths or IMPORT_ROOTS
    roots = [path for path in (job.config.root / name for name in names) if path.is_dir()]
    points = Points.create(job.into)
    found = grid_file.load(job.path, job.data, roots)
    if not found.adaptive:
        most = found.constants.MAX_POINTS or _most(job.config.grid)
        pairs = grid_file.pairs(found, job.base)
        _add_all(pairs, points, most=most, where=str(job.path))
    return {"constants": found.constants._asdict(), "adaptive": found.adaptive}


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _tell(writing: int, told: dict[str, Any]) -> None:
    data = memoryview(json.dumps(told).encode())
    while data:
        data = data[os.write(writing, data) :]
