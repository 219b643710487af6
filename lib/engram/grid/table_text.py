"""The values of a table of points as text: the cells and the lines of a CSV file."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from engram.record import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["cell", "encoded", "line"]


def cell(value: Any) -> str:  # noqa: ANN401
    """A value as text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.replace("\0", "\\x00")  # most readers of CSV end a text there
    if isinstance(value, dict | list | tuple):
        return json.dumps(plain(value), ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def line(values: Iterable[Any]) -> bytes:
    """One record of the CSV file."""
    text = io.StringIO()
    # What a record ends with is quoted inside of values: a lone carriage return too.
    csv.writer(text, lineterminator="\r\n").writerow([cell(value) for value in values])
    return encoded(text.getvalue()[:-2]) + b"\n"


def encoded(text: str) -> bytes:
    """A text as UTF-8, whatever is in it."""
    return text.encode("utf-8", "backslashreplace")
