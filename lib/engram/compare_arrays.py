"""Compare numpy arrays block by block; imported only where arrays were decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engram.compare_values import Array, Difference, Tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator

# Values compared at a time: memory stays bounded for arrays that are mapped from disk.
BLOCK = 1 << 22

_TOLERANT = "iufc"


def differences(a: Array, b: Array, tolerance: Tolerance, key: str) -> Iterator[Difference]:
    """Yield how two arrays are not identical.

    Returns:
        Nothing for identical arrays; one difference for another dtype or shape; else the first
        place that the tolerance does not cover, or the first place at all.
    """
    if a.dtype != b.dtype:
        yield Difference(key, None, f"dtype {a.dtype}", f"dtype {b.dtype}")
        return
    if a.values.shape != b.values.shape:
        yield Difference(key, None, f"shape {a.values.shape}", f"shape {b.values.shape}")
        return
    names = a.values.dtype.names
    if names is None:
        yield from _plain(a.values, b.values, tolerance, key)
        return
    for name in names:
        place = f"{key}/{name}" if key else name
        left, right = a.values[name], b.values[name]
        yield from differences(
            Array(str(left.dtype), left), Array(str(right.dtype), right), tolerance, place
        )


def _plain(a: Any, b: Any, tolerance: Tolerance, key: str) -> Iterator[Difference]:  # noqa: ANN401
    scan = _Scan(tolerance)
    shape = a.shape
    if not shape:
        a, b = a[np.newaxis], b[np.newaxis]
    rows = max(1, BLOCK // max(1, int(np.prod(a.shape[1:], dtype=np.int64))))
    for start in range(0, len(a), rows):
        scan.block(start, np.asarray(a[start : start + rows]), np.asarray(b[start : start + rows]))
    if scan.first is not None:
        index, left, right, within = scan.first
        yield Difference(key, index if shape else None, left, right, within, scan.note(a.size))


class _Scan:
    """The first difference of two arrays, how many there are and how large the greatest is."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.first: tuple[tuple[int, ...], str, str, bool] | None = None
        self._count = 0
        self._beyond = 0
        self._greatest: float | None = None

    def block(self, start: int, a: Any, b: Any) -> None:  # noqa: ANN401
        differ = ~_identical(a, b)
        if not differ.any():
            return
        left, right = a[differ], b[differ]
        within = self._within(left, right)
        self._count += len(left)
        self._beyond += int((~within).sum())
        if self.first is None or (self.first[3] and not within.all()):
            # argmin finds the first False: a value that the tolerance does not cover, if there is
            # one.
            at = int(np.argmin(within))
            index = tuple(int(positions[at]) for positions in np.nonzero(differ))
            place = (index[0] + start, *index[1:])
            self.first = (place, str(left[at]), str(right[at]), bool(within[at]))

    def _within(self, a: Any, b: Any) -> Any:  # noqa: ANN401
        if a.dtype.kind not in _TOLERANT:
            return np.zeros(len(a), dtype=bool)
        exact = np.clongdouble if a.dtype.kind == "c" else np.longdouble
        left, right = a.astype(exact), b.astype(exact)
        finite = np.isfinite(left) & np.isfinite(right)
        with np.errstate(all="ignore"):
            distance = np.abs(left - right)
            close = distance <= self._tolerance.atol + self._tolerance.rtol * np.abs(left)
        if finite.any():
            greatest = float(distance[finite].max())
            self._greatest = greatest if self._greatest is None else max(greatest, self._greatest)
        return finite & close

    def note(self, size: int) -> str:
        text = f"{self._count} of {size} values differ"
        if self._beyond and self._beyond != self._count:
            text += f", {self._beyond} beyond the tolerance"
        return text if self._greatest is None else f"{text}, the greatest by {self._greatest:.3g}"


def _identical(a: Any, b: Any) -> Any:  # noqa: ANN401
    kind = a.dtype.kind
    if kind == "c":
        return _identical(a.real, b.real) & _identical(a.imag, b.imag)
    if kind == "f":
        same = (a == b) & (np.signbit(a) == np.signbit(b))
        return same | (np.isnan(a) & np.isnan(b))
    if kind in "mM":
        return (a == b) | (np.isnat(a) & np.isnat(b))
    return a == b
