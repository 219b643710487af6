"""Means of what was measured since the last look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class WindowMean:
    """Means over the values added since `clear`, by name; saved in checkpoints.

    A resumed run has the same sums, so that its next line of metrics is that of an uninterrupted
    one, whatever the intervals of logging, updating and saving.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value to each name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each name, over the values that it was given."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def take(self) -> dict[str, float]:
        """Return the means and begin anew."""
        means = self.means()
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over sums and counts."""
        self._sums, self._counts = dict(state_dict["sums"]), dict(state_dict["counts"])
