"""Walk two decoded values side by side and say where they part.

Identical means bit for bit after decoding: same types, same keys (their order apart), same dtype
and shape, same numbers. Every NaN equals every other NaN, whatever its sign and payload. 0.0 and
-0.0 are not identical, but no distance apart, so they are equal within any tolerance; so are 1 and
1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHOWN = 200
ABSENT = "absent"


@dataclass(frozen=True)
class Tolerance:
    """Numbers a (recorded) and b (new) are equal when |a - b| <= atol + rtol * |a|.

    An infinity is equal to itself only.

    Attributes:
        rtol: relative part, >= 0.
        atol: absolute part, >= 0.
    """

    rtol: float = 0.0
    atol: float = 0.0


@dataclass(frozen=True)
class Difference:
    """One place where two values are not identical.

    Attributes:
        key: names and list positions on the way to the value, such as "model/weight" or "rows[3]";
            "" at the top.
        index: position inside an array or table, or None.
        a: the recorded value, as text.
        b: the new value, as text.
        within: whether the tolerance covers it.
        note: what else is known, such as how many values of an array differ.
    """

    key: str
    index: tuple[int, ...] | None
    a: str
    b: str
    within: bool = False
    note: str = ""

    def __str__(self) -> str:
        """Return one line for a person."""
        place = self.key + (str(list(self.index)) if self.index is not None else "")
        line = f"{place}: {self.a} != {self.b}" if place else f"{self.a} != {self.b}"
        return f"{line} ({self.note})" if self.note else line

    def as_json(self) -> dict[str, Any]:
        """Return the difference for the record."""
        index = None if self.index is None else list(self.index)
        return {"key": self.key, "index": index, "a": self.a, "b": self.b}


@dataclass(frozen=True)
class Array:
    """An array of any library, as numpy sees it.

    Attributes:
        dtype: its type in its own library; numpy knows no bfloat16.
        values: a numpy array that holds the same numbers exactly.
    """

    dtype: str
    values: Any


@dataclass(frozen=True)
class Table:
    """Rows of text cells, read as they are compared."""

    rows: Iterator[Sequence[str]]


def differences(a: Any, b: Any, tolerance: Tolerance, key: str = "") -> Iterator[Difference]:  # noqa: ANN401
    """Yield the places where `a` and `b` are not identical, in order, as they are found."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        yield from _mappings(a, b, tolerance, key)
    elif isinstance(a, Array) and isinstance(b, Array):
        # numpy is there: it decoded the arrays.
        from engram import compare_arrays

        yield from compare_arrays.differences(a, b, tolerance, key)
    elif isinstance(a, Table) and isinstance(b, Table):
        yield from _tables(a, b, tolerance)
    elif isinstance(a, list | tuple) and type(a) is type(b):
        yield from _sequences(a, b, tolerance, key)
    else:
        yield from _scalars(a, b, tolerance, key)


def _mappings(
    a: Mapping[Any, Any], b: Mapping[Any, Any], tolerance: Tolerance, key: str
) -> Iterator[Difference]:
    for name in a:
        place = f"{key}/{name}" if key else str(name)
        if name in b:
            yield from differences(a[name], b[name], tolerance, place)
        else:
            yield Difference(place, None, show(a[name]), ABSENT)
    for name in b:
        if name not in a:
            yield Difference(f"{key}/{name}" if key else str(name), None, ABSENT, show(b[name]))


def _sequences(
    a: Sequence[Any], b: Sequence[Any], tolerance: Tolerance, key: str
) -> Iterator[Difference]:
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        yield from differences(left, right, tolerance, f"{key}[{i}]")
    if len(a) != len(b):
        yield Difference(key, None, f"{len(a)} items", f"{len(b)} items")


def _tables(a: Table, b: Table, tolerance: Tolerance) -> Iterator[Difference]:
    header: Sequence[str] = ()
    left, right = iter(a.rows), iter(b.rows)
    row = 0
    while True:
        ours, theirs = next(left, None), next(right, None)
        if ours is None or theirs is None:
            break
        if row == 0 and not any(_is_numeral(cell) for cell in ours):
            header = ours
        yield from _cells(ours, theirs, tolerance, header, row)
        row += 1
    if ours is not None or theirs is not None:
        yield Difference("", (row,), _row(ours), _row(theirs), note="one table ends here")


def _row(cells: Sequence[str] | None) -> str:
    return "the end" if cells is None else show(list(cells))


def _cells(
    a: Sequence[str], b: Sequence[str], tolerance: Tolerance, header: Sequence[str], row: int
) -> Iterator[Difference]:
    if a == b:
        return
    if len(a) != len(b):
        yield Difference("", (row,), f"{len(a)} cells", f"{len(b)} cells")
        return
    for column, (left, right) in enumerate(zip(a, b, strict=True)):
        if left != right:
            name = header[column] if column < len(header) else ""
            yield Difference(
                name, (row, column), show(left), show(right), _close_cells(left, right, tolerance)
            )


def _is_numeral(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _close_cells(a: str, b: str, tolerance: Tolerance) -> bool:
    if not (_is_numeral(a) and _is_numeral(b)):
        return False
    left, right = float(a), float(b)
    return same_number(left, right) or close(left, right, tolerance)


def _scalars(a: Any, b: Any, tolerance: Tolerance, key: str) -> Iterator[Difference]:  # noqa: ANN401
    if type(a) is not type(b):
        within = _is_number(a) and _is_number(b) and close(a, b, tolerance)
        kinds = f"{type(a).__name__} and {type(b).__name__}"
        yield Difference(key, None, show(a), show(b), within, note=kinds)
    elif isinstance(a, float):
        if not same_number(a, b):
            yield Difference(key, None, show(a), show(b), close(a, b, tolerance))
    elif a != b:
        within = _is_number(a) and close(a, b, tolerance)
        yield Difference(key, None, show(a), show(b), within)


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def same_number(a: float, b: float) -> bool:
    """Say whether two floats are identical: equal with equal signs, or both NaN."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def close(a: float, b: float, tolerance: Tolerance) -> bool:
    """Say whether two numbers are equal within the tolerance; integers are taken exactly."""
    if not (_is_finite(a) and _is_finite(b)):
        return a == b
    left, right = Fraction(a), Fraction(b)
    return abs(left - right) <= Fraction(tolerance.atol) + Fraction(tolerance.rtol) * abs(left)


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def show(value: Any) -> str:  # noqa: ANN401
    """Return a value as short text."""
    if isinstance(value, Array):
        return f"array of {value.dtype}, shape {tuple(value.values.shape)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
