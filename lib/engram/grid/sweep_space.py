"""The space of a sweep as W&B knows it, and the way back from its values to ours."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError
from engram.grid.distributions import DIGITS
from engram.grid.values import dotted

if TYPE_CHECKING:
    from engram.grid.distributions import Distribution
    from engram.grid.sweep_table import SweepConfig

__all__ = ["as_yaml", "configuration", "countable", "label", "outward"]

MOST_VALUES = 10_000  # of a range that is counted
SCALARS = (bool, int, float, str)
DISTRIBUTIONS = {
    "int": "int_uniform",
    "uniform": "uniform",
    "loguniform": "log_uniform_values",
}


def label(path: tuple[str, ...]) -> str:
    """What W&B calls a parameter."""
    return dotted(path)


def countable(one: Distribution) -> list[Any] | None:
    """All values of a distribution, in order; None where there is no end of them."""
    if one.kind == "choice":
        return list(one.values)
    first, last = one.values
    if one.kind in ("int", "logint"):
        found = range(first, last + 1, int(one.step or 1))
        return list(found) if len(found) <= MOST_VALUES else None
    if first == last:
        return [first]
    if one.step is None:
        return None
    number = int((last - first) / one.step * (1 + 1e-9)) + 1
    if number > MOST_VALUES:
        return None
    return [min(float(f"{first + place * one.step:.{DIGITS}g}"), last) for place in range(number)]


def parameter(one: Distribution, *, grid: bool) -> dict[str, Any]:
    """What a distribution is in a sweep's configuration.

    Args:
        one: the distribution.
        grid: whether the sweep goes through all of its values.
    """
    values = countable(one) if grid or one.step is not None or one.kind == "choice" else None
    if values is not None:
        return {"values": [_inward(value) for value in values]}
    low, high = one.values
    bounds = {"min": low, "max": high}
    if one.kind == "logint":
        return {"distribution": "q_log_uniform_values", **bounds, "q": 1}
    return {"distribution": DISTRIBUTIONS[one.kind], **bounds}


def _inward(value: Any) -> Any:  # noqa: ANN401
    """A choice as W&B holds it: a list or a table is text there."""
    return value if type(value) in SCALARS else json.dumps(value, sort_keys=True, default=str)


def configuration(
    found: SweepConfig, *, name: str, script: str, description: str
) -> dict[str, Any]:
    """The configuration of a sweep, as W&B's pages and agents read it.

    Args:
        found: what the [grid] table says.
        name: of the experiment.
        script: of the experiment; W&B shows it as the program.
        description: kept in the configuration, where the page cannot change it.
    """
    made: dict[str, Any] = {
        "name": name,
        "description": description,
        "program": script,
        "method": found.method,
    }
    if found.metric is not None:
        made["metric"] = {"name": found.metric, "goal": found.direction}
    if found.method != "grid":
        made["run_cap"] = found.trials
    grid = found.method == "grid"
    space = found.space.items()
    made["parameters"] = {label(key.path): parameter(one, grid=grid) for key, one in space}
    return made


def outward(one: Distribution, value: Any, key: str) -> Any:  # noqa: ANN401
    """The value of a parameter for what the server gave.

    Args:
        one: what it may be.
        value: from the server.
        key: of the parameter, for the message.

    Raises:
        ConfigError: it may not be this.
    """
    if one.kind == "choice":
        for choice in one.values:
            held = _inward(choice)
            if held == value and isinstance(held, bool) == isinstance(value, bool):
                return choice
    elif not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
        low, high = one.values
        kept = _on_step(one, value)
        if low <= kept <= high:
            return kept
    msg = f"W&B gave {key} = {value!r}, which [grid] does not know: is the sweep another one's?"
    raise ConfigError(msg)


def _on_step(one: Distribution, value: float) -> float:
    """The value of a range that is nearest to what the server gave."""
    low = one.values[0]
    if one.kind in ("int", "logint"):
        step = int(one.step or 1)
        return int(low + round((value - low) / step) * step)
    if one.step is None:
        return float(value)
    return float(f"{low + round((value - low) / one.step) * one.step:.{DIGITS}g}")


def as_yaml(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    """Write a value as YAML that every version reads alike: JSON whose floats have a point."""
    if isinstance(value, dict):
        inside = (
            f"{json.dumps(key, ensure_ascii=False)}: {as_yaml(item)}" for key, item in value.items()
        )
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text
