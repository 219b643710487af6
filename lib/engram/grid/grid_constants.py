"""The constants of a grid file: what it says about how its points run, checked and made plain."""

from __future__ import annotations

import difflib
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from engram.errors import ConfigError
from engram.grid.values import shown
from engram.grid_table import MOST_POINTS, MOST_RETRIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Constants", "read_constants"]

MOST_SLOTS = 64
ALIASES = {
    "RETRIES": "MAX_RETRIES",
    "SLOTS": "SLOTS_PER_DEVICE",
    "CONFIGURATIONS": "configurations",
}


class Constants(NamedTuple):
    """What a grid file says about how its points run; None where it says nothing."""

    DEVICES: list[int | str] | None = None
    SLOTS_PER_DEVICE: int | None = None
    DEVICES_PER_RUN: int | None = None
    PRELOAD: list[str] | None = None
    MAX_RETRIES: int | None = None
    MEMORY: str | None = None
    MAX_POINTS: int | None = None


def read_constants(names: dict[str, Any], path: Path) -> Constants:
    """The constants, checked and plain.

    Raises:
        ConfigError: one does not fit, or a name is nearly that of one.
    """
    for name in names:
        if name.isupper() and name not in Constants._fields:
            near = difflib.get_close_matches(name, Constants._fields, n=1, cutoff=0.8)
            meant = ALIASES.get(name) or (near[0] if near else None)
            if meant:
                msg = f"{path}: {name} means nothing here; did you mean {meant!r}?"
                raise ConfigError(f"{msg} (if not, give it another name)")
    found = {}
    for name, (convert, expected) in _CONSTANTS.items():
        value = names.get(name)
        if value is not None:
            found[name] = convert(value)
            if found[name] is None:
                msg = f"{path}: {name} is {shown(value)}: expected {expected}"
                raise ConfigError(msg)
    return Constants(**found)


def _devices(value: object) -> list[int | str] | None:
    if isinstance(value, str):
        return list(value.split(",")) if value.strip() else []
    if not isinstance(value, list | tuple | range):
        return None
    found = [item if isinstance(item, str) else _index(item, least=-1) for item in value]
    names = {str(item).strip() for item in found}
    whole = None not in found and "" not in names and len(names) == len(found)
    return found if whole else None  # type: ignore[return-value]


def _index(value: object, *, least: int = 0) -> int | None:
    """A whole number, also one of numpy."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        number = operator.index(value)
    except TypeError:
        return None
    return number if number >= least else None


def _within(least: int, most: int) -> Callable[[object], int | None]:
    def check(value: object) -> int | None:
        number = _index(value)
        return number if number is not None and least <= number <= most else None

    return check


def _modules(value: object) -> list[str] | None:
    if not isinstance(value, list | tuple):
        return None
    whole = all(
        isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
        for name in value
    )
    return list(value) if whole else None


def _memory(value: object) -> str | None:
    return value if isinstance(value, str) and value == "auto" else None


_CONSTANTS: dict[str, tuple[Callable[[object], Any], str]] = {
    "DEVICES": (_devices, "a list of device indices or names, none twice, such as [0, 1]"),
    "SLOTS_PER_DEVICE": (_within(1, MOST_SLOTS), f"a whole number from 1 to {MOST_SLOTS}"),
    "DEVICES_PER_RUN": (_within(1, MOST_SLOTS), f"a whole number from 1 to {MOST_SLOTS}"),
    "PRELOAD": (_modules, 'a list of names of modules, such as ["torch"]'),
    "MAX_RETRIES": (_within(0, MOST_RETRIES), f"a whole number from 0 to {MOST_RETRIES}"),
    "MEMORY": (_memory, "'auto'"),
    "MAX_POINTS": (_within(1, MOST_POINTS), f"a whole number from 1 to {MOST_POINTS}"),
}
