"""A grid on a terminal: one small display, drawn by rich at most four times a second.

Nothing is drawn by a thread: the dispatcher forks.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engram.grid.view import beginning, conclusion, describe, device_of
from engram.table import duration, printable, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from rich.console import RenderableType

    from engram.grid.tally import Extreme, Failure, Tally
    from engram.grid.view import Outlet

__all__ = ["Screen"]

DRAW_EVERY_S = 0.25
TALLEST = 22  # lines of the display
FIXED = 7  # of them without places and failures
SHOWN_FAILURES = 3
LISTED_FAILURES = 10  # at the end
BAR = 30  # columns


class Screen:
    """The live display; see engram.grid.view.View."""

    def __init__(self, outlet: Outlet, tally: Tally) -> None:
        """Say where to draw, and what counts."""
        self.outlet = outlet
        self.tally = tally
        self.due = 0.0
        self.latest = ""
        self.live: Live | None = None
        self.console = Console(
            file=cast("IO[str]", outlet),
            force_terminal=True,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def begin(self, total: int, done: int, slots: Sequence[str], where: Path) -> None:
        """See View."""
        self.tally.begin(total, done, slots, where)
        self._fit()
        self._print(_line(beginning(total, done, slots)))
        self.live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._frame,
        )
        self.live.start()
        # Hidden, it would stay so after a kill.
        self.console.show_cursor()
        self._draw()

    def resize(self, total: int) -> None:
        """See View."""
        self.tally.total = total

    def started(self, name: str, device: str) -> None:
        """See View."""
        self.tally.started(name, device)

    def ended(self, row: dict[str, Any], *, retry: bool) -> None:
        """See View."""
        self.tally.ended(row, retry=retry)
        if retry:
            self.note(f"{describe(row)}; it is tried again")
        elif row["state"] == "completed":
            self.latest = f"{describe(row)}  {self.tally.values(row)}".rstrip()

    def note(self, text: str) -> None:
        """See View; notes stay above the display."""
        self._fit()
        self._print(Text(printable(text)))

    def tick(self) -> None:
        """See View."""
        if time.monotonic() < self.due:
            return
        if self.outlet.ready:
            self._draw()
        else:  # stopped by Ctrl-S, or slow: this picture is left out
            self.outlet.flush()

    def finish(self, counts: dict[str, int], elapsed_s: float, where: Path) -> None:
        """See View."""
        self._fit()
        if self.live is not None:
            self.live.stop()
        self._print(*self._last(counts, elapsed_s, where), wait=True)

    def _draw(self) -> None:
        self.due = time.monotonic() + DRAW_EVERY_S
        if self.live is not None:
            self._fit()
            self.live.refresh()
            self.outlet.flush()

    def _print(self, *lines: RenderableType, wait: bool = False) -> None:
        for line in lines:
            self.console.print(line, soft_wrap=True)
        self.outlet.flush(wait=wait)

    def _fit(self) -> None:
        """Take the terminal's size as it is now."""
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(self.outlet.fileno())
            if size.columns and size.lines:
                self.console.size = size

    def _frame(self) -> RenderableType:
        """Everything that is shown now; the empty line at its end keeps the cursor out of it."""
        tally = self.tally
        tall = max(2, min(TALLEST, self.console.height - 1))
        failures = list(tally.failures)[-SHOWN_FAILURES:]
        room = max(1, tall - FIXED - 2 * len(failures))
        lines = [self._bar(), _line(tally.timed(), style="dim"), *self._extremes(), Text()]
        lines += self._places(room)
        if self.latest:
            lines.append(_line("last  ", printable(self.latest), style="dim"))
        for failure in failures:
            lines += _failure(failure)
        return Group(*lines[: tall - 1], Text())

    def _bar(self) -> RenderableType:
        """How far it is."""
        tally = self.tally
        row = Table.grid(padding=(0, 1))
        text = _line(f"{tally.over}/{tally.total}", style="bold")
        text.append(f"  {len(tally.running)} running, {tally.waiting} waiting", style="not bold")
        for mishap in tally.mishaps():
            text.append(f", {mishap}", style="red not bold")
        width = min(BAR, self.console.width // 4)
        row.add_row(ProgressBar(tally.total or 1, tally.over, width=width), text)
        return row

    def _extremes(self) -> Iterator[Text]:
        """The highest and the lowest value so far; one of them is the best."""
        for word, found in (("highest", self.tally.highest), ("lowest", self.tally.lowest)):
            if found is not None:
                yield _extreme(word, self.tally.metric or "", found)

    def _places(self, room: int) -> Iterator[Text]:
        """What runs where: by slot where there is room, else by device, the rest folded."""
        tally, now = self.tally, time.monotonic()
        by_slot = len(tally.slots) <= room
        busy: dict[str, list[str]] = {}
        seats: dict[str, int] = {}
        for label in tally.slots:
            key = label if by_slot else device_of(label)
            seats[key] = seats.get(key, 0) + 1
        for name, point in tally.running.items():
            key = point.device if by_slot else device_of(point.device)
            took = duration(round(now - point.since, 1))
            busy.setdefault(key, []).append(f"{printable(name)} {took}")
        rows = list(dict.fromkeys([*seats, *busy]))
        wide = max((len(row) for row in rows), default=0)
        shown = rows if len(rows) <= room else rows[: room - 1]
        for row in shown:
            held = f" {len(busy.get(row, []))}/{seats[row]}" if seats.get(row, 1) > 1 else ""
            yield _line(f"{row:<{wide}}{held}  ", ", ".join(busy.get(row, [])) or "free")
        if folded := rows[len(shown) :]:
            working = sum(len(busy.get(row, [])) for row in folded)
            yield _line(f"and {len(folded)} more, {working} points running", style="dim")

    def _last(
        self, counts: dict[str, int], elapsed_s: float, where: Path
    ) -> Iterator[RenderableType]:
        """What stays on the terminal."""
        failures = list(self.tally.failures)[-LISTED_FAILURES:]
        for failure in failures:
            yield from _failure(failure, cut=False)
        if (more := self.tally.failed - len(failures)) > 0:
            yield _line(f"and {more} more that did not complete", style="red")
        yield from self._extremes()
        yield Text(conclusion(counts, self.tally.total, elapsed_s), style="bold")
        yield Text(printable(str(where)))


def _extreme(word: str, metric: str, found: Extreme) -> Text:
    text = _line(f"{word:<8}{printable(metric)} ")
    text.append(short(found.value), style="bold")
    return text.append(f"  {printable(found.name)}")


def _failure(failure: Failure, *, cut: bool = True) -> Iterator[Text]:
    """A point that did not complete: why, and where to look; of a cut path the end would miss."""
    state = failure.state.replace("_", " ")
    lines = [(f"{state}  {failure.name}: {failure.cause}", "red")]
    if failure.folder is not None:
        lines.append((f"        {failure.folder.name if cut else failure.folder}", "dim"))
    for text, style in lines:
        yield (_line if cut else Text)(printable(text), style=style)


def _line(*parts: str, style: str = "") -> Text:
    """One line that is cut where the terminal ends."""
    return Text("".join(parts), style=style, no_wrap=True, overflow="ellipsis")
