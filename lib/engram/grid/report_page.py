"""The page of a report: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.report_data import as_script_text
from engram.table import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Failure", "Page", "render"]

ASSETS = Path(__file__).with_name("page")
SCRIPTS = ("marks", "base", "effects", "pairs", "parallel", "curves", "points", "main")
STATES = (
    "completed",
    "running",
    "created",
    "failed",
    "killed",
    "timed_out",
    "interrupted",
    "pending",
)
MOST_CAUSES = 12


class Failure(NamedTuple):
    """A point that did not complete."""

    name: str
    state: str
    cause: str
    folder: str | None  # address
    log: str  # name of the file
    lines: str  # its last


class Page(NamedTuple):
    """What a page shows."""

    title: str
    grid_id: str
    description: str
    state: str
    cause: str
    facts: Sequence[tuple[str, str]]
    links: Sequence[tuple[str, str]]  # text and address
    states: Sequence[str]  # of the points
    problems: Sequence[str]
    failures: Sequence[Failure]
    unlisted: int  # failures beyond those
    written: str
    data: dict[str, Any]


def render(page: Page) -> str:
    """Write a page.

    Args:
        page: what it shows; any text may hold anything.

    Returns:
        HTML, of ASCII alone.
    """
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    parts = [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    # Even a mistake in here could fetch nothing, and run nothing but this script.
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="engram">
<title>{_text(page.title)} \u00b7 {_text(page.grid_id)}</title>
<style>{style}</style>
</head>
<body>
<header>
{"".join(_header(page))}</header>
{"".join(_body(page))}<footer>Written {_text(page.written)} from the records in this grid's folder.
</footer>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{as_script_text(page.data)}</script>
<script>{script}</script>
</body>
</html>
"""
    # Lone halves of surrogate pairs, from file names that are no UTF-8, have no other encoding.
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _hash(text: str) -> str:
    """What a content security policy calls a script by."""
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _text(value: object) -> str:
    """Anything as one line of HTML text; what cannot be seen is escaped."""
    return escape(printable(str(value)))


def _header(page: Page) -> Iterator[str]:
    """What it is, and how far it came."""
    yield f"<h1>{_text(page.title)}</h1>\n<p class=id>{_text(page.grid_id)}</p>\n"
    if page.description:
        yield f"<p>{_text(page.description)}</p>\n"
    cause = f": {_text(page.cause)}" if page.cause else ""
    yield f'<p><span class="state {_class(page.state)}">{_state(page.state)}</span>{cause}</p>\n'
    yield from _counts(page.states)
    yield "<dl>\n"
    for label, text in page.facts:
        yield f"<div><dt>{_text(label)}</dt><dd>{_text(text)}</dd></div>\n"
    yield "</dl>\n<p class=links>"
    yield " ".join(f'<a href="{escape(to)}">{_text(text)}</a>' for text, to in page.links)
    yield "</p>\n"
    for problem in page.problems:
        yield f'<p class="problem">{_text(problem)}</p>\n'


def _counts(states: Sequence[str]) -> Iterator[str]:
    """A bar of all points by state, and the same in words."""
    counts, total = Counter(states), len(states) or 1
    order = sorted(counts, key=lambda state: (_rank(state), state))
    words = [f"{counts[state]} {_state(state)}" for state in order]
    spoken = f"{len(states)} points: {', '.join(words)}"
    yield f'<svg class="counts" role="img" aria-label="{spoken}" viewBox="0 0 100 1" '
    yield 'preserveAspectRatio="none">'
    start = 0.0
    for state in order:
        width = 100 * counts[state] / total
        yield f'<rect class="{_class(state)}" x="{start:.3f}" width="{width:.3f}" height="1"/>'
        start += width
    yield "</svg>\n<p class=counted>"
    yield f"<b>{len(states)} points</b> " + " ".join(
        f'<span class="state {_class(state)}">{word}</span>'
        for state, word in zip(order, words, strict=True)
    )
    yield "</p>\n"


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


def _class(state: str) -> str:
    """A state as the name of a style."""
    return f"s-{state}" if state in STATES else "s-other"


def _state(state: str) -> str:
    """A state in words."""
    return _text(state.replace("_", " "))


def _body(page: Page) -> Iterator[str]:
    """The frame that the script fills, and the failures."""
    yield "<noscript><p class=problem>The plots and the table need JavaScript. points.csv holds "
    yield "the same numbers.</p></noscript>\n"
    yield (ASSETS / "body.html").read_text(encoding="utf-8")
    if page.failures:
        yield from _failures(page)


def _failures(page: Page) -> Iterator[str]:
    """Why points did not complete, each with the end of its log."""
    total = len(page.failures) + page.unlisted
    yield f'<section id="failures"><h2>Not completed: {total}</h2>\n'
    yield from _causes(Counter(f"{_state(one.state)}: {one.cause}" for one in page.failures))
    for number, failure in enumerate(page.failures):
        opened = " open" if number == 0 else ""
        yield f'<details{opened}><summary><span class="state {_class(failure.state)}">'
        yield f"{_state(failure.state)}</span> <b>{_text(failure.name)}</b> "
        yield f"{_text(failure.cause)}</summary>\n"
        if failure.folder is not None:
            yield f'<p><a href="{escape(failure.folder)}/">run folder</a></p>\n'
        if failure.lines:
            lines = "\n".join(map(_text, failure.lines.split("\n")))
            yield f"<p>last lines of {_text(failure.log)}</p>\n<pre>{lines}</pre>\n"
        yield "</details>\n"
    if page.unlisted:
        yield f"<p>and {page.unlisted} more, see the table</p>\n"
    yield "</section>\n"


def _causes(causes: Counter[str]) -> Iterable[str]:
    """The causes that several points share."""
    shared = [(cause, number) for cause, number in causes.most_common(MOST_CAUSES) if number > 1]
    if shared:
        yield "<ul>"
        for cause, number in shared:
            yield f"<li>{number} x {_text(cause)}</li>"
        yield "</ul>\n"
