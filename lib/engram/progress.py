"""Progress of long work: a bar on a terminal, plain lines in a log.

    from engram import progress

    for batch in progress.track(loader, "epoch 1"):
        ...
    with progress.bar("simulate", total=1000) as bar:
        bar.advance(10)

A bar is drawn when standard error is a terminal, or when the runner copies it to one
(ENGRAM_TERMINAL holds that terminal's width) and rich can be imported. Otherwise the first and the
last step, and at most one every 10 s, are printed as lines. Nothing is drawn by a thread: a script
may fork at any time.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, suppress
from operator import length_hint
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1

__all__ = ["Bar", "bar", "track"]


def track(iterable: Iterable[T], description: str = "", *, total: int | None = None) -> Iterator[T]:
    """Yield the items of `iterable` and show how many are done.

    Args:
        iterable: any iterable; it is not read ahead.
        description: what is being done, such as "epoch 1".
        total: number of items; asked of the iterable when absent, and unknown when it does not say.
    """
    if total is None:
        total = length_hint(iterable, -1)
        total = None if total < 0 else total
    with bar(description, total=total) as shown:
        for item in iterable:
            yield item
            shown.advance()


@contextmanager
def bar(description: str = "", *, total: int | None = None) -> Iterator[Bar]:
    """Show a bar that is advanced by hand.

    Args:
        description: what is being done.
        total: number of steps, or None when it is not known.
    """
    shown = Bar(description, total)
    try:
        yield shown
    finally:
        shown.close()


class Bar:
    """How far one piece of work is; `done` counts its steps."""

    def __init__(self, description: str, total: int | None) -> None:
        """Show the bar; see `bar`."""
        self.description = description
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        width = _terminal_width()
        self._display: _Display = _Lines() if width is None else _terminal(width)
        self._display.open(self)
        self._due = self._started

    def advance(self, steps: int = 1) -> None:
        """Count steps as done; it costs well below a microsecond unless something is drawn."""
        self.done += steps
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._display.every_s
            self._display.draw(self)

    def close(self) -> None:
        """Show the final count."""
        self._display.close(self)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the bar was made."""
        return time.monotonic() - self._started


class _Display(Protocol):
    every_s: float

    def open(self, bar: Bar) -> None: ...

    def draw(self, bar: Bar) -> None: ...

    def close(self, bar: Bar) -> None: ...


class _StandardError:
    """Standard error as it is at each write; closed, absent or gone, it is no reason to fail."""

    @property
    def encoding(self) -> str:
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()


class _Lines:
    """Plain lines on standard error."""

    every_s = LINE_EVERY_S

    def __init__(self) -> None:
        self._shown = -1

    def open(self, bar: Bar) -> None:
        """Print nothing before the first step."""

    def draw(self, bar: Bar) -> None:
        self._shown = bar.done
        stream = _StandardError()
        stream.write(f"{describe(bar)}\n")
        stream.flush()

    def close(self, bar: Bar) -> None:
        if bar.done != self._shown:
            self.draw(bar)


class _Rich:
    """A bar drawn by rich; nested bars share one display, since a terminal has one bottom."""

    every_s = DRAW_EVERY_S
    _progress: Any = None
    _open = 0

    def __init__(self, width: int) -> None:
        self._width = width
        self._task: Any = None

    def open(self, bar: Bar) -> None:
        if _Rich._progress is None:
            _Rich._progress = _make_rich(self._width)
            _Rich._progress.start()
        _Rich._open += 1
        self._task = _Rich._progress.add_task(bar.description, total=bar.total)
        self.draw(bar)

    def draw(self, bar: Bar) -> None:
        _Rich._progress.update(self._task, completed=bar.done, refresh=True)

    def close(self, bar: Bar) -> None:
        self.draw(bar)
        _Rich._open -= 1
        if _Rich._open == 0:
            progress, _Rich._progress = _Rich._progress, None
            progress.stop()


def describe(bar: Bar) -> str:
    """Return one line such as "epoch 1: 40/100 (40 %), 0:12 elapsed, 0:18 left"."""
    of = f"/{bar.total} ({100 * bar.done // bar.total} %)" if bar.total else ""
    line = f"{bar.description or 'progress'}: {bar.done}{of}, {_clock(bar.elapsed_s)} elapsed"
    if bar.total and 0 < bar.done < bar.total:
        line += f", {_clock(bar.elapsed_s * (bar.total - bar.done) / bar.done)} left"
    return line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _terminal_width() -> int | None:
    """Return the columns of the terminal that shows standard error, or None when there is none."""
    told = os.environ.get("ENGRAM_TERMINAL", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    with suppress(AttributeError, OSError, ValueError):
        if sys.stderr.isatty():
            return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return None


def _terminal(width: int) -> _Display:
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return _Lines()
    return _Rich(width)


def _make_rich(width: int) -> Any:  # noqa: ANN401
    """Make a display that leaves the script's own output alone: the logs are its raw bytes."""
    from rich import progress
    from rich.console import Console

    stream: Any = _StandardError()
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(file=stream, force_terminal=True, width=width, legacy_windows=False),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
