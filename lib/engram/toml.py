"""TOML in and out: errors name file and line, and what is written reads back the same."""

from __future__ import annotations

import copy
import datetime
import math
import re
import tomllib
from typing import TYPE_CHECKING, Any

from engram import overrides as overriding
from engram.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from engram.overrides import Override

__all__ = ["dumps", "edit", "equal", "loads", "read"]

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\b": "\\b",
    "\f": "\\f",
}
SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]')
WIDTH = 100


def read(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read a TOML file once.

    Args:
        path: the file.

    Returns:
        Its exact bytes, and the values in them.

    Raises:
        ConfigError: it is missing, cannot be read, or is not valid TOML; the message names file,
            line and column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"cannot read {str(path)!r}: {error.strerror or error}"
        raise ConfigError(msg) from error
    return data, loads(data, where=str(path))


def loads(data: bytes, *, where: str) -> dict[str, Any]:
    """The values in TOML bytes.

    Python's own parser reads, whatever is installed: what engram accepts, a script's tomllib
    accepts too.

    Args:
        data: the file's content.
        where: the file's name, for messages.

    Raises:
        ConfigError: it is not valid TOML.
    """
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        msg = (
            f"{where}: byte {data[error.start]:#04x} at line {line} is not UTF-8: save it as UTF-8"
        )
    except tomllib.TOMLDecodeError as error:
        msg = f"{where}: not valid TOML: {_located(error, data)}"
    except (ValueError, RecursionError) as error:
        msg = f"{where}: not readable as TOML: {error}"
    raise ConfigError(msg)


def _located(error: ValueError, data: bytes) -> str:
    """What the parser says, with a line also where it only says that the text ended."""
    last = data.count(b"\n") + 1
    said = str(error).replace("end of document", f"end of document, line {last}")
    bom = " (the file starts with a byte order mark)" if data.startswith(b"\xef\xbb\xbf") else ""
    return said + bom


REWRITTEN = "# Written anew with the overrides; comments of the original could not be kept.\n"


def edit(data: bytes, changes: Sequence[Override], *, where: str) -> bytes:
    """Write changed values into TOML text.

    Comments and layout are kept where tomlkit is installed and what it writes reads back right;
    elsewhere the values are written anew, and a first line says so.

    Args:
        data: the text to change.
        changes: what to set.
        where: the file's name, for messages.

    Returns:
        The new text.

    Raises:
        ConfigError: `data` is not TOML, or a change does not fit it.
    """
    expected = loads(data, where=where)
    overriding.apply(expected, changes, where=where)
    kept = _with_comments(data, changes, expected, where=where)
    return (REWRITTEN + dumps(expected)).encode() if kept is None else kept


def _with_comments(
    data: bytes, changes: Sequence[Override], expected: dict[str, Any], *, where: str
) -> bytes | None:
    """The changed text by tomlkit, or None where it is absent or its text means something else."""
    try:
        import tomlkit
    except ImportError:
        return None
    try:
        document = tomlkit.parse(data)
        overriding.apply(document, changes, where=where)
        text = tomlkit.dumps(document)
        return text.encode() if equal(tomllib.loads(text), expected) else None
    except Exception:
        # tomlkit fails in many ways on rare layouts; comments are not worth a run.
        return None


def equal(one: object, other: object) -> bool:
    """Whether two TOML values are the same: of one type, NaN equal to NaN, 0.0 unlike -0.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, datetime.date | datetime.time):
        return type(one) is type(other) and one.isoformat() == _iso(other)
    return type(one) is type(other) and repr(one) == repr(other)


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else ""


def dumps(values: Mapping[str, Any]) -> str:
    """TOML text that reads back as `values`.

    Args:
        values: nested dicts, lists, strings, numbers, booleans, dates and times.

    Raises:
        ConfigError: a value that TOML cannot hold, such as None.
    """
    return "\n".join(_table_lines(copy.copy(values), ())).strip("\n") + "\n"


def _table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[str]:
    """The lines of one table: first its own values, then the tables inside it, as TOML demands."""
    inside = {key: value for key, value in table.items() if _is_table(value) or _is_tables(value)}
    for key, value in table.items():
        if key not in inside:
            yield f"{_key(key)} = {_value(value, (*path, key))}"
    for key, value in inside.items():
        name = (*path, key)
        header = ".".join(map(_key, name))
        if _is_tables(value):
            for item in value:
                yield from ("", f"[[{header}]]", *_table_lines(item, name))
            continue
        lines = list(_table_lines(value, name))
        # A table of tables only needs no header of its own.
        yield from lines if lines and not lines[0] else ("", f"[{header}]", *lines)


def _is_table(value: object) -> bool:
    return hasattr(value, "items")


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_table, value))


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = f"{text!r} cannot be written as TOML: it is not valid Unicode"
        raise ConfigError(msg) from error
    return f'"{SPECIAL.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    return ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _value(value: object, path: tuple[str, ...]) -> str:
    """One value on the right of an equals sign."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else _not_finite(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return _array([_value(item, path) for item in value])
    if hasattr(value, "items"):
        return (
            "{" + ", ".join(f"{_key(k)} = {_value(v, (*path, k))}" for k, v in value.items()) + "}"
        )
    msg = f"{'.'.join(path)!r} is {value!r}: TOML has no {type(value).__name__}"
    raise ConfigError(msg)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"


def _array(items: list[str]) -> str:
    """An array on one line, or on one line per item where that is too long."""
    line = "[" + ", ".join(items) + "]"
    if len(line) <= WIDTH:
        return line
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
