"""The space of a search as optuna knows it, and the way between its values and ours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.grid.distributions import DIGITS
from engram.grid.values import dotted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import BaseDistribution, CategoricalChoiceType

    from engram.grid.distributions import Distribution
    from engram.grid.table import Key

__all__ = ["Axis", "axes"]


class Axis(NamedTuple):
    """One key of a space."""

    key: Key
    label: str  # of optuna's parameter
    distribution: BaseDistribution
    size: float  # how many values there are
    first: Any  # of a range
    step: float | None  # of a range that is not continuous
    choices: tuple[Any, ...] = ()
    by_place: bool = False  # optuna knows the choices by number: they are none that it can hold

    def outward(self, inner: Any) -> Any:  # noqa: ANN401
        """The value of the parameter for a value of optuna's."""
        if self.by_place:
            return self.choices[inner]
        if isinstance(inner, float) and self.step is not None:
            return float(f"{inner:.{DIGITS}g}")
        return inner

    def inward(self, value: Any) -> Any:  # noqa: ANN401
        """The value of optuna's for a value of the parameter.

        Raises:
            ValueError: it is none of the choices.
        """
        return self.choices.index(value) if self.by_place else value

    def inner_values(self) -> Sequence[Any]:
        """All of optuna's values, where they can be counted."""
        if self.choices:
            return range(len(self.choices)) if self.by_place else self.choices
        step = self.step or 0
        return [self.first + number * step for number in range(int(self.size))]


def axes(space: Mapping[Key, Distribution]) -> list[Axis]:
    """The axes of a space, in its order; imports optuna."""
    return [_axis(key, one) for key, one in space.items()]


def _axis(key: Key, one: Distribution) -> Axis:
    from optuna.distributions import FloatDistribution, IntDistribution

    label = dotted(key.path)
    if one.kind == "choice":
        return _choice(key, label, one.values)
    first, last = one.values
    log = one.kind.startswith("log")
    if one.kind.endswith("int"):
        step = int(one.step or 1)
        number = (last - first) // step + 1
        inner = IntDistribution(first, first + (number - 1) * step, log=log, step=step)
        return Axis(key, label, inner, number, first, step)
    if one.step is None:
        size = math.inf if last > first else 1
        return Axis(key, label, FloatDistribution(first, last, log=log), size, first, None)
    number = int((last - first) / one.step * (1 + 1e-9)) + 1
    last = float(f"{first + (number - 1) * one.step:.{DIGITS}g}")
    stepped = FloatDistribution(first, last, step=one.step)
    return Axis(key, label, stepped, number, first, one.step)


def _choice(key: Key, label: str, values: tuple[Any, ...]) -> Axis:
    from optuna.distributions import CategoricalDistribution

    kinds = (bool, int, float, str)
    unlike = all(one != other for at, one in enumerate(values) for other in values[:at])
    holds = unlike and all(type(value) in kinds and value == value for value in values)  # noqa: PLR0124
    choices: Sequence[CategoricalChoiceType] = values if holds else range(len(values))
    size = len({repr(value) for value in values})
    inner = CategoricalDistribution(choices)
    return Axis(key, label, inner, size, None, None, values, by_place=not holds)
