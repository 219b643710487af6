"""What a person sees while a grid runs: a live display on a terminal, else plain lines.

Nothing here can end or hold up a grid: a stream that is closed, gone, full or stopped (Ctrl-S)
only loses what it was to show.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from engram.grid.tally import Tally
from engram.table import duration, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TextIO

__all__ = ["Lines", "Outlet", "View", "device_of", "make_view"]

QUIET_S = 30.0
PIECE = 4096
"""As many bytes as a terminal or pipe that polls as writable takes without blocking (PIPE_BUF)."""
MOST_PENDING = 1 << 18


class View(Protocol):
    """Shows what happens; the dispatcher calls it, from one thread."""

    def begin(self, total: int, done: int, slots: Sequence[str], where: Path) -> None:
        """Show the beginning.

        Args:
            total: how many points the grid has.
            done: how many of them were over before.
            slots: the label of each slot.
            where: the grid's folder.
        """

    def resize(self, total: int) -> None:
        """Know how many points there are now; a search chooses them as it goes."""

    def started(self, name: str, device: str) -> None:
        """Show that a point runs."""

    def ended(self, row: dict[str, Any], *, retry: bool) -> None:
        """Show how an attempt ended.

        Args:
            row: as in the table of points.
            retry: whether the point gets another attempt.
        """

    def note(self, text: str) -> None:
        """Show a sentence."""

    def tick(self) -> None:
        """Bring what is shown up to date; called a few times a second."""

    def finish(self, counts: dict[str, int], elapsed_s: float, where: Path) -> None:
        """Show what came of it.

        Args:
            counts: points of the whole grid by how they ended.
            elapsed_s: how long this session took, in seconds.
            where: the grid's folder.
        """


def make_view(stream: TextIO | None = None, *, metric: str | None = None) -> View:
    """Choose how to show a grid.

    Args:
        stream: where to; default: standard error.
        metric: the key of the summary to follow; default: the first number that comes.
    """
    stream = sys.stderr if stream is None else stream
    outlet = Outlet(stream)
    if _is_terminal(stream):
        with suppress(ImportError):
            from engram.grid.view_terminal import Screen

            return Screen(outlet, Tally(metric))
    return Lines(outlet, Tally(metric))


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal whose cursor can be moved."""
    with suppress(AttributeError, OSError, ValueError):
        return os.environ.get("TERM") not in (None, "", "dumb", "unknown") and stream.isatty()  # type: ignore[union-attr]
    return False


class Outlet:
    """A text stream that never blocks for long and never raises."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to a stream; it is not closed."""
        self.stream = stream
        self.pending = b""
        self.descriptor = None
        with suppress(AttributeError, OSError, ValueError):
            self.descriptor = stream.fileno()  # type: ignore[union-attr]

    @property
    def encoding(self) -> str:
        """What text is written as."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Keep a text until `flush`; of what nobody reads, the oldest is dropped."""
        self.pending += text.encode(self.encoding, "backslashreplace")
        self.pending = self.pending[-MOST_PENDING:]
        return len(text)

    def writelines(self, texts: Sequence[str]) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return self.descriptor is not None and os.isatty(self.descriptor)

    def fileno(self) -> int:
        """The descriptor behind it, -1 for none."""
        return -1 if self.descriptor is None else self.descriptor

    @property
    def ready(self) -> bool:
        """Whether everything was taken, and more would be."""
        return not self.pending and self._writable()

    def flush(self, *, wait: bool = False) -> None:
        """Hand over what is kept, as far as it is taken; with `wait`, all of it."""
        with suppress(AttributeError, OSError, ValueError):
            if self.descriptor is None:
                text, self.pending = self.pending.decode(self.encoding), b""
                self.stream.write(text)  # type: ignore[union-attr]
            self.stream.flush()  # type: ignore[union-attr]
        try:
            while self.pending and self.descriptor is not None and (wait or self._writable()):
                written = os.write(self.descriptor, self.pending[:PIECE])
                self.pending = self.pending[written:]
        except BlockingIOError:
            return
        except OSError:
            self.pending = b""

    def _writable(self) -> bool:
        """Whether a piece would be taken at once."""
        if self.descriptor is None:
            return True
        watch = select.poll()
        watch.register(self.descriptor, select.POLLOUT)
        # A stream whose reader is gone is ready, too: the write then says so.
        return bool(watch.poll(0))


class Lines:
    """One line for each point that ends, for logs and pipes."""

    def __init__(self, outlet: Outlet, tally: Tally) -> None:
        """Say where to write, and what counts."""
        self.outlet = outlet
        self.tally = tally
        self.said = time.monotonic()

    def begin(self, total: int, done: int, slots: Sequence[str], where: Path) -> None:
        """See View."""
        self.tally.begin(total, done, slots, where)
        self._say(beginning(total, done, slots), f"{where}")

    def resize(self, total: int) -> None:
        """See View."""
        self.tally.total = total

    def started(self, name: str, device: str) -> None:
        """See View; a line for each beginning would double the log."""
        self.tally.started(name, device)

    def ended(self, row: dict[str, Any], *, retry: bool) -> None:
        """See View."""
        self.tally.ended(row, retry=retry)
        tally, text = self.tally, describe(row)
        values = tally.values(row)
        lines = [f"{text}  {values}" if values else text]
        if row["state"] != "completed":
            lines = [f"{text}; it is tried again" if retry else text]
            lines += [str(folder)] if (folder := tally.folder(row)) else []
        self._say(f"[{tally.over}/{tally.total}] {lines[0]}", *lines[1:])

    def note(self, text: str) -> None:
        """See View."""
        self._say(text)

    def tick(self) -> None:
        """See View; a line when nothing was said for a while."""
        if time.monotonic() - self.said >= QUIET_S:
            tally = self.tally
            self._say(f"[{tally.over}/{tally.total}] {tally.counted()}; {tally.timed()}")
        elif self.outlet.pending:
            self.outlet.flush()

    def finish(self, counts: dict[str, int], elapsed_s: float, where: Path) -> None:
        """See View."""
        self._say(conclusion(counts, self.tally.total, elapsed_s), f"{where}", wait=True)

    def _say(self, *lines: str, wait: bool = False) -> None:
        """Write a line, and what belongs to it indented below."""
        self.said = time.monotonic()
        self.outlet.write("\n        ".join(printable(line) for line in lines) + "\n")
        self.outlet.flush(wait=wait)


def beginning(total: int, done: int, slots: Sequence[str]) -> str:
    """Write what there is to do: "50 points (2 done before) on 4 slots (gpu 0 x 4)"."""
    before = f" ({done} done before)" if done else ""
    points = f"{total} point{'s' if total != 1 else ''}" if total else "points as they are chosen"
    return f"{points}{before} on {places(slots)}"


def describe(row: dict[str, Any]) -> str:
    """Write how an attempt ended: "lr=0.1 failed in 3.20 s on gpu 0, attempt 2: it broke"."""
    text = f"{row['name']} {row['state'].replace('_', ' ')}"
    if row["run_s"] is not None:
        text += f" in {duration(row['run_s'])}"
    if row["device"]:
        text += f" on {row['device']}"
    if (row["attempts"] or 1) > 1:
        text += f", attempt {row['attempts']}"
    expected = row["state"] == "completed" and not row.get("pruned")
    return text if expected or not row["cause"] else f"{text}: {row['cause']}"


def device_of(label: str) -> str:
    """The device that a slot's label names."""
    return label.partition(" slot ")[0]


def places(slots: Sequence[str]) -> str:
    """Write where points run: "4 slots (gpu 0 x 2, gpu 1 x 2)"."""
    if not slots:
        return "other machines"
    devices = Counter(device_of(label) for label in slots)
    named = [f"{name} x {number}" if number > 1 else name for name, number in devices.items()]
    shown = [*named[:8], f"and {len(named) - 8} more"] if len(named) > 8 else named
    return f"{len(slots)} slot{'s' * (len(slots) > 1)} ({', '.join(shown)})"


def conclusion(counts: dict[str, int], total: int, elapsed_s: float) -> str:
    """Write how a grid ended: "48 of 50 points completed, 1 failed, 1 not run, in 3.20 s"."""
    ended = {state: n for state, n in counts.items() if n and state not in ("pending", "completed")}
    left = total - counts.get("completed", 0) - sum(ended.values())
    parts = [f"{counts.get('completed', 0)} of {total} points completed"]
    parts += [f"{number} {state.replace('_', ' ')}" for state, number in ended.items()]
    parts += [f"{left} not run"] if left else []
    return f"{', '.join(parts)}, in {duration(elapsed_s)}"
