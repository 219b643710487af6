"""A run, and a list of runs, as the small pieces of HTML that a notebook shows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from engram.table import duration, printable, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engram.paths import RunPaths

__all__ = ["card", "table"]

MOST = 12


def card(paths: RunPaths, about: dict[str, Any]) -> str:
    """One run on a card.

    Args:
        paths: its folder.
        about: the run in brief, see engram.brief.
    """
    # A run that completed has nothing to explain.
    cause = None if about["state"] == "completed" else about["cause"]
    state = f"{about['state']}: {cause}" if cause else about["state"]
    rows = [("experiment", about["experiment"]), ("state", state)]
    rows.append(("created", str(about["created"] or "").replace("T", " ")[:19] + " UTC"))
    rows += [("took", duration(about["run_s"])), ("commit", (about["commit"] or "")[:12])]
    rows += [("parameters", _pairs(about["parameters"])), ("summary", _pairs(about["summary"]))]
    rows += [("found", _found(about["findings"])), ("tags", ", ".join(about["tags"]))]
    rows += [("outputs", _outputs(paths)), ("folder", str(paths.folder))]
    body = "".join(
        f'<tr><th style="text-align:left">{_text(label)}</th>'
        f'<td style="text-align:left">{_text(text)}</td></tr>'
        for label, text in rows
        if text
    )
    return f"<table><caption><b>{_text(about['run_id'])}</b></caption>{body}</table>"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of text under a header."""
    top = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<p>{_text(title)}</p><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _text(text: str) -> str:
    """A text as HTML shows it."""
    return escape(printable(text))


def _pairs(values: dict[str, Any]) -> str:
    """KEY = VALUE, the first few."""
    shown = [f"{key} = {short(value)}" for key, value in list(values.items())[:MOST]]
    more = [f"and {len(values) - MOST} more"] if len(values) > MOST else []
    return ", ".join([*shown, *more])


def _found(findings: list[list[str]]) -> str:
    """The codes of what was found, with their severities."""
    return ", ".join(f"{code} ({severity})" for severity, code in findings)


def _outputs(paths: RunPaths) -> str:
    """The first few names in outputs/."""
    names = (
        sorted(path.name + "/" * path.is_dir() for path in paths.outputs.iterdir())
        if paths.outputs.is_dir()
        else []
    )
    more = [f"and {len(names) - MOST} more"] if len(names) > MOST else []
    return ", ".join([*names[:MOST], *more])
