"""Filters and sort keys of `list`: what a person types, as questions to the index."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from engram.brief import COLUMNS, UNREADABLE
from engram.errors import ConfigError
from engram.record import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Filter", "count", "parse", "select", "sort_key"]

PATTERN = re.compile(r"([^=<>!~]+?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*)", re.DOTALL)
ALIASES = {
    "run_id": "id",
    "run": "id",
    "tags": "tag",
    "status": "state",
    "findings": "finding",
    "duration": "run_s",
    "took": "run_s",
    "points": "point",
    "attempts": "attempt",
    "devices": "device",
}
TABLES = {
    "param": "param",
    "params": "param",
    "parameter": "param",
    "parameters": "param",
    "summary": "summary",
}
KEYS = (*COLUMNS, "finding", "severity")
MOMENTS = ("created", "started", "ended")
RECENT = "at DESC, run_id DESC"
# Numbers come before texts; then nan, then what is missing, in both directions.
SORTED = """SELECT id, CASE WHEN facts.number IS NOT NULL THEN 0
    WHEN facts.text IS NULL THEN 3 WHEN facts.text = 'nan' THEN 2 ELSE 1 END AS rank,
    facts.number AS number, facts.text AS text
    FROM runs LEFT JOIN facts ON facts.key = ? AND facts.run = runs.id AND facts.turn = 0"""
Values = list[int | float | str]


class Filter(NamedTuple):
    """One condition on a run.

    Attributes:
        key: a column, param.KEY or summary.KEY.
        operator: = != < <= > >= or ~ (contains, upper and lower case alike).
        value: as typed.
    """

    key: str
    operator: str
    value: str


def parse(text: str) -> Filter:
    """Read a filter such as `state=failed`, `param.lr>0.01` or `summary.acc>=0.9`.

    Raises:
        ConfigError: it is none, its key is unknown, or no run is ever in that state.
    """
    found = PATTERN.fullmatch(text.strip())
    if found is None:
        msg = (
            f"{text!r} is not a filter: write KEY=VALUE with one of = != < <= > >= ~, such as "
            "state=failed, param.lr>0.01 or summary.acc>=0.9"
        )
        raise ConfigError(msg)
    key, operator, value = known_key(found[1]), found[2].replace("==", "="), found[3]
    states = (*STATES, UNREADABLE)
    if key == "state" and operator in ("=", "!=") and value not in states:
        msg = f"no run is ever in the state {value!r}{_did_you_mean(value, states)}"
        raise ConfigError(msg)
    return Filter(key, operator, value)


def known_key(text: str) -> str:
    """The canonical name of a key.

    Raises:
        ConfigError: there is no such key.
    """
    key = ALIASES.get(text.strip(), text.strip())
    table, dot, rest = key.partition(".")
    if dot and rest and table in TABLES:
        return f"{TABLES[table]}.{rest}"
    if key not in KEYS:
        advice = _did_you_mean(key, KEYS) or ": parameters are param.KEY, results summary.KEY"
        msg = f"runs cannot be filtered or sorted by {text!r}{advice}"
        raise ConfigError(msg)
    return key


def sort_key(text: str) -> tuple[str, bool]:
    """Read a sort key.

    Returns:
        The key and whether it descends (`-KEY`).

    Raises:
        ConfigError: there is no such key.
    """
    return known_key(text.removeprefix("-")), text.startswith("-")


def select(filters: Iterable[Filter], *, sort: str | None, limit: int | None) -> tuple[str, Values]:
    """The question for rows, with the columns that engram.index.Row names."""
    where, values = _where(filters)
    chosen, order = f"SELECT id, 0 AS rank, NULL AS number, NULL AS text FROM runs{where}", RECENT
    if sort is not None:
        key, descending = sort_key(sort)
        way = "DESC" if descending else "ASC"
        chosen, values = f"{SORTED}{where}", [key, *values]
        order = f"rank, number {way}, text {way}, {RECENT}"
    # Only what is shown is fetched whole: the sorter handles small rows.
    chosen += f" ORDER BY {order} LIMIT ?"
    columns = "place, name, run_id, at, open, brief, rank, number, text"
    text = f"SELECT {columns} FROM ({chosen}) AS chosen JOIN runs USING (id) ORDER BY {order}"
    return text, [*values, -1 if limit is None else limit]


def count(filters: Iterable[Filter]) -> tuple[str, Values]:
    """The question for how many runs there are."""
    where, values = _where(filters)
    return f"SELECT COUNT(*) FROM runs{where}", values


def _where(filters: Iterable[Filter]) -> tuple[str, Values]:
    """All conditions, as SQL and its values."""
    parts: list[str] = []
    values: Values = []
    for item in filters:
        test, given = _condition(item)
        # Unequal is the complement of equal: also for a run that lacks the key.
        inside = "NOT IN" if item.operator == "!=" else "IN"
        parts.append(f"id {inside} (SELECT run FROM facts WHERE key = ? AND {test})")
        values += [item.key, *given]
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), values


def _condition(item: Filter) -> tuple[str, Values]:
    """The condition on one fact."""
    number = None if item.key in MOMENTS else _number(item.value)
    if item.operator == "~":
        return "instr(lower(text), lower(?))", [item.value]
    if item.operator in ("=", "!="):
        value = item.value.lower() if item.value in ("True", "False") else item.value
        if number is None:
            return "text = ?", [value]
        return "(number = ? OR text = ?)", [number, value]
    if number is None:
        return f"(number IS NULL AND text {item.operator} ?)", [item.value]
    return f"number {item.operator} ?", [number]


def _number(text: str) -> int | float | None:
    """The number a text stands for; None for text and for nan, which equals and exceeds nothing."""
    try:
        whole = int(text)
    except ValueError:
        pass
    else:
        return whole if -(2**63) <= whole < 2**63 else float(whole)
    try:
        value = float(text)
    except ValueError:
        return None
    return None if value != value else value


def _did_you_mean(text: str, known: Iterable[str]) -> str:
    """A suggestion, when one is near."""
    import difflib

    near = difflib.get_close_matches(text, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""
