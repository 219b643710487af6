"""Plain text for terminals: aligned columns, durations, sizes, short values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["age", "columns", "duration", "epoch", "printable", "short", "size"]

GAP = "  "
LEAST = 12


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Lay out a table.

    Args:
        header: one title a column.
        rows: as many texts each.
        width: of the terminal, in characters; the last column is cut to fit, then the widest ones
            but the first, which names what the row is about. None cuts nothing.

    Returns:
        Lines without trailing spaces; columns that are empty throughout are left out.
    """
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    used = [i for i in range(len(header)) if any(line[i] for line in lines[1:])] or [0]
    widths = {i: max(_width(line[i]) for line in lines) for i in used}
    if width is not None:
        _narrow(widths, used, width)
    return "\n".join(_line([line[i] for i in used], [widths[i] for i in used]) for line in lines)


def _narrow(widths: dict[int, int], used: Sequence[int], width: int) -> None:
    """Take from the columns what the terminal has no room for, but never below LEAST."""
    excess = sum(widths.values()) + len(GAP) * (len(used) - 1) - width
    cut = max(0, min(excess, widths[used[-1]] - LEAST))
    widths[used[-1]] -= cut
    for _ in range(excess - cut):
        widest = max(used[1:], key=lambda i: widths[i], default=used[0])
        if widths[widest] <= LEAST:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """One line of a table."""
    fitted = [_fit(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return GAP.join(fitted).rstrip()


def _fit(text: str, width: int) -> str:
    """Pad or cut a text to a width."""
    wide = _width(text)
    if wide <= width:
        return text + " " * (width - wide)
    while text and _width(text) > width - 3:
        text = text[: -1 - max(0, (_width(text) - width + 3) // 2 - 1)]
    return text + "..." + " " * (width - 3 - _width(text))


def _width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def printable(text: str) -> str:
    """Escape what would move the cursor or break the line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def duration(seconds: float | None) -> str:
    """Write a time span: 0.31 s, 42.1 s, 4 min 12 s, 2 h 05 min, 3 d 4 h; empty for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def age(seconds: float) -> str:
    """Write a time that passed, in whole seconds; 0 s when clocks differ and it lies ahead."""
    return f"{max(0, round(seconds))} s" if seconds < 59.5 else duration(seconds)


def epoch(text: str | None) -> float | None:
    """Seconds since the epoch of a recorded time; None for none."""
    if not text:
        return None
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def size(count: float | None) -> str:
    """Write a number of bytes with three digits: 812 B, 1.24 MB, 3.1 GB; empty for None."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def short(value: Any) -> str:  # noqa: ANN401
    """Write a value of a summary or a parameter in few characters, numbers with five digits."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
