"""The points of a grid: their names, their parameters, and what differs between them.

They lie in one file, a JSON line each, and are read back from it. In memory a point is its name,
the place of its line, and what differs from the first point.
"""

from __future__ import annotations

import array
import hashlib
import json
import unicodedata
from typing import TYPE_CHECKING, Any

from engram import toml
from engram.errors import ConfigError, StoreError
from engram.grid import values
from engram.locks import append_whole
from engram.overrides import suggestion
from engram.record import store_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engram.grid.values import Cell, Scalar

__all__ = ["MOST_NAME", "Points", "folded", "name_problem"]

MOST_NAME = 120  # bytes of UTF-8


def name_problem(name: str) -> str | None:
    """What is wrong with a point's name by itself; None where nothing is."""
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "means a folder"
    if "/" in name or "\\" in name:
        return "holds a slash or a backslash"
    if not name.isprintable():
        wrong = next(letter for letter in name if not letter.isprintable())
        return f"holds U+{ord(wrong):04X}, which cannot be seen or printed"
    if name[0] == "-":
        return "begins with '-', as options do"
    if name[0] == ".":
        return "begins with '.', as hidden files do"
    if name[0] == " " or name[-1] in " .":
        return "begins with a space, or ends with a space or a dot"
    size = len(name.encode())
    return f"has {size} bytes, more than {MOST_NAME}" if size > MOST_NAME else None


def folded(name: str) -> str:
    """What two names have in common that differ in case or Unicode normal form only."""
    if name.isascii():
        return name.lower()
    once = unicodedata.normalize("NFKC", name).casefold()
    return unicodedata.normalize("NFKC", once).casefold()


class Points:
    """The points in a file; more can be appended."""

    def __init__(self, path: Path) -> None:
        """Read the points of a file.

        Args:
            path: the file.

        Raises:
            StoreError: it cannot be read, or a line of it is damaged; the message names the line.
        """
        self.path = path
        self.names: list[str] = []
        self._offsets = array.array("Q")
        self._size = 0
        self._by_fold: dict[str, int] = {}
        self._differs: list[dict[str, Cell | None]] = []
        self._first: dict[str, Cell] | None = None  # of the whole first point, once it is needed
        self._base: dict[str, Cell | None] = {}  # of the first point, for the keys that vary
        self._varying: tuple[str, ...] = ()
        self._hash = hashlib.sha256()
        try:
            with path.open("rb") as stream:
                for line in stream:
                    self._take(line)
        except OSError as error:
            msg = f"cannot read {str(path)!r}: {error.strerror or error}"
            raise StoreError(msg) from error
        self._settle()
        self._first = None

    @classmethod
    def create(cls, path: Path) -> Points:
        """Make an empty file, in place of one that may be there.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            path.write_bytes(b"")
        except OSError as error:
            raise store_error(path, error) from error
        return cls(path)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.names)

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return self._hash.hexdigest()

    @property
    def varying(self) -> tuple[str, ...]:
        """The dotted keys that differ between any two points, in order of first appearance."""
        self._settle()
        return self._varying

    def index_of(self, name: str) -> int:
        """The index of the point of that name.

        Raises:
            ConfigError: there is none.
        """
        index = self._by_fold.get(folded(name))
        if index is None or self.names[index] != name:
            msg = f"no point {name!r} in {str(self.path)!r}" + suggestion(name, self.names)
            raise ConfigError(msg)
        return index

    def parameters(self, index: int) -> bytes:
        """The parameters of a point, as TOML.

        Raises:
            StoreError: the file has changed since it was read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offsets[index])
                line = stream.readline()
        except OSError as error:
            msg = f"cannot read {str(self.path)!r}: {error.strerror or error}"
            raise StoreError(msg) from error
        return str(self._parsed(line, index)["parameters"]).encode()

    def columns(self, index: int) -> dict[str, Scalar | None]:
        """What a table shows of a point.

        Returns:
            For each varying key its value, None where the point lacks it; long values are
            shortened, and those that are no scalars are text.
        """
        own = self._differs[index]
        found = {key: own[key] if key in own else self._base[key] for key in self.varying}
        return {key: None if cell is None else cell[1] for key, cell in found.items()}

    def append(self, parameters: object, name: object) -> int:
        """Check a point and add it to the file.

        Args:
            parameters: a dict of what TOML can hold; copied.
            name: a name that no other point has.

        Returns:
            Its index.

        Raises:
            ConfigError: the name or the parameters are not fit; the message names the point.
            StoreError: the file cannot be written.
        """
        index = len(self.names)
        name = self._checked_name(name, index)
        if not isinstance(parameters, dict):
            kind = type(parameters).__name__
            msg = f"point {index} ({name!r}): its parameters are {values.shown(parameters)}"
            raise ConfigError(f"{msg}, of type {kind}: they are a dict")
        try:
            plain = values.plain(parameters)
        except ConfigError as error:
            msg = f"point {index} ({name!r}): {error}"
            raise ConfigError(msg) from error
        differs = self._differences(plain)
        told = {key: values.as_json(cell) for key, cell in differs.items()}
        written = {"index": index, "name": name, "differs": told, "parameters": toml.dumps(plain)}
        line = json.dumps(written, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            append_whole(self.path, line)
        except OSError as error:
            raise store_error(self.path, error) from error
        self._add(name, differs, line)
        return index

    def refresh(self) -> None:
        """Read what another process has appended meanwhile; of its lines only those that are whole.

        Raises:
            StoreError: the file cannot be read, or a line is damaged.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._size)
                for line in stream:
                    if not line.endswith(b"\n"):
                        return
                    self._take(line)
        except OSError as error:
            msg = f"cannot read {str(self.path)!r}: {error.strerror or error}"
            raise StoreError(msg) from error

    def _checked_name(self, name: object, index: int) -> str:
        if not isinstance(name, str):
            kind = type(name).__name__
            msg = f"point {index}: its name is {values.shown(name)}, of type {kind}: names are text"
            raise ConfigError(msg)
        name = str.__str__(name)
        problem = name_problem(name)
        if problem is not None:
            msg = f"point {index}: the name {_visible(name)} {problem}"
            raise ConfigError(msg)
        other = self._by_fold.get(folded(name))
        if other is None:
            return name
        known = self.names[other]
        if known == name:
            msg = f"points {other} and {index} are both named {_visible(name)}"
            raise ConfigError(f"{msg}: every point has a name of its own")
        pair = f"{_visible(known)} and {_visible(name)}"
        msg = f"the names of points {other} and {index}, {pair}, differ in nothing but case"
        raise ConfigError(f"{msg} or Unicode normal form, which some disks do not tell apart")

    def _differences(self, plain: dict[str, Any]) -> dict[str, Cell | None]:
        """What differs from the first point; None stands for a key that only that one has."""
        own = dict(values.cells(plain))
        if not self.names:
            self._first = own
            return {}
        first = self._first_cells()
        found: dict[str, Cell | None] = {
            key: cell for key, cell in own.items() if not values.same(cell, first.get(key))
        }
        found.update((key, None) for key in first if key not in own)
        return found

    def _first_cells(self) -> dict[str, Cell]:
        if self._first is None:
            text = self.parameters(0)
            self._first = dict(values.cells(toml.loads(text, where=str(self.path))))
        return self._first

    def _take(self, line: bytes) -> None:
        """Add a line of the file."""
        index = len(self.names)
        parsed = self._parsed(line, index)
        try:
            differs = {key: values.from_json(cell) for key, cell in parsed["differs"].items()}
        except (AttributeError, ValueError) as error:
            raise self._damaged(index, str(error)) from error
        if folded(parsed["name"]) in self._by_fold:
            raise self._damaged(index, f"the name {parsed['name']!r} is there twice")
        self._add(parsed["name"], differs, line)

    def _add(self, name: str, differs: dict[str, Cell | None], line: bytes) -> None:
        self._by_fold[folded(name)] = len(self.names)
        self.names.append(name)
        self._offsets.append(self._size)
        self._differs.append(differs)
        self._size += len(line)
        self._hash.update(line)
        for key in differs:
            self._base.setdefault(key, None)

    def _settle(self) -> None:
        """Bring the varying keys up to date: in the first point's order, then those it lacks."""
        if len(self._base) == len(self._varying):
            return
        first = self._first_cells()
        self._base = {key: first.get(key) for key in self._base}
        known = [key for key in first if key in self._base]
        self._varying = (*known, *(key for key in self._base if key not in first))

    def _parsed(self, line: bytes, index: int) -> Mapping[str, Any]:
        """The content of a line, checked."""
        if not line.endswith(b"\n"):
            raise self._damaged(index, "it is cut short")
        try:
            found = json.loads(line)
        except ValueError as error:
            raise self._damaged(index, str(error)) from error
        kinds = {"index": int, "name": str, "differs": dict, "parameters": str}
        for key, kind in kinds.items():
            if not isinstance(found, dict) or not isinstance(found.get(key), kind):
                raise self._damaged(index, f"it has no {key!r} as it should")
        if found["index"] != index:
            raise self._damaged(index, f"it holds point {found['index']!r}")
        return dict(found)

    def _damaged(self, index: int, what: str) -> StoreError:
        msg = f"{str(self.path)!r}, line {index + 1} is damaged: {what}"
        return StoreError(msg)


def _visible(name: str) -> str:
    """A name as messages show it: two that only look the same must not."""
    text = repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)
    return text if len(text) <= 2 * MOST_NAME else f"{text[:MOST_NAME]}..."
