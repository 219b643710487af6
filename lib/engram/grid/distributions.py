"""Random values for parameters: distributions as a table of TOML writes them, and their draws.

Only the bits of random.Random are used, and each key has a stream of its own: the same seed gives
the same values under every version of Python, and adding a key changes no other.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.errors import ConfigError
from engram.overrides import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KINDS", "Distribution", "distribution", "is_kind", "stream"]

KINDS = ("uniform", "loguniform", "normal", "lognormal", "int", "logint", "choice")
WITH_STEP = ("uniform", "int")
EXAMPLE = "a distribution such as {uniform = [0.0, 1.0]}"
DIGITS = 12  # of the step, that a value counted in steps is exact to: 0.1 + 2 * 0.1 is 0.3


class Distribution(NamedTuple):
    """What values a parameter may take, and how likely each is."""

    kind: str  # one of KINDS
    values: tuple[Any, ...]  # bounds, both included; or mean and deviation; or the choices
    step: float | None = None

    def draw(self, source: random.Random) -> Any:  # noqa: ANN401
        """One value."""
        if self.kind == "choice":
            return self.values[_below(source, len(self.values))]
        first, second = self.values
        if self.kind in ("normal", "lognormal"):
            value = first + second * _normal(source)
            return math.exp(value) if self.kind == "lognormal" else value
        if self.step is not None:
            return _stepped(first, second, self.step, source)
        if self.kind == "int":
            return first + _below(source, second - first + 1)
        share = source.random()
        if self.kind == "uniform":
            return _between(first, first * (1.0 - share) + second * share, second)
        top = second + 1 if self.kind == "logint" else second
        value = math.exp(math.log(first) * (1.0 - share) + math.log(top) * share)
        return _between(first, int(value) if self.kind == "logint" else value, second)


def is_kind(name: str) -> bool:
    """Whether a key names a kind of distribution, or nearly."""
    import difflib

    return name == "step" or bool(difflib.get_close_matches(name, KINDS, n=1, cutoff=0.75))


def stream(seed: int, key: str) -> random.Random:
    """The random numbers of one key."""
    return random.Random(f"{seed}/{key}")


def _below(source: random.Random, number: int) -> int:
    """A whole number from 0 to number - 1; 64 bits more than needed make all equally likely."""
    bits = number.bit_length() + 64
    return source.getrandbits(bits) * number >> bits


def _normal(source: random.Random) -> float:
    """A draw from the standard normal distribution, by Box and Muller."""
    radius = math.sqrt(-2.0 * math.log(1.0 - source.random()))
    return radius * math.cos(2.0 * math.pi * source.random())


def _stepped(first: float, last: float, step: float, source: random.Random) -> float:
    """One of first, first + step, ..., none above last."""
    if isinstance(first, int):
        return first + _below(source, int((last - first) // step) + 1) * step
    number = _below(source, int((last - first) / step * (1 + 1e-9)) + 1)
    decimals = DIGITS - math.floor(math.log10(step))
    return min(round(first + number * step, decimals) + 0.0, last)  # + 0.0: no negative zero


def _between(least: Any, value: Any, most: Any) -> Any:  # noqa: ANN401
    return min(max(value, least), most)


def distribution(table: object, where: str) -> Distribution:
    """Read a distribution.

    Args:
        table: such as {"uniform": [0.0, 1.0]}, {"int": [1, 9], "step": 2} or {"choice": ["a"]}.
        where: the key and its file, for messages.

    Raises:
        ConfigError: it is none; the message says what would fit.
    """
    if not isinstance(table, dict):
        msg = f"{where} is {table!r}: expected {EXAMPLE}"
        raise ConfigError(msg)
    kinds = [name for name in table if name in KINDS]
    unknown = [name for name in table if name not in (*KINDS, "step")]
    if unknown or len(kinds) != 1:
        near = suggestion(unknown[0], [*KINDS, "step"]) if unknown else ""
        msg = (
            f"{where} is {table!r}: expected one of {', '.join(KINDS)}, as in {{uniform = [0, 1]}}"
        )
        raise ConfigError(msg + near)
    kind = kinds[0]
    found = Distribution(kind, _values(kind, table[kind], where), table.get("step"))
    return found if found.step is None else _with_step(found, where)


def _values(kind: str, given: object, where: str) -> tuple[Any, ...]:
    if not isinstance(given, list) or not given:
        msg = f"{where}: {kind!r} is {given!r}: expected a list"
        raise ConfigError(msg)
    if kind == "choice":
        return tuple(given)
    whole = kind in ("int", "logint")
    if len(given) != 2 or not all(_is_number(value, whole=whole) for value in given):
        wanted = "whole numbers" if whole else "numbers"
        msg = f"{where}: {kind!r} is {given!r}: expected two {wanted}"
        raise ConfigError(msg)
    problem = next(_problems(kind, given[0], given[1]), None)
    if problem is not None:
        msg = f"{where}: {kind!r} is {given!r}: {problem}"
        raise ConfigError(msg)
    return tuple(given) if whole else tuple(map(float, given))


def _problems(kind: str, first: float, second: float) -> Iterator[str]:
    """What is wrong with two numbers."""
    if kind in ("normal", "lognormal"):
        if second < 0:
            yield "the second number is the standard deviation, 0 or larger"
        # Box and Muller's largest draw is below 9 deviations.
        if kind == "lognormal" and first + 9 * second > math.log(1.7e308):
            yield "mean and deviation are those of the logarithm: these lead beyond any float"
        return
    if first > second:
        yield "the first number is the smaller one"
    if kind == "loguniform" and first <= 0:
        yield "logarithms need bounds above 0"
    if kind == "logint" and first < 1:
        yield "logarithms need bounds of 1 or more"


def _with_step(found: Distribution, where: str) -> Distribution:
    step = found.step
    if found.kind not in WITH_STEP:
        msg = f"{where}: 'step' fits {' and '.join(WITH_STEP)} only, not {found.kind!r}"
        raise ConfigError(msg)
    if not _is_number(step, whole=found.kind == "int") or not step or step < 0:
        what = "a whole number above 0" if found.kind == "int" else "a number above 0"
        msg = f"{where}: 'step' is {step!r}: expected {what}"
        raise ConfigError(msg)
    return found


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)
