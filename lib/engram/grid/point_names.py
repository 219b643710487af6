"""Names for points, made of the keys that vary: `lr=0.1,seed=2`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from engram.grid.points import MOST_NAME, folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Namer"]

KEPT = "._+-"
MARK = 9  # bytes of a tilde and eight digits


class Namer:
    """Gives each point a name that no other one has."""

    def __init__(
        self,
        paths: Sequence[tuple[str, ...]],
        rounded: Sequence[tuple[str, ...]] = (),
        taken: Iterable[str] = (),
    ) -> None:
        """Choose what the keys are called.

        Args:
            paths: the keys that vary, as they shall stand in the names.
            rounded: those among them whose numbers were drawn, so that a few digits will do.
            taken: names that points have already.
        """
        self.paths = list(paths)
        self._rounded = set(rounded)
        self._labels = {path: _safe(_suffix(path, self.paths)) for path in self.paths}
        self._taken = set(map(folded, taken))
        self._next: dict[str, int] = {}

    def name(self, values: Mapping[tuple[str, ...], Any]) -> str:
        """The name of a point.

        Args:
            values: its value of every key; None where it lacks one.
        """
        parts = [
            f"{self._labels[path]}={_text(value, rounded=path in self._rounded)}"
            for path, value in values.items()
            if value is not None
        ]
        return self._unique(_fitting(",".join(parts)))

    def _unique(self, name: str) -> str:
        """The name, with a number behind it where an earlier point has it."""
        key, found = folded(name), name
        while folded(found) in self._taken:
            number = self._next[key] = self._next.get(key, 1) + 1
            found = _fitting(name, f"~{number}")
        self._taken.add(folded(found))
        return found


def _suffix(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> str:
    """The shortest end of a dotted key that is no other key's."""
    for length in range(1, len(path)):
        if sum(other[-length:] == path[-length:] for other in paths) == 1:
            return ".".join(path[-length:])
    return ".".join(path)


def _text(value: Any, *, rounded: bool = False) -> str:  # noqa: ANN401
    """A value in letters that a name may have and a shell leaves alone."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if rounded else repr(value)
    if isinstance(value, dict):
        return "_".join(f"{_safe(key)}-{_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "_".join(map(_text, value))
    return _safe(str(value))


def _safe(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in KEPT else "-" for letter in text)


def _fitting(name: str, ending: str = "") -> str:
    """A name that may be used: never too long, nor with a beginning or end that is not allowed."""
    name = name.lstrip("-.").rstrip(".") or "point"
    if len(name.encode()) + len(ending) > MOST_NAME:
        mark = "~" + hashlib.sha256(name.encode()).hexdigest()[: MARK - 1]
        room = MOST_NAME - MARK - len(ending)
        name = name.encode()[:room].decode(errors="ignore") + mark
    return name + ending
