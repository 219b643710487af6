"""A TOML table that is read key by key; what is left over at the end is a mistake."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn, overload

from engram.errors import ConfigError
from engram.overrides import suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Table"]


# Mistakes that no likeness of names tells.
MEANT = {"inputs": "; did you mean 'data.inputs', written [[data.inputs]]?"}


class Table:
    """One table of a file; each method takes one key, so that `finish` knows the others."""

    def __init__(self, values: dict[str, Any], where: str, path: str = "") -> None:
        """Wrap a table.

        Args:
            values: the table; left as it is.
            where: the file's name, for messages.
            path: the dotted path of the table in the file; "" is the file itself.
        """
        self.where = where
        self._values = values
        self._path = path
        self._taken: list[str] = []

    @property
    def label(self) -> str:
        """What messages call this table."""
        return f"[{self._path}]" if self._path else "the top level"

    def key(self, name: str) -> str:
        """The dotted path of one of its keys."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str, default: Any) -> Any:  # noqa: ANN401
        """A value of any type."""
        self._taken.append(name)
        return self._values.get(name, default)

    def finish(self) -> None:
        """Refuse keys that nobody has asked for.

        Raises:
            ConfigError: there is one; the message says what may have been meant.
        """
        for name in self._values:
            if name not in self._taken:
                known = ", ".join(sorted(self._taken))
                meant = MEANT.get(self.key(name)) or suggestion(name, self._taken)
                msg = f"{self.where}: unknown key {self.key(name)!r}{meant}"
                msg += f" ({self.label} knows {known})"
                raise ConfigError(msg)

    def near(self, name: str) -> str:
        """A hint at a key of the table that may be meant to be `name`; "" where there is none."""
        return suggestion(name, list(self._values)).replace("did you mean", "is it written as")

    def refuse(self, name: str, value: object, expected: str) -> NoReturn:
        """Say that a value does not fit.

        Raises:
            ConfigError: always.
        """
        msg = f"{self.where}: key {self.key(name)!r} is {value!r}: expected {expected}"
        raise ConfigError(msg)

    @overload
    def text(self, name: str, default: str) -> str: ...
    @overload
    def text(self, name: str, default: None) -> str | None: ...
    def text(self, name: str, default: str | None) -> str | None:
        """A string; one that must be a path or a name is never empty."""
        value = self.take(name, default)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(name, value, "a string")
        if "\0" in value or (not value.strip() and default != ""):
            self.refuse(name, value, "text that is not empty")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings, none of them empty."""
        value = self.take(name, [])
        if not isinstance(value, list) or not all(isinstance(x, str) and x for x in value):
            self.refuse(name, value, "a list of strings")
        return tuple(value)

    def boolean(self, name: str, default: bool) -> bool:  # noqa: FBT001
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            self.refuse(name, value, "true or false")
        return value

    @overload
    def integer(self, name: str, default: int, *, least: int, most: int) -> int: ...
    @overload
    def integer(self, name: str, default: None, *, least: int, most: int) -> int | None: ...
    def integer(self, name: str, default: int | None, *, least: int, most: int) -> int | None:
        """A whole number within bounds, both included."""
        value = self.take(name, default)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number that is not negative."""
        value = self.take(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < math.inf
        ):
            self.refuse(name, value, "a number, 0 or larger")
        return float(value)

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self.take(name, default)
        if value not in allowed:
            near = suggestion(value, allowed) if isinstance(value, str) else ""
            self.refuse(name, value, " or ".join(map(repr, allowed)) + near)
        return str(value)

    def table(self, name: str) -> Table:
        """A table inside this one; an empty one where it is absent."""
        value = self.take(name, {})
        if not isinstance(value, dict):
            self.refuse(name, value, f"a table: write [{self.key(name)}]")
        return Table(value, self.where, self.key(name))

    def tables(self, name: str) -> list[Table]:
        """An array of tables."""
        value = self.take(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.refuse(name, value, f"tables: write [[{self.key(name)}]] before each")
        return [Table(item, self.where, f"{self.key(name)}.{i}") for i, item in enumerate(value)]
