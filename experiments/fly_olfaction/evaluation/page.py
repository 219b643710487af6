"""Parts of an HTML page that needs nothing else: every number knows where in results.json it is."""

from __future__ import annotations

import base64
import math
import struct
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STYLE = Path(__file__).with_name("report.css")
# Even a mistake in here could fetch nothing and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
NOTHING = '<span class="none" title="could not be measured">&ndash;</span>'
MOST_DECIMALS = 4
SCALE = 0.6  # pixels of the page for a dot of a figure


class Html(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        key: its address within the page.
        title: heading.
        blocks: paragraphs, tables and figures.
    """

    key: str
    title: str
    blocks: Sequence[str]


class Numbers:
    """Writes numbers of the results, each with the path it is found under in results.json."""

    def __init__(self, results: dict[str, Any]) -> None:
        """Keep the results, as they are written to results.json."""
        self.results = results

    def at(self, *path: str | int) -> Any:  # noqa: ANN401
        """Return what lies under a path."""
        place: Any = self.results
        for key in path:
            place = place[key]
        return place

    def plain(self, *path: str | int, scale: float = 1, decimals: int | None = None) -> Html:
        """Write one number.

        Args:
            path: keys from the outermost table inwards.
            scale: 100 to write shares in percent.
            decimals: places after the point; by default three significant digits.
        """
        value = self.at(*path)
        if value is None:
            return Html(NOTHING)
        shown = value * scale
        if decimals is None:
            decimals = 0 if isinstance(value, int) and scale == 1 else _decimals(shown, 3)
        pointer = "/".join(str(key).replace("~", "~0").replace("/", "~1") for key in path)
        return Html(
            f'<data value="{value!r}" data-path="{escape(pointer)}">{shown:,.{decimals}f}</data>'
        )

    def estimate(self, *path: str | int, percent: bool = False, show_n: bool = True) -> Html:
        """Write value, standard error and n of an estimate."""
        found = self.at(*path)
        if found["value"] is None:
            return Html(NOTHING)
        scale = 100 if percent else 1
        error = found["error"]
        uncertain = error is not None and error > 0
        size = error * scale if uncertain else found["value"] * scale
        decimals = _decimals(size, 2 if uncertain else 3)
        unit = "&nbsp;%" if percent else ""
        text = self.plain(*path, "value", scale=scale, decimals=decimals)
        if error is not None:
            shown = self.plain(*path, "error", scale=scale, decimals=decimals)
            text = Html(f"{text}&nbsp;±&nbsp;{shown}{unit}")
        else:
            text = Html(text + unit)
        n = f" <small>n&nbsp;=&nbsp;{self.plain(*path, 'n')}</small>" if show_n else ""
        return Html(f'<span class="estimate">{text}{n}</span>')


def paragraph(*parts: str) -> Html:
    """Write a paragraph of texts and HTML."""
    return Html(f"<p>{_joined(parts)}</p>")


def note(*parts: str) -> Html:
    """Write a remark in small type."""
    return Html(f'<p class="note">{_joined(parts)}</p>')


def with_remark(text: str, remark: str) -> Html:
    """Write a text with a remark below it, if there is one."""
    below = f'<br><small class="note">{_text(remark)}</small>' if remark else ""
    return Html(_text(text) + below)


def label(text: str, kind: str) -> Html:
    """Write a label: of the kind pass, fail, untested, data or modelled."""
    return Html(f'<span class="label {escape(kind)}">{_text(text)}</span>')


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", numeric: bool = True
) -> Html:
    """Write a table; the first cell of a row names it.

    Args:
        head: names of the columns.
        rows: cells, as many as columns.
        caption: what it shows.
        numeric: whether all cells but the first are numbers, and so stand at the right.
    """
    top = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    kind = ' class="numeric"' if numeric else ""
    return Html(
        f'<div class="scroll"><table{kind}>{title}<thead><tr>{top}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(png: Path, *, caption: str, alt: str) -> Html:
    """Embed a picture."""
    content = png.read_bytes()
    # Of the header of every PNG file; figures have 200 dots an inch, a screen has 96.
    width, height = (round(size * SCALE) for size in struct.unpack(">II", content[16:24]))
    data = base64.b64encode(content).decode("ascii")
    return Html(
        f'<figure><img alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def drawn(figures: dict[str, Path], name: str, caption: str) -> list[Html]:
    """Embed a figure, where there is one."""
    return [figure(figures[name], caption=caption, alt=caption)] if name in figures else []


def details(summary: str, *blocks: str) -> Html:
    """Hide blocks until they are asked for."""
    return Html(f"<details><summary>{_text(summary)}</summary>{_joined(blocks)}</details>")


def render(*, title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Write the page: title, what matters most, table of contents, sections."""
    contents = "".join(
        f'<li><a href="#{escape(one.key)}">{_text(one.title)}</a></li>' for one in sections
    )
    body = "\n".join(
        f'<section id="{escape(one.key)}"><h2>{_text(one.title)}</h2>\n{_joined(one.blocks)}'
        "</section>"
        for one in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f"</head>\n<body>\n<header><h1>{_text(title)}</h1>{_joined(lead)}</header>\n"
        f'<nav aria-label="Contents"><h2>Contents</h2><ol>{contents}</ol></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _joined(parts: Iterable[str]) -> str:
    return "".join(_text(part) for part in parts)


def _text(text: str) -> str:
    return str(text) if isinstance(text, Html) else escape(str(text))


def _decimals(size: float, digits: int) -> int:
    """Return how many places after the point show so many significant digits."""
    if not size or not math.isfinite(size):
        return 2
    return min(max(digits - 1 - math.floor(math.log10(abs(size))), 0), MOST_DECIMALS)
