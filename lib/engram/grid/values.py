"""What a point's parameters may hold, and what a table shows of them."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import reprlib
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cell", "Scalar", "as_json", "cells", "dotted", "from_json", "plain", "same", "shown"]

Scalar = bool | int | float | str
Cell = tuple[str, Scalar]
"""The type of a value, and the value as a table shows it; equal cells stand for equal values."""

BARE = re.compile(r"""[^\s.="'\\]+""")
MOST_DEPTH = 60  # readers of TOML recurse, and a script reads from within a deeper stack
MOST_TEXT = 200  # characters of one cell
LEAST_INTEGER, MOST_INTEGER = -(2**63), 2**63 - 1

ADVICE = {
    "NoneType": "leave the key out",
    "PurePath": "write str(...)",
    "set": "write sorted(...)",
    "frozenset": "write sorted(...)",
    "range": "write list(...)",
    "generator": "write list(...)",
    "ndarray": "write .tolist(), or name a file",
    "Tensor": "write .item() or .tolist(), or name a file",
    "DataFrame": "name a file",
    "Series": "write .tolist()",
    "Timestamp": "write .to_pydatetime()",
    "Decimal": "write float(...) or str(...)",
    "bytes": "write text",
    "complex": "write two numbers",
}
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 80


def shown(value: object) -> str:
    """A short text for a value of any kind, for messages."""
    return SHORT.repr(value)


def dotted(path: tuple[str | int, ...]) -> str:
    """The dotted key of a value, as `--set` writes it."""
    return ".".join(map(_part, path))


def _part(key: str | int) -> str:
    if isinstance(key, int) or BARE.fullmatch(key):
        return str(key)
    return json.dumps(key, ensure_ascii=False)


def plain(parameters: dict[Any, Any]) -> dict[str, Any]:
    """Copy parameters into plain values.

    Subclasses of what TOML knows and the scalars of numpy become plain, tuples become lists.

    Args:
        parameters: what a grid yields.

    Returns:
        A copy that shares nothing with the argument.

    Raises:
        ConfigError: TOML cannot hold a value, or a key is no string; the message names the dotted
            key, the value and its type.
    """
    return _table(parameters, ())


def _table(table: dict[Any, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    _check_depth(path)
    copied = {}
    for key, value in table.items():
        if not isinstance(key, str):
            msg = f"key {shown(key)} in {_place(path)} is of type {type(key).__name__}"
            raise ConfigError(f"{msg}: keys are strings")
        copied[_text(key, path, "key")] = _plain(value, (*path, str.__str__(key)))
    return copied


def _plain(value: Any, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return _table(value, path)
    if isinstance(value, list | tuple):
        _check_depth(path)
        if set(map(type, value)) <= {float, bool}:  # long lists are of these, as a rule
            return list(value)
        return [_plain(item, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, str):
        return _text(value, path, "parameter")
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, float):
        return float.__float__(value)
    if type(value) in (datetime.datetime, datetime.date, datetime.time):
        return _moment(value, path)
    return _foreign(value, path)


def _foreign(value: Any, path: tuple[str | int, ...]) -> Scalar:  # noqa: ANN401
    """A scalar of numpy as Python's own; anything else is refused."""
    kind = type(value)
    is_numpy = kind.__module__ == "numpy" and getattr(value, "shape", None) == ()
    if is_numpy and value.dtype.kind in "biuf":
        own = value.item()
        if isinstance(own, bool | float):
            return own
        if isinstance(own, int):
            return _integer(own, path)
    advice = next((ADVICE[base.__name__] for base in kind.__mro__ if base.__name__ in ADVICE), "")
    raise _refusal(value, path, f"TOML has no {kind.__name__}" + (f": {advice}" if advice else ""))


def _text(text: str, path: tuple[str | int, ...], what: str) -> str:
    try:
        str.encode(text)
    except UnicodeEncodeError as error:
        msg = f"{what} {shown(text)} in {_place(path)} is not valid Unicode"
        raise ConfigError(msg) from error
    return str.__str__(text)


def _integer(value: int, path: tuple[str | int, ...]) -> int:
    value = int.__int__(value)
    if not LEAST_INTEGER <= value <= MOST_INTEGER:
        raise _refusal(value, path, "whole numbers of TOML have 64 bits: write a float or text")
    return value


def _moment(
    value: datetime.datetime | datetime.date | datetime.time, path: tuple[str | int, ...]
) -> datetime.datetime | datetime.date | datetime.time:
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        raise _refusal(value, path, "TOML has no time of day with a time zone: write a date too")
    offset = value.utcoffset() if isinstance(value, datetime.datetime) else None
    if offset is not None and offset % datetime.timedelta(minutes=1):
        raise _refusal(value, path, "an offset of TOML counts whole minutes")
    return value


def _check_depth(path: tuple[str | int, ...]) -> None:
    if len(path) > MOST_DEPTH:
        msg = f"parameter {dotted(path[:4])!r} is nested deeper than {MOST_DEPTH} tables or lists"
        raise ConfigError(f"{msg}: does it hold itself?")


def _place(path: tuple[str | int, ...]) -> str:
    return f"parameter {dotted(path)!r}" if path else "the parameters"


def _refusal(value: object, path: tuple[str | int, ...], why: str) -> ConfigError:
    msg = f"parameter {dotted(path)!r} is {shown(value)}, of type {type(value).__name__}; {why}"
    return ConfigError(msg)


def cells(parameters: dict[str, Any]) -> Iterator[tuple[str, Cell]]:
    """What a table shows of plain parameters.

    A list of numbers or texts is one cell, a list that holds tables is as many as those hold.

    Args:
        parameters: what `plain` returned.

    Yields:
        The dotted key and the cell of each value.
    """
    yield from _cells(parameters, ())


def _cells(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Cell]]:  # noqa: ANN401
    if isinstance(value, dict) and (value or not path):
        for inner in (False, True):
            for key, item in value.items():
                if _is_inner(item) == inner:
                    yield from _cells(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _cells(item, (*path, index))
    else:
        yield dotted(path), (type(value).__name__, _scalar(value))


def _is_inner(value: object) -> bool:
    """Whether TOML writes a value as tables of its own, which come after the other values."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def _scalar(value: Any) -> Scalar:  # noqa: ANN401
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, list | dict):
        return _shortened(json.dumps(value, ensure_ascii=False, default=str))
    return str(value.isoformat())


def _shortened(text: str) -> str:
    """Keep a cell small, and unlike those of other long values."""
    if len(text) <= MOST_TEXT:
        return text
    return f"{text[:MOST_TEXT]}... sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def same(one: Cell | None, other: Cell | None) -> bool:
    """Whether two cells stand for equal values: NaN is equal to NaN, 0.0 is not -0.0."""
    return one == other if one is None or other is None else _identity(one) == _identity(other)


def _identity(cell: Cell) -> tuple[str, str]:
    return cell[0], repr(cell[1])


def as_json(cell: Cell | None) -> Any:  # noqa: ANN401
    """A cell as strict JSON writes it; None where the point lacks the key."""
    if cell is None or not isinstance(cell[1], float) or math.isfinite(cell[1]):
        return cell
    return cell[0], repr(cell[1])


def from_json(value: Any) -> Cell | None:  # noqa: ANN401
    """The cell behind what `as_json` made.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        msg = f"{value!r} is no cell"
        raise ValueError(msg)
    kind, content = value
    if kind == "float" and isinstance(content, str | int):
        content = float(content)
    if not isinstance(content, Scalar):
        msg = f"{content!r} is no value of a cell"
        raise ValueError(msg)
    return kind, content
